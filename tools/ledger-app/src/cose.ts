// A COSE receipt (RFC 9942) of CCF's ledger (vds 2): the service's signature of a root, with the proof that a
// leaf lies under that root in its unprotected header.

import type { Proof } from "@microsoft/ccf-app/global.js";
import { concat, fromHex, fromText } from "./bytes.js";

/** A leaf's three components and the way from it to the root. */
export interface Inclusion {
  /** SHA-256 of what the transaction wrote, in hexadecimal. */
  writeSet: string;
  /** "ce:view.seqno:" and 64 hexadecimal digits. */
  evidence: string;
  /** The claims digest, in hexadecimal. */
  claims: string;
  path: Proof;
}

/** CBOR's major types. */
enum Major {
  Unsigned = 0,
  Negative = 1,
  Bytes = 2,
  Text = 3,
  Array = 4,
  Map = 5,
}

const COSE_SIGN1 = [0xd2, 0x84];
const EMPTY_MAP = 0xa0;
const NULL = 0xf6;
/** Header label of verifiable data structure proofs. */
const PROOFS = 396;

/** The service's COSE_Sign1 of a root, with the inclusion in it. */
export function receiptOf(signed: Uint8Array, inclusion: Inclusion): Uint8Array {
  const headerEnd = endOfProtected(signed);
  const [unprotected, payload] = [signed[headerEnd], signed[headerEnd + 1]];
  if (unprotected !== EMPTY_MAP || payload !== NULL) {
    throw new Error("the service's signature is not a detached COSE_Sign1 without other headers");
  }
  // {396: {-1: [proof]}}
  const header = [
    ...[head(Major.Map, 1), head(Major.Unsigned, PROOFS)],
    ...[head(Major.Map, 1), head(Major.Negative, 0)],
    ...[head(Major.Array, 1), bytes(proofOf(inclusion))],
  ];
  return concat([signed.subarray(0, headerEnd), ...header, signed.subarray(headerEnd + 1)]);
}

/** {1: leaf, 2: path} */
function proofOf({ writeSet, evidence, claims, path }: Inclusion): Uint8Array {
  const text = fromText(evidence);
  const leaf = [
    head(Major.Array, 3),
    ...[bytes(fromHex(writeSet)), head(Major.Text, text.length), text, bytes(fromHex(claims))],
  ];
  const steps = path.flatMap(({ left, right }) => [
    head(Major.Array, 2),
    new Uint8Array([left === undefined ? 0xf4 : 0xf5]),
    bytes(fromHex((left ?? right)!)),
  ]);
  return concat([
    ...[head(Major.Map, 2), head(Major.Unsigned, 1), ...leaf],
    ...[head(Major.Unsigned, 2), head(Major.Array, path.length), ...steps],
  ]);
}

/** Where the protected header's byte string ends. */
function endOfProtected(signed: Uint8Array): number {
  const at = COSE_SIGN1.length;
  const begins = COSE_SIGN1.every((byte, index) => signed[index] === byte);
  const initial = signed[at] ?? 0;
  const length = initial & 0x1f;
  // The key id alone takes 64 bytes of it, and nothing in it is long.
  if (!begins || initial >> 5 !== Major.Bytes || (length !== 24 && length !== 25)) {
    throw new Error("the service's signature is not a tagged COSE_Sign1");
  }
  const [high, low] = [signed[at + 1] ?? 0, signed[at + 2] ?? 0];
  return length === 24 ? at + 2 + high : at + 3 + ((high << 8) | low);
}

function bytes(value: Uint8Array): Uint8Array {
  return concat([head(Major.Bytes, value.length), value]);
}

/** An initial byte with its argument, which is below 65,536 everywhere here. */
function head(major: Major, argument: number): Uint8Array {
  const type = major << 5;
  if (argument < 24) return new Uint8Array([type | argument]);
  if (argument < 0x100) return new Uint8Array([type | 24, argument]);
  return new Uint8Array([type | 25, argument >> 8, argument & 0xff]);
}
