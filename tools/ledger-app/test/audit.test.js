// What audit.py finds in a ledger: nothing in an honest one, and each thing that breaks the promise.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { DIGESTS, deployed, started } from "./harness/deployment.js";
import { native } from "./harness/native.js";
import { identity } from "./harness/service.js";

const random = () => randomBytes(32).toString("hex");
const hex = (text) => Buffer.from(text).toString("hex");
const json = (value) => hex(JSON.stringify(value));
const HARNESS = fileURLToPath(new URL("audit_harness.py", import.meta.url));
const ONLY = "00".repeat(8);
const TAG = "ab".repeat(32);

/** {findings, report} of transactions. */
function audit(entries, digests = DIGESTS) {
  const plain = entries.map(({ writes, claims }, index) => ({
    seqno: index + 1,
    writes,
    claims: claims?.toString("hex") ?? null,
  }));
  const input = JSON.stringify({ entries: plain, digests });
  const { status, stdout, stderr } = spawnSync("python3", [HARNESS], { input, encoding: "utf8" });
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout);
}

let service;
let honest;

before(async () => {
  service = await deployed(native);
  const post = (path, body) => service.request({ method: "POST", path, body: JSON.stringify(body) });
  for (let version = 1; version <= 3; version++) post("/append", { tag: TAG, version, digest: random() });
  post("/append", { tag: random(), version: 1, digest: random() });
  for (const tag of [TAG, random()]) post("/read", { tag, nonce: random() });
  service.decide([{ name: "set_user", args: { cert: identity("a host").pem } }]);
  service.ledger.sign();
  honest = service.ledger.entries;
});

test("an honest ledger: the digests of the build, the members, and no finding", () => {
  const { findings, report } = audit(honest);
  assert.deepEqual(findings, []);
  for (const [name, digest] of Object.entries(DIGESTS)) assert.ok(report.includes(`${name}: ${digest}`));
  for (const member of service.members) assert.ok(report.includes(`member ${member}: Active`));
  assert.match(report, /opened at: 3\n/);
  assert.match(report, /2 tags, 4 appends, 2 reads/);
});

test("whatever is frozen is found if it is written after the opening", () => {
  const frozen =
    "constitution modules modules_quickjs_bytecode modules_quickjs_version endpoints js_runtime_options members.certs members.encryption_public_keys nodes.code_ids nodes.join_policy nodes.snp.host_data nodes.snp.measurements nodes.snp.tcb_versions nodes.snp.uvm_endorsements nodes.virtual.host_data nodes.virtual.measurements";
  for (const name of frozen.split(" ")) {
    const key = name === "constitution" ? ONLY : hex("x");
    const late = { writes: [[`public:ccf.gov.${name}`, key, json("x")]] };
    const { findings } = audit([...honest, late]);
    const expected = `transaction ${honest.length + 1}: ${name} was written after the opening`;
    assert.ok(findings.includes(expected), `${name}: ${findings}`);
  }
});

test("compiled code and unprotected nodes are found even if they came before", () => {
  for (const name of ["modules_quickjs_bytecode", "nodes.code_ids", "nodes.virtual.measurements", "nodes.virtual.host_data"]) {
    const early = { writes: [[`public:ccf.gov.${name}`, hex("x"), json("x")]] };
    assert.deepEqual(audit([honest[0], early, ...honest.slice(1)]).findings, [`${name} is not empty: see README.md`]);
  }
});

test("other code, or another constitution, than the expected is found", () => {
  for (const name of Object.keys(DIGESTS)) {
    const { findings } = audit(honest, { ...DIGESTS, [name]: "00".repeat(32) });
    assert.deepEqual(findings, [`the ${name} at the opening are ${DIGESTS[name]}, not ${"00".repeat(32)}`]);
  }
});

test("a ledger that goes on under another key is found", () => {
  const other = { cert: identity("CCF Service").pem, status: "Recovering" };
  const { findings } = audit([...honest, { writes: [["public:ccf.gov.service.info", ONLY, json(other)]] }]);
  assert.equal(findings.length, 1);
  assert.match(findings[0], /the service's key changed/);
});

test("a version that does not rise by one, and a claim of something else, are found", () => {
  const at = honest.findIndex(({ writes }) => writes[0][0] === "public:keyfold.tags");
  const change = (index, changed) => audit(honest.with(index, changed));
  const entry = honest[at];
  const [table, key, value] = entry.writes[0];
  const standing = JSON.parse(Buffer.from(value, "hex"));

  const skipped = { ...entry, writes: [[table, key, json({ ...standing, version: 2 })]] };
  assert.match(change(at, skipped).findings.join(), /went from version 0 to 2/);
  const digest = { ...entry, writes: [[table, key, json({ ...standing, digest: random() })]] };
  assert.match(change(at, digest).findings.join(), /an append of tag .* claims something else/);
  assert.match(change(at, { ...entry, claims: undefined }).findings.join(), /claims something else/);
  assert.match(audit([...honest, { writes: [[table, key, null]] }]).findings.join(), /was deleted/);

  const reading = honest.findIndex(({ writes }) => writes[0][0] === "public:keyfold.last_read");
  const [[reads, only, told]] = honest[reading].writes;
  const read = JSON.parse(Buffer.from(told, "hex"));
  const stale = { ...honest[reading], writes: [[reads, only, json({ ...read, version: 2 })]] };
  assert.match(change(reading, stale).findings.join(), /tells another standing.*claims something else/);
  const replayed = { ...honest[reading], writes: [[reads, only, json({ ...read, nonce: random() })]] };
  assert.match(change(reading, replayed).findings.join(), /a read of tag .* claims something else/);
});

test("a service that was never opened is no ledger", async () => {
  const { ledger } = await started(native);
  assert.deepEqual(audit(ledger.entries).findings, ["the service was never opened"]);
});
