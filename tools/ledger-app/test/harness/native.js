// Runs the compiled modules in Node.js, with the global `ccf` that a call is given.

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

export const native = {
  name: "Node.js under ccf-app's polyfill",

  /** Modules: [path, source]. Gives call(module, function, ccf, arguments). */
  async load(modules) {
    const folder = mkdtempSync(join(tmpdir(), "keyfold-ledger-app-"));
    writeFileSync(join(folder, "package.json"), '{"type":"module"}');
    const loaded = new Map();
    modules.forEach(([path, source]) => writeFileSync(join(folder, path), source));
    for (const [path] of modules) loaded.set(path, await import(pathToFileURL(join(folder, path))));
    return (module, name, ccf, args) => {
      const exported = loaded.get(module)?.[name];
      if (typeof exported !== "function") throw new Error(`${module} exports no function ${name}`);
      globalThis.ccf = ccf;
      return exported(...args);
    };
  },
};
