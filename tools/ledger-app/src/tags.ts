// Where each tag stands, in public tables: an auditor replays them from the ledger's files.

import { Refusal } from "./answer.js";
import type { Append, Hex32, Read } from "./input.js";

/** A tag's version and the digest of that version. */
export interface Standing {
  version: number;
  digest: Hex32;
}

/** Tag, in hexadecimal, to its standing, in JSON. */
const TAGS = "public:keyfold.tags";
/** The last read alone: what matters is that the ledger keeps each one. */
const LAST_READ = "public:keyfold.last_read";

/** Where the tag stands; undefined: it was never written. */
export function standing(tag: Hex32): Standing | undefined {
  const value = ccf.kv[TAGS]!.get(ccf.strToBuf(tag));
  return value === undefined ? undefined : ccf.bufToJsonCompatible(value);
}

/** The transaction that last wrote the tag. */
export function writtenBy(tag: Hex32): string {
  const seqno = ccf.kv[TAGS]!.getVersionOfPreviousWrite(ccf.strToBuf(tag));
  const view = seqno === undefined ? null : ccf.consensus.getViewForSeqno(seqno);
  if (view === null) {
    throw new Refusal(503, "ViewUnknown", "this node does not know the transaction yet: ask again");
  }
  return `${view}.${seqno}`;
}

/** Makes this the tag's standing. */
export function write({ tag, version, digest }: Append): void {
  ccf.kv[TAGS]!.set(ccf.strToBuf(tag), ccf.jsonCompatibleToBuf({ version, digest }));
}

/** Writes what was read and the reader's nonce: only a transaction that writes has a receipt. */
export function writeRead({ tag, nonce }: Read, { version, digest }: Standing): void {
  const read = { tag, version, digest, nonce };
  ccf.kv[LAST_READ]!.set(new ArrayBuffer(8), ccf.jsonCompatibleToBuf(read));
}
