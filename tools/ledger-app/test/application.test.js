// The application where HTTP does not reach: run again on a conflict, across a change of view, against a
// node that has not caught up, and what it leaves in the tables and in the claims.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { beforeEach, describe, test } from "node:test";
import { claimDigest, verifyReceipt } from "./receipt.js";
import { INSTALL, deployed } from "./harness/deployment.js";
import { ENGINES } from "./harness/engines.js";

const random = () => randomBytes(32).toString("hex");
const TAG = "ab".repeat(32);
const ZEROS = "0".repeat(64);
const { endpoints } = INSTALL[0].args.bundle.metadata;

for (const engine of ENGINES) describe(`in ${engine.name}`, () => {
  let service;
  beforeEach(async () => (service = await deployed(engine)));

  /** An answer, of a status that the OpenAPI text documents, as JSON if it is. */
  function ask(method, path, { query, body } = {}) {
    const text = typeof body === "object" ? JSON.stringify(body) : body;
    const answer = service.request({ method, path, query, body: text });
    const { responses } = endpoints[path][method.toLowerCase()].openapi;
    assert.ok(String(answer.status) in responses, `${path} documents no ${answer.status}: ${answer.body}`);
    const isJson = answer.headers["content-type"] === "application/json";
    return isJson ? { ...answer, json: JSON.parse(answer.body) } : answer;
  }
  const append = (version, digest, tag = TAG) => ask("POST", "/append", { body: { tag, version, digest } });
  const read = (nonce, tag = TAG) => ask("POST", "/read", { body: { tag, nonce } });
  const current = () => ask("GET", "/current", { query: `tag=${TAG}` });
  const receipt = (id) => ask("GET", "/receipt", { query: `transaction_id=${id}` });
  const named = (answer) => answer.headers["x-ms-ccf-transaction-id"];
  /** The answer once what it needs was fetched; fails if it is "not yet" for ever. */
  function fetched(id) {
    for (let poll = 0; poll < 10; poll++) {
      const answer = receipt(id);
      if (answer.status !== 202) return answer;
      assert.equal(answer.headers["retry-after"], "1");
    }
    throw new Error(`${id} is never fetched`);
  }

  test("a fresh write names no transaction it cannot know; a repeat names the original", () => {
    const digest = random();
    const first = append(1, digest);
    assert.equal(first.json.transactionId, null);
    assert.equal(append(1, digest).json.transactionId, named(first));
    assert.equal(current().json.transactionId, named(first));
    assert.equal(read(random()).json.transactionId, null);
  });

  test("of two appends that ran on the same state, the later is run again and loses", () => {
    const [mine, theirs] = [random(), random()];
    service.meanwhile = () => assert.equal(append(1, theirs).status, 200);
    const answer = append(1, mine);
    assert.equal(answer.status, 409);
    assert.deepEqual([answer.json.version, answer.json.digest], [1, theirs]);
    assert.equal(current().json.digest, theirs);
  });

  test("the same append while it is under way is answered with the other's transaction", () => {
    const digest = random();
    let first;
    service.meanwhile = () => (first = append(1, digest));
    assert.equal(append(1, digest).json.transactionId, named(first));
    assert.equal(service.ledger.last, Number(named(first).split(".")[1]), "written once");
  });

  test("a read that an append overtakes is run again and tells the new version", () => {
    const [nonce, digest] = [random(), random()];
    service.meanwhile = () => append(1, digest);
    const answer = read(nonce);
    assert.deepEqual([answer.json.version, answer.json.digest], [1, digest]);
    service.ledger.sign();
    const claim = claimDigest({ kind: 2, tag: TAG, version: 1, digest, nonce });
    verifyReceipt(fetched(named(answer)).body, service.ledger.publicKey, claim);
  });

  test("what is refused or only read leaves no transaction", () => {
    append(1, random());
    const { last } = service.ledger;
    append(3, random());
    append(1, random());
    current();
    receipt("2.1");
    ask("POST", "/append", { body: "{" });
    assert.equal(service.ledger.last, last);
  });

  test("an append and a read write what their claims say, in tables an auditor can read", () => {
    const [digest, nonce] = [random(), random()];
    const json = (hex) => JSON.parse(Buffer.from(hex, "hex").toString());
    const key = Buffer.from(TAG).toString("hex");
    append(1, digest);
    const [[table, at, value], ...more] = service.ledger.entries.at(-1).writes;
    assert.deepEqual([table, at, more], ["public:keyfold.tags", key, []]);
    assert.deepEqual(json(value), { version: 1, digest });
    const claim = { kind: 1, tag: TAG, version: 1, digest, nonce: ZEROS };
    assert.deepEqual(service.ledger.entries.at(-1).claims, claimDigest(claim));

    read(nonce);
    const [[reads, only, last], ...others] = service.ledger.entries.at(-1).writes;
    assert.deepEqual([reads, only, others], ["public:keyfold.last_read", "00".repeat(8), []]);
    assert.deepEqual(json(last), { tag: TAG, version: 1, digest, nonce });
    assert.deepEqual(service.ledger.entries.at(-1).claims, claimDigest({ ...claim, kind: 2, nonce }));
  });

  test("large versions are claimed exactly", () => {
    const digest = random();
    const key = Buffer.from(TAG).toString("hex");
    for (const version of [255, 256, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1]) {
      const before = Buffer.from(JSON.stringify({ version: version - 1, digest })).toString("hex");
      service.store.apply([["public:keyfold.tags", key, before]], service.ledger.last);
      assert.equal(append(version, digest).status, 200);
      const expected = claimDigest({ kind: 1, tag: TAG, version, digest });
      assert.deepEqual(service.ledger.entries.at(-1).claims, expected, `version ${version}`);
    }
    assert.equal(append(2 ** 53 - 1, random()).status, 409, "there is no version after the last");
  });

  test("an append lost with its primary can be made again, and the lost one has no receipt", () => {
    const [digest, other] = [random(), random()];
    append(1, digest);
    service.ledger.sign();
    const lost = named(append(2, other));
    assert.equal(receipt(lost).status, 202, "not committed yet");
    service.changeView();
    assert.equal(receipt(lost).json.error.code, "TransactionPendingOrUnknown");
    assert.deepEqual([current().json.version, current().json.digest], [1, digest]);
    const again = append(2, other);
    assert.equal(named(again), lost.replace("2.", "3."));
    service.ledger.sign();
    assert.equal(receipt(lost).json.error.code, "TransactionInvalid");
    const claim = claimDigest({ kind: 1, tag: TAG, version: 2, digest: other });
    verifyReceipt(fetched(named(again)).body, service.ledger.publicKey, claim);
    assert.equal(append(2, other).json.transactionId, named(again));
  });

  test("a node that does not know a view says so instead of guessing one", () => {
    const digest = random();
    append(1, digest);
    service.viewOf = () => undefined;
    for (const answer of [append(1, digest), current()]) {
      assert.equal(answer.status, 503);
      assert.equal(answer.json.error.code, "ViewUnknown");
    }
  });

  test("a receipt is found wherever the next signature is", () => {
    for (const between of [0, 1, 62, 63, 64, 130]) {
      const [tag, digest] = [random(), random()];
      const transaction = named(append(1, digest, tag));
      for (let other = 0; other < between; other++) read(random(), random());
      service.ledger.sign();
      for (let later = 0; later < 3; later++) read(random(), random());
      service.ledger.sign();
      const answer = fetched(transaction);
      assert.equal(answer.status, 200);
      const claim = claimDigest({ kind: 1, tag, version: 1, digest });
      const said = verifyReceipt(answer.body, service.ledger.publicKey, claim);
      assert.equal(said.transaction, transaction, `${between} transactions before the signature`);
    }
    assert.equal(service.historical.largest, 64, "fetched at once");
  });

  test("a receipt carries the issuer and subject of the service, however long", async () => {
    for (const issuer of ["i", "https://ledger.test/".padEnd(400, "x")]) {
      service = await deployed(engine, { issuer });
      const digest = random();
      const transaction = named(append(1, digest));
      service.ledger.sign();
      const claim = claimDigest({ kind: 1, tag: TAG, version: 1, digest });
      const said = verifyReceipt(fetched(transaction).body, service.ledger.publicKey, claim);
      assert.deepEqual([said.issuer, said.subject], [issuer, "keyfold"]);
    }
  });

  test("signatures and governance have no receipt", () => {
    const { entries } = service.ledger;
    assert.ok(entries.length > 3);
    for (const { view, seqno } of [...entries]) {
      const answer = fetched(`${view}.${seqno}`);
      assert.equal(answer.status, 404);
      assert.equal(answer.json.error.code, "TransactionInvalid", `${view}.${seqno}`);
    }
  });

  test("a signature without COSE, or of another form, is an error and no receipt", () => {
    const damage = {
      "no entry": () => [],
      "no base64": () => JSON.stringify("%%"),
      "no JSON string": () => JSON.stringify({}),
      "not quite base64": (cose) => JSON.stringify(`${cose.toString("base64").slice(0, -4)}%%%%`),
      "another tag": (cose) => base64(Buffer.concat([Buffer.from([0xd3]), cose.subarray(1)])),
      "not tagged": (cose) => base64(cose.subarray(1)),
      "no map of headers": (cose) => base64(Buffer.from(cose.toString("hex").replace("a0f65860", "80f65860"), "hex")),
      "other headers": (cose) => base64(Buffer.from(cose.toString("hex").replace("a0f65860", "a10102f65860"), "hex")),
      "a payload": (cose) => base64(Buffer.from(cose.toString("hex").replace("a0f65860", "a0415860"), "hex")),
    };
    const base64 = (bytes) => JSON.stringify(bytes.toString("base64"));
    for (const [what, make] of Object.entries(damage)) {
      const transaction = named(append(1, random(), random()));
      const signature = service.ledger.sign();
      const [[table, key, value]] = signature.writes;
      const cose = Buffer.from(JSON.parse(Buffer.from(value, "hex").toString()), "base64");
      const changed = make(cose);
      signature.writes = changed.length === 0 ? [] : [[table, key, Buffer.from(changed).toString("hex")]];
      const query = `transaction_id=${transaction}`;
      const request = { method: "GET", path: "/receipt", query };
      assert.equal(service.request(request).status, 202);
      assert.equal(service.request(request).status, 500, what);
    }
  });

  test("what is no endpoint is CCF's to answer", () => {
    assert.equal(service.request({ method: "GET", path: "/append" }).status, 405);
    assert.equal(service.request({ method: "GET", path: "/endpoints" }).status, 404);
  });
});
