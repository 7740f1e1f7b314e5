// Until the service is opened: its code, and which nodes may ever join it.

const MODULE = members({ name: text, module: text });

const ENDPOINT = members({
  js_module: text,
  js_function: text,
  mode: oneOf("readwrite", "readonly"),
  forwarding_required: oneOf("sometimes", "always", "never"),
  authn_policies: list,
  interpreter_reuse: members({ key: text }),
  openapi: object,
});

/** Modules, and endpoints that name functions in them. */
const bundle = all(
  members({ metadata: members({ endpoints: object }), modules: list }),
  ({ metadata, modules }) => {
    modules.forEach((module) => within("modules", () => MODULE(module)));
    for (const [name, properties] of endpointsOf(metadata)) {
      within(name, () => ENDPOINT(properties));
      const known = modules.some((module) => module.name === properties.js_module);
      need(known, `${name}: there is no module ${properties.js_module}`);
    }
  },
);

action(SETUP, "set_js_app", members({ bundle }), ({ bundle: { metadata, modules } }) => {
  const tables = ["modules", "endpoints", "modules_quickjs_bytecode", "modules_quickjs_version"];
  // No compiled form is kept: what runs is the text that an auditor reads.
  tables.forEach((table) => governance(table).clear());
  for (const { name, module } of modules) {
    governance("modules").set(ccf.strToBuf(`/${name}`), ccf.strToBuf(module));
  }
  for (const [name, properties] of endpointsOf(metadata)) {
    const js_module = `/${properties.js_module}`;
    setJson("endpoints", ccf.strToBuf(name), { ...properties, js_module });
  }
  setJson("interpreter.flush", ONLY, true);
});

/** "POST /path" and its properties. */
function endpointsOf({ endpoints }) {
  return Object.entries(endpoints).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, properties]) => [
      `${method.toUpperCase()} ${path}`,
      properties,
    ]),
  );
}

const ALLOWED = "AllowedToJoin";

action(SETUP, "add_snp_measurement", members({ measurement: hexOf(48) }), ({ measurement }) => {
  setJson("nodes.snp.measurements", ccf.strToBuf(measurement), ALLOWED);
});

action(SETUP, "remove_snp_measurement", members({ measurement: hexOf(48) }), ({ measurement }) => {
  governance("nodes.snp.measurements").delete(ccf.strToBuf(measurement));
});

action(
  SETUP,
  "add_snp_host_data",
  all(members({ host_data: hexOf(32), security_policy: text }), ({ host_data, security_policy }) => {
    need(sha256(ccf.strToBuf(security_policy)) === host_data, "host_data is not the policy's SHA-256");
  }),
  ({ host_data, security_policy }) => {
    setJson("nodes.snp.host_data", ccf.strToBuf(host_data), security_policy);
  },
);

action(SETUP, "remove_snp_host_data", members({ host_data: hexOf(32) }), ({ host_data }) => {
  governance("nodes.snp.host_data").delete(ccf.strToBuf(host_data));
});

action(
  SETUP,
  "add_snp_uvm_endorsement",
  members({ did: text, feed: text, svn: text }),
  ({ did, feed, svn }) => {
    const feeds = json("nodes.snp.uvm_endorsements", ccf.strToBuf(did)) ?? {};
    setJson("nodes.snp.uvm_endorsements", ccf.strToBuf(did), { ...feeds, [feed]: { svn } });
  },
);

action(SETUP, "remove_snp_uvm_endorsement", members({ did: text }), ({ did }) => {
  governance("nodes.snp.uvm_endorsements").delete(ccf.strToBuf(did));
});

const component = (value) => need(Number.isInteger(value) && value >= 0 && value < 256, "is no byte");

action(
  SETUP,
  "add_snp_tcb_version",
  members({
    cpuid: hexOf(4),
    tcb_version: members({
      boot_loader: component,
      tee: component,
      snp: component,
      microcode: component,
    }),
  }),
  ({ cpuid, tcb_version }) => {
    setJson("nodes.snp.tcb_versions", ccf.strToBuf(cpuid.toUpperCase()), tcb_version);
  },
);
