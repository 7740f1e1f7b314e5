// Runs the compiled modules in a real QuickJS, as a CCF node does, within CCF's limits. The node's is older.

import { readFileSync } from "node:fs";
import { getQuickJS, shouldInterruptAfterDeadline } from "quickjs-emscripten";
import { pack, unpack } from "./wire.js";

const OWN = ["/wire.js", "/guest.js"].map((path) => [
  path,
  readFileSync(new URL(`.${path}`, import.meta.url), "utf8"),
]);
const HEAP_BYTES = 100 * 1024 * 1024;
const STACK_BYTES = 1024 * 1024;
const MILLISECONDS = 5000;

export const quickjs = {
  name: "QuickJS",

  /** As native.load. */
  async load(modules) {
    const sources = new Map([...OWN, ...modules]);
    const runtime = (await getQuickJS()).newRuntime();
    runtime.setMemoryLimit(HEAP_BYTES);
    runtime.setMaxStackSize(STACK_BYTES);
    // QuickJS drops the slash of a module beside one in the root; CCF's loader puts it back.
    const source = (path) => sources.get(path.startsWith("/") ? path : `/${path}`);
    runtime.setModuleLoader((path) => source(path) ?? { error: new Error(`no module ${path}`) });
    const context = runtime.newContext();
    const evaluate = (code, name, options) => {
      const result = context.evalCode(code, name, options);
      const value = context.dump(result.error ?? result.value);
      result.dispose();
      if (result.error) throw new Error(value.message ?? String(value));
      return value;
    };

    const current = {};
    const hostCall = context.newFunction("hostCall", (text) =>
      context.newString(JSON.stringify(answer(current.ccf, JSON.parse(context.getString(text))))),
    );
    context.setProp(context.global, "hostCall", hostCall);
    hostCall.dispose();
    evaluate('import "/guest.js"; globalThis.modules = {};', "/main.js", { type: "module" });

    return (module, name, ccf, args) => {
      current.ccf = ccf;
      runtime.setInterruptHandler(shouldInterruptAfterDeadline(Date.now() + MILLISECONDS));
      const path = JSON.stringify(module);
      evaluate(`import * as it from ${path}; modules[${path}] = it;`, "/main.js", { type: "module" });
      const packed = JSON.stringify(JSON.stringify(args.map(argument)));
      const text = evaluate(`invoke(modules[${path}].${name}, ${packed})`, "/call.js");
      return unpack(JSON.parse(text));
    };
  },
};

/** What a call out of the guest gives, or why it fails. */
function answer(ccf, [what, path, ...rest]) {
  try {
    if (what === "table") {
      const [method, args] = rest;
      return { value: pack(onTable(tableAt(ccf, path), method, args.map(unpack))) };
    }
    const owner = path.slice(0, -1).reduce((at, name) => at[name], ccf);
    const value = owner[path.at(-1)](...rest[0].map(unpack));
    if (path.at(-1) !== "getStateRange" || value === null) return { value: pack(value) };
    ccf.historicalStates = new Map(value.map((state) => [state.transactionId, state]));
    return { value: pack(value.map(({ kv, ...state }) => state)) };
  } catch (error) {
    return { error: error.message };
  }
}

function tableAt(ccf, place) {
  if (place[0] === "kv") return ccf.kv[place[1]];
  return ccf.historicalStates.get(place[1]).kv[place[2]];
}

function onTable(table, method, args) {
  if (method === "entries") {
    const entries = [];
    table.forEach((value, key) => entries.push([value, key]));
    return entries;
  }
  const value = table[method](...args);
  return method === "set" ? undefined : value;
}

/** A request's functions stay behind: the guest makes its own. */
function argument(value) {
  if (typeof value?.body?.arrayBuffer !== "function") return pack(value);
  return { $request: pack({ ...value, body: value.body.arrayBuffer() }) };
}
