// The global `ccf` of one call: the package's polyfill, with what it lacks from this harness.

import "@microsoft/ccf-app/polyfill.js";
import { X509Certificate, createHash } from "node:crypto";

const polyfill = globalThis.ccf;

/** For a call in `transaction` at `service`; `answer` collects what ccf.rpc sets. */
export function ccfFor(service, transaction, answer = {}) {
  const { ledger } = service;
  return Object.assign(Object.create(polyfill), {
    kv: transaction.kv,
    crypto: polyfill.crypto,
    rpc: {
      setApplyWrites: (force) => (answer.applyWrites = force),
      setClaimsDigest(digest) {
        if (!(digest instanceof ArrayBuffer) || digest.byteLength !== 32) {
          throw new TypeError("the claims digest is not an ArrayBuffer of 32 bytes");
        }
        answer.claims = Buffer.from(digest);
      },
    },
    consensus: {
      getLastCommittedTxId: () => ({ view: ledger.viewOf(ledger.committed), seqno: ledger.committed }),
      getStatusForTxId: (view, seqno) => ledger.status(view, seqno),
      getViewForSeqno: (seqno) => service.viewOf(seqno) ?? null,
    },
    historical: {
      getStateRange: (...range) => service.historical.range(...range),
      dropCachedStates: (handle) => service.historical.drop(handle),
    },
    ...governanceFor(service, transaction),
  });
}

/** What the constitution is given beside it. Effects on nodes are noted, not had. */
function governanceFor(service, transaction) {
  const info = transaction.kv["public:ccf.gov.service.info"];
  const note = (effect) => (...args) => {
    service.effects.push([effect, ...args]);
  };
  return {
    pemToId: (pem) => createHash("sha256").update(new X509Certificate(pem).raw).digest("hex"),
    node: {
      transitionServiceToOpen(previous, next) {
        const key = new ArrayBuffer(8);
        const now = polyfill.bufToJsonCompatible(info.get(key));
        if (now.status === "Open") throw new Error("the service is open already");
        if (polyfill.bufToStr(next) !== now.cert) throw new Error("next is not this service's identity");
        info.set(key, polyfill.jsonCompatibleToBuf({ ...now, status: "Open" }));
        note("opened")();
      },
      triggerLedgerChunk: note("chunk"),
      triggerSnapshot: note("snapshot"),
    },
    network: {
      getLatestLedgerSecretSeqno: () => 1,
      generateEndorsedCertificate: (request, from, days) => `endorsed ${request} ${from} ${days}`,
      generateNetworkCertificate: (from, days) => `renewed ${from} ${days}`,
    },
  };
}
