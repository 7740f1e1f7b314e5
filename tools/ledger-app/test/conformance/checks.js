// What a ledger is to Keyfold, over HTTP: [name, check(api)]. Every ledger passes all of them.

import assert from "node:assert/strict";
import { claimDigest, verifyReceipt } from "../receipt.js";
import { random, refused } from "./api.js";
import { MALFORMED } from "./malformed.js";

const ZEROS = "0".repeat(64);
const RACERS = 20;

export const CHECKS = [
  ["a tag starts at version 1 and goes on by one", async (api) => {
    const [tag, first, second] = [random(), random(), random()];
    assert.deepEqual(await api.current(tag), { version: 0, digest: null, transactionId: null });
    let transactionId = await api.appended(tag, 1, first);
    assert.deepEqual(await api.current(tag), { version: 1, digest: first, transactionId });
    transactionId = await api.appended(tag, 2, second);
    assert.deepEqual(await api.current(tag), { version: 2, digest: second, transactionId });
    await api.appended(random(), 1, first);
    assert.equal((await api.current(tag)).version, 2, "another tag is another count");
  }],

  ["a gap is refused, and says where the tag stands", async (api) => {
    const tag = random();
    conflict(await api.append(tag, 2, random()), 0, null);
    const digest = random();
    await api.appended(tag, 1, digest);
    conflict(await api.append(tag, 3, random()), 1, digest);
    conflict(await api.append(tag, Number.MAX_SAFE_INTEGER, random()), 1, digest);
    assert.equal((await api.current(tag)).version, 1);
  }],

  ["a version is written once", async (api) => {
    const [tag, first, second] = [random(), random(), random()];
    await api.appended(tag, 1, first);
    conflict(await api.append(tag, 1, random()), 1, first);
    await api.appended(tag, 2, second);
    conflict(await api.append(tag, 1, random()), 2, second);
    conflict(await api.append(tag, 1, first), 2, second);
    // The digest of the current entry at another version is another append.
    await api.appended(tag, 3, second);
  }],

  ["the current append again is answered with its own transaction", async (api) => {
    const [tag, digest] = [random(), random()];
    const original = await api.appended(tag, 1, digest);
    assert.equal(await api.appended(tag, 1, digest), original);
    await api.appended(random(), 1, random());
    await api.read(tag, random());
    assert.equal(await api.appended(tag, 1, digest), original);
    await proven(api, original, { kind: 1, tag, version: 1, digest });
    assert.equal(await api.appended(tag, 1, digest), original, "also once it is committed");
  }],

  ["of many different appends at once one wins", async (api) => {
    const tag = random();
    for (let version = 1; version <= 3; version++) {
      const racers = Array.from({ length: RACERS }, () => api.append(tag, version, random()));
      const answers = await Promise.all(racers);
      const [winner, ...others] = answers.filter(({ status }) => status === 200);
      assert.ok(winner !== undefined && others.length === 0, "one winner");
      const losers = answers.filter((answer) => answer !== winner);
      losers.forEach((loser) => conflict(loser, version, winner.json.digest));
    }
  }],

  ["the same append many times at once is one", async (api) => {
    const [tag, digest] = [random(), random()];
    const racers = Array.from({ length: RACERS }, () => api.appended(tag, 1, digest));
    assert.equal(new Set(await Promise.all(racers)).size, 1);
  }],

  ["an append's receipt claims that append, and nothing else", async (api) => {
    const [tag, digest] = [random(), random()];
    await api.appended(tag, 1, random());
    const transaction = await api.appended(tag, 2, digest);
    const claim = { kind: 1, tag, version: 2, digest };
    const bytes = await proven(api, transaction, claim);
    const key = await api.key();
    for (const other of [{ kind: 2 }, { tag: random() }, { version: 1 }, { digest: random() }, { nonce: random() }]) {
      assert.throws(() => verifyReceipt(bytes, key, claimDigest({ ...claim, ...other })), /the claim/);
    }
    const again = await api.receiptInTheEnd(transaction);
    assert.deepEqual(again.bytes, bytes, "the same transaction has the same receipt");
  }],

  ["a read's receipt claims where the tag stood, with the nonce", async (api) => {
    const [tag, digest, nonce] = [random(), random(), random()];
    await api.appended(tag, 1, digest);
    const { transactionId, ...read } = await api.read(tag, nonce);
    assert.deepEqual(read, { version: 1, digest });
    await api.appended(tag, 2, random());
    await proven(api, transactionId, { kind: 2, tag, version: 1, digest, nonce });
    const again = await api.read(tag, nonce);
    assert.notEqual(again.transactionId, transactionId, "each read is a transaction");
    assert.equal(again.version, 2);
  }],

  ["an unknown tag can be read, with a receipt", async (api) => {
    const [tag, nonce] = [random(), random()];
    const { transactionId, ...read } = await api.read(tag, nonce);
    assert.deepEqual(read, { version: 0, digest: ZEROS });
    await proven(api, transactionId, { kind: 2, tag, version: 0, digest: ZEROS, nonce });
    assert.equal((await api.current(tag)).version, 0, "reading writes no version");
    await api.appended(tag, 1, random());
  }],

  ["receipts of many transactions hold, wherever they lie in the tree", async (api) => {
    const tag = random();
    const entries = [];
    for (let version = 1; version <= 12; version++) {
      const digest = random();
      entries.push({ kind: 1, tag, version, digest, transaction: await api.appended(tag, version, digest) });
    }
    const proofs = entries.map(({ transaction, ...claim }) => proven(api, transaction, claim));
    await Promise.all(proofs);
  }],

  ["there is no receipt of a transaction that is not the application's", async (api) => {
    const transaction = await api.appended(random(), 1, random());
    const [view, seqno] = transaction.split(".").map(Number);
    assert.equal((await api.receiptInTheEnd(transaction)).status, 200);
    refused(await api.receiptInTheEnd(`${view}.999999999`), 404, "TransactionPendingOrUnknown");
    refused(await api.receiptInTheEnd(`${view - 1}.${seqno}`), 404, "TransactionInvalid");
    refused(await api.receiptInTheEnd(`${view}.0`), 404, "TransactionInvalid");
    refused(await api.receiptInTheEnd("2.1"), 404, "TransactionInvalid");
  }],

  ["what is malformed is refused, and writes nothing", async (api) => {
    const tag = random();
    for (const [why, path, body] of MALFORMED.bodies(tag, random())) {
      const answer = await api.post(path, body);
      assert.equal(answer.status, 400, `${why}: ${answer.status} ${answer.bytes}`);
      refused(answer, 400, "InvalidInput");
    }
    for (const [query, code] of MALFORMED.queries(tag)) {
      const answer = await api.call("GET", query);
      assert.equal(answer.status, 400, `${query}: ${answer.status} ${answer.bytes}`);
      refused(answer, 400, code);
    }
    assert.equal((await api.current(tag)).version, 0);
  }],
];

/** The transaction's receipt, which must prove the claim. */
async function proven(api, transaction, claim) {
  const answer = await api.receiptInTheEnd(transaction);
  assert.equal(answer.status, 200, answer.bytes.toString());
  assert.equal(answer.headers["content-type"], "application/cose");
  const said = verifyReceipt(answer.bytes, await api.key(), claimDigest(claim));
  assert.equal(said.transaction, transaction);
  assert.equal(said.subject, "keyfold");
  assert.ok(said.issuer.length > 0);
  return answer.bytes;
}

function conflict(answer, version, digest) {
  refused(answer, 409, "VersionConflict");
  const { error, ...standing } = answer.json;
  assert.deepEqual(standing, { version, digest });
  assert.equal(answer.headers["x-ms-ccf-transaction-id"], undefined, "a refusal is no transaction");
}
