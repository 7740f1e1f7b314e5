// Verifies a receipt as a relying party does that knows the service's key and its own claim.

import { createHash, verify } from "node:crypto";
import { Tagged, decode, encode } from "./cbor.js";

const ES384 = -35;
const CCF_LEDGER = 2;

export function sha256(...parts) {
  const hash = createHash("sha256");
  parts.forEach((part) => hash.update(part));
  return hash.digest();
}

/** The digest of the documented 121 bytes: kind 1 append, 2 read. */
export function claimDigest({ kind, tag, version, digest, nonce }) {
  const claim = Buffer.alloc(121);
  claim.write("keyfold-ledger/1", 0, "ascii");
  claim[16] = kind;
  claim.write(tag, 17, "hex");
  claim.writeBigUInt64BE(BigInt(version), 49);
  claim.write(digest, 57, "hex");
  if (nonce !== undefined) claim.write(nonce, 89, "hex");
  return sha256(claim);
}

/** Gives what the receipt says of itself; throws unless `key` signed a root over `claim`. */
export function verifyReceipt(bytes, key, claim) {
  const sign1 = decode(bytes);
  check(sign1 instanceof Tagged && sign1.tag === 18 && sign1.value.length === 4, "COSE_Sign1");
  const [header, unprotected, payload, signature] = sign1.value;
  const fields = decode(header);
  check(fields.get(1) === ES384, "alg");
  const spki = key.export({ type: "spki", format: "der" });
  check(fields.get(4)?.toString("ascii") === sha256(spki).toString("hex"), "kid");
  check(fields.get(395) === CCF_LEDGER, "vds");
  check(payload === null, "detached payload");

  check(unprotected.size === 1 && unprotected.get(396)?.size === 1, "unprotected header");
  const proofs = unprotected.get(396).get(-1);
  check(Array.isArray(proofs) && proofs.length === 1, "one proof");
  const proof = decode(proofs[0]);
  check(proof.size === 2, "proof");
  const [writeSet, evidence, claims] = proof.get(1);
  check(writeSet.length === 32 && typeof evidence === "string", "leaf");
  check(claim.equals(claims), "the claim");
  let root = sha256(writeSet, sha256(evidence), claims);
  const path = proof.get(2);
  check(path.length > 0, "path");
  for (const [left, hash] of path) {
    check(typeof left === "boolean" && hash.length === 32, "path element");
    root = left ? sha256(hash, root) : sha256(root, hash);
  }
  const signed = encode(["Signature1", header, Buffer.alloc(0), root]);
  const how = { key, dsaEncoding: "ieee-p1363" };
  check(signature.length === 96 && verify("sha384", signed, how, signature), "signature");
  const claimsOfToken = fields.get(15);
  return {
    transaction: evidence.split(":")[1],
    issuer: claimsOfToken.get(1),
    subject: claimsOfToken.get(2),
    rightSiblings: path.filter(([left]) => !left).length,
  };
}

function check(right, what) {
  if (!right) throw new Error(`receipt: ${what} does not fit`);
}
