// Makes dist/ after tsc: what is proposed to a CCF service, what it starts with, and their digests.
//
//   set_js_app.json    the proposal that installs the application
//   constitution.js    the constitution, one file
//   digests.json       what the opening proposal names, and an auditor compares

import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const at = (path) => new URL(path, import.meta.url);
const read = (path) => readFileSync(at(path), "utf8");
const write = (path, text) => writeFileSync(at(path), text);

const metadata = JSON.parse(read("app.json"));
const names = readdirSync(at("dist/src")).sort();
const modules = names.map((name) => ({ name, module: read(`dist/src/${name}`) }));
const proposal = { actions: [{ name: "set_js_app", args: { bundle: { metadata, modules } } }] };
write("dist/set_js_app.json", JSON.stringify(proposal));

const PARTS = ["actions", "forms", "setup", "opening", "upkeep", "decide"];
const constitution = PARTS.map((part) => read(`constitution/${part}.js`)).join("\n");
write("dist/constitution.js", constitution);

// As they lie in the service's tables: set_js_app in constitution/setup.js.
const moduleEntries = modules.map(({ name, module }) => [`/${name}`, module]);
const endpointEntries = Object.entries(metadata.endpoints).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, properties]) => {
    const stored = { ...properties, js_module: `/${properties.js_module}` };
    return [`${method.toUpperCase()} ${path}`, JSON.stringify(stored)];
  }),
);
const digests = {
  constitution: sha256(constitution).toString("hex"),
  modules: tableDigest(moduleEntries),
  endpoints: tableDigest(endpointEntries),
};
write("dist/digests.json", `${JSON.stringify(digests, null, 2)}\n`);

/** As tableDigest in constitution/opening.js. */
function tableDigest(entries) {
  const sorted = entries.sort(([one], [other]) => (one < other ? -1 : 1));
  return sha256(Buffer.concat(sorted.flat().map(sha256))).toString("hex");
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest();
}
