// Runs inside QuickJS before anything else: the global `ccf`, each call of which goes out to the host as
// text. There is nothing of Node.js here.

import { pack, unpack } from "/wire.js";

const host = (...call) => {
  const answer = JSON.parse(hostCall(JSON.stringify(pack(call))));
  if (answer.error !== undefined) throw new Error(answer.error);
  return unpack(answer.value);
};

const table = (...place) => {
  const call = (method) => (...args) => host("table", place, method, args);
  return {
    has: call("has"),
    get: call("get"),
    getVersionOfPreviousWrite: call("getVersionOfPreviousWrite"),
    set(key, value) {
      host("table", place, "set", [key, value]);
      return this;
    },
    delete: call("delete"),
    clear: call("clear"),
    forEach(callback) {
      call("entries")().forEach(([value, key]) => callback(value, key, this));
    },
    get size() {
      return call("entries")().length;
    },
  };
};
const tables = (...place) => new Proxy({}, { get: (_, name) => table(...place, name) });

const functions = (path, names) =>
  Object.fromEntries(names.map((name) => [name, (...args) => host("call", [...path, name], args)]));

globalThis.ccf = {
  ...functions([], ["strToBuf", "bufToStr", "jsonCompatibleToBuf", "bufToJsonCompatible", "pemToId"]),
  kv: tables("kv"),
  crypto: functions(["crypto"], ["digest", "isValidX509CertBundle"]),
  rpc: functions(["rpc"], ["setApplyWrites", "setClaimsDigest"]),
  consensus: functions(
    ["consensus"],
    ["getLastCommittedTxId", "getStatusForTxId", "getViewForSeqno"],
  ),
  historical: {
    ...functions(["historical"], ["dropCachedStates"]),
    getStateRange: (...args) =>
      host("call", ["historical", "getStateRange"], args)?.map((state) => ({
        ...state,
        kv: tables("historical", state.transactionId),
      })) ?? null,
  },
  node: functions(["node"], ["transitionServiceToOpen", "triggerLedgerChunk", "triggerSnapshot"]),
  network: functions(
    ["network"],
    ["getLatestLedgerSecretSeqno", "generateEndorsedCertificate", "generateNetworkCertificate"],
  ),
};

globalThis.invoke = (exported, packed) => {
  const args = unpack(JSON.parse(packed)).map((argument) => {
    if (typeof argument?.$request !== "object") return argument;
    const { body, ...request } = argument.$request;
    const text = () => ccf.bufToStr(body);
    return { ...request, body: { text, json: () => JSON.parse(text()), arrayBuffer: () => body } };
  });
  return JSON.stringify(pack(exported(...args)));
};
