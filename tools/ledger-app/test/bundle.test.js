// What is deployed: its digests are those on record, its text is what a node can run, and its metadata
// says who may call.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { CONSTITUTION, DIGESTS, INSTALL } from "./harness/deployment.js";

const { metadata, modules } = INSTALL[0].args.bundle;
const operations = Object.entries(metadata.endpoints).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, properties]) => ({ path, method, ...properties })),
);

test("the code and the constitution are the recorded ones", () => {
  const recorded = JSON.parse(readFileSync(new URL("../digests.json", import.meta.url), "utf8"));
  const how = "a change of what is deployed: review it, then npm run build && cp dist/digests.json .";
  assert.deepEqual(DIGESTS, recorded, how);
});

test("modules import nothing but each other, and are plain ASCII", () => {
  const names = modules.map(({ name }) => `./${name}`);
  for (const { name, module } of modules) {
    for (const [, from] of module.matchAll(/\bfrom "([^"]+)"/g)) {
      assert.ok(names.includes(from), `${name} imports ${from}`);
    }
    assert.match(module, /^[\t\n\x20-\x7e]*$/, name);
    assert.doesNotMatch(module, /\bimport\(/, name);
  }
  assert.match(CONSTITUTION, /^[\n\x20-\x7e]*$/);
});

test("each route asks for the host's certificate and runs on the primary", () => {
  assert.deepEqual(
    operations.map(({ path, method, mode }) => `${method} ${path} ${mode}`),
    ["post /append readwrite", "post /read readwrite", "get /current readonly", "get /receipt readonly"],
  );
  for (const { authn_policies, forwarding_required } of operations) {
    assert.deepEqual(authn_policies, ["user_cert"]);
    assert.equal(forwarding_required, "always");
  }
});

test("every module of metadata exists and exports its function", () => {
  for (const { js_module, js_function } of operations) {
    const { module } = modules.find(({ name }) => name === js_module);
    assert.match(module, new RegExp(`export (const|\\{) ${js_function}\\b`));
  }
});
