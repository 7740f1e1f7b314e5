// What a receipt proves: SHA-256 of 121 bytes, set as the transaction's claims digest.
//
//   offset  bytes
//        0     16  "keyfold-ledger/1"
//       16      1  kind: 1 append, 2 read
//       17     32  tag
//       49      8  version, big-endian
//       57     32  digest of that version
//       89     32  the reader's nonce; zeros in an append

import { concat, fromHex, fromText } from "./bytes.js";
import type { Hex32 } from "./input.js";

/** 32 zero bytes: no nonce, or no digest. */
export const ZEROS: Hex32 = "0".repeat(64);

/** What kind of transaction is claimed. */
export enum Kind {
  Append = 1,
  Read = 2,
}

/** Binds the transaction, if it succeeds, to this claim. */
export function setClaim(
  kind: Kind, tag: Hex32, version: number, digest: Hex32, nonce: Hex32,
): void {
  const claim = concat([
    fromText("keyfold-ledger/1"),
    new Uint8Array([kind]),
    fromHex(tag),
    fromHex(version.toString(16).padStart(16, "0")),
    fromHex(digest),
    fromHex(nonce),
  ]);
  ccf.rpc.setClaimsDigest(ccf.crypto.digest("SHA-256", claim.buffer as ArrayBuffer));
}
