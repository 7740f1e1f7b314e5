// GET /receipt: a transaction's COSE receipt, put together from what the node keeps of it.
//
// The node tells a transaction's leaf and its path in the tree that the next signature transaction signs,
// and that transaction carries the service's COSE signature of the root. CCF commits at signature
// transactions, so every committed transaction has one after it that is committed too.

import type { HistoricalState, Receipt } from "@microsoft/ccf-app/global.js";
import { Refusal, endpoint, notYet } from "./answer.js";
import { fromBase64 } from "./bytes.js";
import { ZEROS } from "./claim.js";
import { receiptOf } from "./cose.js";
import { transactionOf } from "./input.js";

/** Transactions fetched at once in search of a signature. A node that signs as often as README.md says
 * has one among them. */
const WINDOW = 64;
/** How long the node keeps what it fetched for the next try. */
const KEPT_SECONDS = 30;
const SIGNATURES = "public:ccf.internal.cose_signatures";

/** GET /receipt */
export const receipt = endpoint((request) => {
  const { view, seqno } = transactionOf(request);
  const status = ccf.consensus.getStatusForTxId(view, seqno);
  const id = `${view}.${seqno}`;
  if (status === "Unknown") {
    const message = `Transaction ${id} is not available.`;
    throw new Refusal(404, "TransactionPendingOrUnknown", message);
  }
  if (status === "Invalid") throw notOurs(id);

  const states = upToSignature(seqno);
  if (states === undefined) return notYet();
  const { receipt } = states[0]!;
  const { leaf_components: leaf, proof } = receipt;
  // The node's own transactions have no claims.
  if (isSignature(receipt) || (leaf?.claims_digest ?? ZEROS) === ZEROS) throw notOurs(id);
  const { write_set_digest, commit_evidence, claims_digest } = leaf!;
  const body = receiptOf(signatureIn(states[states.length - 1]!), {
    writeSet: write_set_digest,
    evidence: commit_evidence!,
    claims: claims_digest!,
    path: proof,
  });
  return { headers: { "content-type": "application/cose" }, body };
});

/** The transaction and those after it, the last of them the first signature; undefined while it is
 * pending, or the node fetches them. */
function upToSignature(seqno: number): HistoricalState[] | undefined {
  const committed = ccf.consensus.getLastCommittedTxId().seqno;
  const found: HistoricalState[] = [];
  for (let start = seqno; start <= committed; start += WINDOW) {
    const end = Math.min(start + WINDOW - 1, committed);
    // A handle holds one range: a transaction's number is a handle of its own.
    const states = ccf.historical.getStateRange(start, start, end, KEPT_SECONDS);
    if (states === null) return undefined;
    for (const state of states) {
      found.push(state);
      const first = found.length === 1;
      if (isSignature(state.receipt)) return found;
      // The node's own transactions need no signature to be told.
      if (first && state.receipt.leaf_components?.claims_digest === undefined) return found;
    }
  }
  // A commit that was not a signature's: the next one will be.
  return undefined;
}

function isSignature(receipt: Receipt): boolean {
  return (receipt as { is_signature_transaction?: boolean }).is_signature_transaction === true;
}

/** The COSE_Sign1 over the root, as the signature transaction wrote it: base64 in a JSON string. */
function signatureIn(state: HistoricalState): Uint8Array {
  const value = state.kv[SIGNATURES]!.get(new ArrayBuffer(8));
  const text = value === undefined ? undefined : ccf.bufToJsonCompatible(value);
  const bytes = typeof text === "string" ? fromBase64(text) : undefined;
  if (bytes === undefined) {
    throw new Error(`signature transaction ${state.transactionId} has no COSE signature`);
  }
  return bytes;
}

function notOurs(id: string): Refusal {
  const message = `Transaction ${id} is not one of the application's.`;
  return new Refusal(404, "TransactionInvalid", message);
}
