// CCF's ledger: numbered transactions, a Merkle tree over them, and signature transactions in which the
// service signs the tree's root. Receipts follow from it.

import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { Tagged, encode } from "../cbor.js";
import { sha256 } from "../receipt.js";
import { certificate } from "./x509.js";

const ZEROS = Buffer.alloc(32);
const ONLY = "00".repeat(8);

export class Ledger {
  /** Entry n is transaction n + 1: {view, seqno, writes, claims, evidence, writeSet, root}. */
  entries = [];
  view = 2;
  committed = 0;
  /** Leaf 0 is zeros, leaf n is transaction n. */
  #leaves = [ZEROS];
  /** Roots of complete subtrees, by where they begin and how many leaves they have. */
  #roots = new Map();

  constructor({ issuer, subject }) {
    Object.assign(this, { issuer, subject });
    const pair = generateKeyPairSync("ec", { namedCurve: "P-384" });
    this.key = createPrivateKey(pair.privateKey.export({ type: "pkcs8", format: "pem" }));
    this.publicKey = createPublicKey(this.key);
    this.certificate = certificate(this.key, this.publicKey);
  }

  get last() {
    return this.entries.length;
  }

  /** Appends a transaction; claims is its digest, if it set one. */
  append(writes, claims) {
    const seqno = this.last + 1;
    const evidence = `ce:${this.view}.${seqno}:${randomBytes(32).toString("hex")}`;
    return this.#push({ writes, claims, evidence });
  }

  /** A signature transaction: all before it are committed. */
  sign() {
    const seqno = this.last + 1;
    const root = this.#root(0, seqno);
    const header = new Map([
      [1, -35],
      [4, Buffer.from(sha256(this.publicKey.export({ type: "spki", format: "der" })).toString("hex"))],
      [395, 2],
      [15, new Map([[1, this.issuer], [2, this.subject], [6, Math.floor(Date.now() / 1000)]])],
      ["ccf.v1", new Map([["txid", `${this.view}.${seqno}`]])],
    ]);
    const encoded = encode(header);
    const signed = encode(["Signature1", encoded, Buffer.alloc(0), root]);
    const signature = sign("sha384", signed, { key: this.key, dsaEncoding: "ieee-p1363" });
    const cose = encode(new Tagged(18, [encoded, new Map(), null, signature]));
    const value = Buffer.from(JSON.stringify(cose.toString("base64"))).toString("hex");
    const writes = [["public:ccf.internal.cose_signatures", ONLY, value]];
    const entry = this.#push({ writes, root });
    this.committed = entry.seqno;
    return entry;
  }

  /** A new primary without the transactions that were not committed. */
  loseUncommitted() {
    this.entries.length = this.committed;
    this.#leaves.length = this.committed + 1;
    this.#roots.clear();
    this.view += 1;
  }

  viewOf(seqno) {
    return this.entries[seqno - 1]?.view;
  }

  /** As CCF judges a transaction id. */
  status(view, seqno) {
    const here = this.viewOf(seqno);
    if (this.committed >= seqno) return here === view ? "Committed" : "Invalid";
    if (here === view) return "Pending";
    return this.viewOf(this.committed) > view ? "Invalid" : "Unknown";
  }

  /** What a historical query tells of a committed transaction, in JavaScript. */
  receipt(seqno) {
    const entry = this.entries[seqno - 1];
    const base = { signature: "", cert: "", node_id: "" };
    if (entry.root !== undefined) {
      const root_hex = entry.root.toString("hex");
      return { ...base, is_signature_transaction: true, root_hex };
    }
    const signed = this.entries.find((later) => later.seqno > seqno && later.root !== undefined);
    const proof = this.#path(seqno, signed.seqno).map(({ left, hash }) =>
      left ? { left: hash.toString("hex") } : { right: hash.toString("hex") },
    );
    const leaf_components = {
      write_set_digest: entry.writeSet.toString("hex"),
      commit_evidence: entry.evidence,
    };
    if (entry.claims !== undefined) leaf_components.claims_digest = entry.claims.toString("hex");
    return { ...base, is_signature_transaction: false, leaf_components, proof };
  }

  #push(entry) {
    const writeSet = sha256(JSON.stringify(entry.writes));
    const { root, evidence, claims } = entry;
    const signature = root !== undefined;
    this.#leaves.push(signature ? writeSet : sha256(writeSet, sha256(evidence), claims ?? ZEROS));
    const whole = { ...entry, view: this.view, seqno: this.last + 1, writeSet };
    this.entries.push(whole);
    return whole;
  }

  /** The root over so many leaves from `start` on: the left subtree holds the largest power of two. */
  #root(start, length) {
    if (length === 1) return this.#leaves[start];
    const left = leftOf(length);
    const place = `${start}+${length}`;
    const known = this.#roots.get(place);
    if (known !== undefined) return known;
    const root = sha256(this.#root(start, left), this.#root(start + left, length - left));
    if (length === 2 * left) this.#roots.set(place, root);
    return root;
  }

  /** From a leaf to the root of the first `length` leaves. */
  #path(leaf, length, start = 0) {
    if (length === 1) return [];
    const left = leftOf(length);
    const right = { start: start + left, length: length - left };
    if (leaf < right.start) {
      const hash = this.#root(right.start, right.length);
      return [...this.#path(leaf, left, start), { left: false, hash }];
    }
    const hash = this.#root(start, left);
    return [...this.#path(leaf, right.length, right.start), { left: true, hash }];
  }
}

function leftOf(length) {
  return 2 ** Math.ceil(Math.log2(length) - 1);
}
