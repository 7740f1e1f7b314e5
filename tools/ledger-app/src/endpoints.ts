// Keyfold's ledger: a compare-and-set of account versions, and reads that their receipts prove fresh.
//
// Promises: a tag's version rises by exactly one per accepted append; an append that is already the
// tag's current entry is answered with the transaction that wrote it; each claim set names what the same
// transaction wrote. CCF runs a handler again when a transaction it depends on came first, so there
// is no state here outside the tables.
//
// A handler cannot know its own transaction: CCF names it after the handler has ended, in the
// header x-ms-ccf-transaction-id. "transactionId" is null there, and names the original on a repeat.

import { Refusal, endpoint } from "./answer.js";
import { Kind, ZEROS, setClaim } from "./claim.js";
import { appendOf, readOf, tagOf } from "./input.js";
import { standing, write, writeRead, writtenBy } from "./tags.js";

export { receipt } from "./receipt.js";

/** POST /append: moves a tag to its next version. */
export const append = endpoint((request) => {
  const entry = appendOf(request);
  const current = standing(entry.tag);
  const at = current?.version ?? 0;
  const { version, digest } = entry;
  if (current !== undefined && version === at && digest === current.digest) {
    return { body: { transactionId: writtenBy(entry.tag), version, digest } };
  }
  if (version !== at + 1) {
    const message = `the tag is at version ${at}: an append names the next one`;
    throw new Refusal(409, "VersionConflict", message, {
      version: at,
      digest: current?.digest ?? null,
    });
  }
  write(entry);
  setClaim(Kind.Append, entry.tag, version, digest, ZEROS);
  return { body: { transactionId: null, version, digest } };
});

/** POST /read: where a tag stands, with the asker's nonce in the receipt. */
export const read = endpoint((request) => {
  const question = readOf(request);
  const current = standing(question.tag) ?? { version: 0, digest: ZEROS };
  writeRead(question, current);
  setClaim(Kind.Read, question.tag, current.version, current.digest, question.nonce);
  return { body: { transactionId: null, version: current.version, digest: current.digest } };
});

/** GET /current: where a tag stands, without a receipt. */
export const current = endpoint((request) => {
  const tag = tagOf(request);
  const now = standing(tag);
  if (now === undefined) return { body: { version: 0, digest: null, transactionId: null } };
  return { body: { version: now.version, digest: now.digest, transactionId: writtenBy(tag) } };
});
