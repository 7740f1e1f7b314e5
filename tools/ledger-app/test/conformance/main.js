// Checks a running ledger: npm run conformance -- URL [--cert PEM --key PEM] [--ca PEM]
//
// It writes a few tags that nobody else uses. TLS files: the host's certificate and key, and the
// service's certificate, where the ledger asks for them.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Api } from "./api.js";
import { CHECKS } from "./checks.js";

const file = { type: "string" };
const { values, positionals } = parseArgs({
  options: { cert: file, key: file, ca: file },
  allowPositionals: true,
});
if (positionals.length !== 1) {
  console.error("usage: npm run conformance -- URL [--cert PEM --key PEM] [--ca PEM]");
  process.exit(2);
}
const tls = Object.entries(values).map(([name, path]) => [name, readFileSync(path)]);
const api = new Api(positionals[0], Object.fromEntries(tls));
let failed = 0;
for (const [name, check] of CHECKS) {
  try {
    await check(api);
    console.log(`ok      ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n        ${error.message.replaceAll("\n", "\n        ")}`);
  }
}
console.log(`${CHECKS.length - failed} of ${CHECKS.length} hold`);
process.exit(failed === 0 ? 0 : 1);
