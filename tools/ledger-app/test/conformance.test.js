// The one set of checks, against this application in each engine and against the dev cloud's ledger.
//
// The dev cloud is checked if KEYFOLD_DEV_CLOUD is the path of the built keyfold-dev-cloud.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { Api } from "./conformance/api.js";
import { CHECKS } from "./conformance/checks.js";
import { deployed } from "./harness/deployment.js";
import { ENGINES } from "./harness/engines.js";
import { serve } from "./harness/server.js";

/** Runs the checks against what `start` gives: {url, close}. */
function conforms(start) {
  let ledger;
  before(async () => (ledger = await start()));
  after(() => ledger.close());
  for (const [name, check] of CHECKS) test(name, () => check(new Api(ledger.url)));
}

for (const engine of ENGINES) {
  describe(`the application in ${engine.name}`, () => {
    conforms(async () => serve(await deployed(engine)));
  });
}

const program = process.env.KEYFOLD_DEV_CLOUD;
const skip = program ? false : "KEYFOLD_DEV_CLOUD is not set: the dev cloud was NOT checked";
if (skip) console.error(`\n*** ${skip}\n`);
describe("the dev cloud's ledger", { skip }, () => conforms(devCloud));

async function devCloud() {
  const folder = mkdtempSync(join(tmpdir(), "keyfold-dev-cloud-"));
  const cache = process.env.KEYFOLD_DEV_CLOUD_KEYS;
  const keys = cache === undefined ? [] : ["--key-cache", cache];
  const stdio = ["ignore", "pipe", "inherit"];
  const child = spawn(program, ["--dir", folder, "--json", ...keys], { stdio });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const line = new Promise((resolve) => createInterface(child.stdout).once("line", resolve));
  const failed = new Promise((_, reject) => child.once("error", reject));
  const early = ended.then((code) => Promise.reject(new Error(`the dev cloud ended with ${code}`)));
  early.catch(() => {});
  const { ledger } = JSON.parse(await Promise.race([line, early, failed]));
  const close = async () => {
    child.kill();
    await ended;
    rmSync(folder, { recursive: true });
  };
  return { url: ledger.url, close };
}
