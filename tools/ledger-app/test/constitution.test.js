// The constitution: what each proposal does before the service is opened, and what it does not do after.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { sha256 } from "./receipt.js";
import { CONSTITUTION, DIGESTS, INSTALL, deployed, opening, started } from "./harness/deployment.js";
import { ENGINES } from "./harness/engines.js";
import { identity } from "./harness/service.js";

const POLICY = "package policy";
const HOST_DATA = sha256(POLICY).toString("hex");
const MEASUREMENT = "ab".repeat(48);
const ENDORSEMENT = { did: "did:x509:0:sha256:abc::eku:1.2.3", feed: "feed" };
const USER = identity("a host");
const NODE = "0f".repeat(32);

/** Everything that a new service can be set up with: action, arguments, the table it changes. */
const SETUP = [
  [INSTALL[0].name, INSTALL[0].args, "modules"],
  ["add_snp_measurement", { measurement: MEASUREMENT }, "nodes.snp.measurements"],
  ["remove_snp_measurement", { measurement: "01".repeat(48) }, "nodes.snp.measurements"],
  ["add_snp_host_data", { host_data: HOST_DATA, security_policy: POLICY }, "nodes.snp.host_data"],
  ["remove_snp_host_data", { host_data: "01".repeat(32) }, "nodes.snp.host_data"],
  ["add_snp_uvm_endorsement", { ...ENDORSEMENT, svn: "100" }, "nodes.snp.uvm_endorsements"],
  ["remove_snp_uvm_endorsement", { did: "did:x509:old" }, "nodes.snp.uvm_endorsements"],
  ["add_snp_tcb_version", { cpuid: "00a00f11", tcb_version: { boot_loader: 4, tee: 0, snp: 22, microcode: 213 } }, "nodes.snp.tcb_versions"],
];

/** What CCF's sample constitutions can do and this one never can. */
const ABSENT = [
  ["set_constitution", { constitution: CONSTITUTION }],
  ["remove_js_app", {}],
  ["set_js_runtime_options", { max_heap_bytes: 1, max_stack_bytes: 1, max_execution_time_ms: 1 }],
  ["refresh_js_app_bytecode_cache", null],
  ["set_member", { cert: USER.pem }],
  ["remove_member", { member_id: NODE }],
  ["set_member_data", { member_id: NODE, member_data: {} }],
  ["set_recovery_threshold", { recovery_threshold: 1 }],
  ["set_service_configuration", { recovery_threshold: 1 }],
  ["set_node_join_policy", {}],
  ["add_node_code", { code_id: MEASUREMENT }],
  ["add_virtual_measurement", { measurement: "x" }],
  ["set_jwt_issuer", { issuer: "x" }],
  ["set_ca_cert_bundle", { name: "x", cert_bundle: USER.pem }],
  ["trigger_ledger_rekey", null],
  ["__proto__", {}],
  ["constructor", {}],
];

const hex = (text) => Buffer.from(text).toString("hex");
const json = (value) => hex(JSON.stringify(value));

/** A service's governance table, as text. */
function table(service, name) {
  const text = (digits) => Buffer.from(digits, "hex").toString();
  const entries = service.store.entries(`public:ccf.gov.${name}`);
  return Object.fromEntries(entries.map(([key, { value }]) => [text(key), text(value)]));
}

/** Everything governance wrote. */
function everything(service) {
  const names = new Set(service.ledger.entries.flatMap(({ writes }) => writes.map(([name]) => name)));
  const governance = [...names].filter((name) => name.startsWith("public:ccf.gov.")).sort();
  return governance.map((name) => [name, service.store.entries(name)]);
}

/** Writes that a member of another constitution, or CCF itself, made before. */
function seed(service) {
  const put = (name, key, value) => [`public:ccf.gov.${name}`, hex(key), value];
  service.store.apply(
    [
      put("nodes.snp.measurements", "01".repeat(48), json("AllowedToJoin")),
      put("nodes.snp.host_data", "01".repeat(32), json("old")),
      put("nodes.snp.uvm_endorsements", "did:x509:old", json({ feed: { svn: "1" } })),
      put("nodes.info", NODE, json({ status: "Pending", certificate_signing_request: "CSR" })),
    ],
    service.ledger.last,
  );
}

for (const engine of ENGINES) describe(`in ${engine.name}`, () => {
  let service;
  const act = (name, args) => service.decide([{ name, args }]);

  describe("before the opening", () => {
    beforeEach(async () => seed((service = await started(engine))));

    for (const [name, args, changed] of SETUP) {
      test(`${name} is possible`, () => {
        const before = table(service, changed);
        assert.equal(act(name, args).state, "Accepted");
        assert.notDeepEqual(table(service, changed), before);
      });
    }

    test("the application is in the tables as an auditor and a node read it", () => {
      service.store.apply([["public:ccf.gov.modules_quickjs_bytecode", "2f78", "00"], ["public:ccf.gov.modules", "2f78", "00"]], 1);
      service.decide(INSTALL);
      const { modules, metadata } = INSTALL[0].args.bundle;
      const expected = Object.fromEntries(modules.map(({ name, module }) => [`/${name}`, module]));
      assert.deepEqual(table(service, "modules"), expected);
      assert.deepEqual(table(service, "modules_quickjs_bytecode"), {}, "no compiled form");
      const append = JSON.parse(table(service, "endpoints")["POST /append"]);
      assert.deepEqual(append, { ...metadata.endpoints["/append"].post, js_module: "/endpoints.js" });
      assert.deepEqual(Object.keys(table(service, "endpoints")).length, 4);
      assert.notEqual(service.governance("interpreter.flush"), undefined);
    });

    test("opening is refused before there is an application", () => {
      const { state, description } = service.decide(opening(service));
      assert.equal(state, "Failed");
      assert.match(description, /no modules: the application comes first/);
      assert.equal(service.governance("service.info").status, "Opening");
      assert.deepEqual(service.effects, []);
    });

    for (const what of Object.keys(DIGESTS)) {
      test(`opening is refused if it names other ${what} than there are`, () => {
        service.decide(INSTALL);
        const wrong = opening(service, { ...DIGESTS, [what]: "00".repeat(32) });
        const { state, description } = service.decide(wrong);
        assert.equal(state, "Failed");
        assert.match(description, new RegExp(`the ${what} in place are ${DIGESTS[what]}`));
        assert.equal(service.governance("service.info").status, "Opening");
        assert.equal(service.decide(opening(service)).state, "Accepted");
        assert.equal(service.governance("service.info").status, "Open");
      });
    }

    test("opening is refused if an application has modules and no endpoints", () => {
      service.decide(INSTALL);
      service.store.apply(service.store.entries("public:ccf.gov.endpoints").map(([key]) => ["public:ccf.gov.endpoints", key, null]), service.ledger.last);
      assert.match(service.decide(opening(service)).description, /no endpoints/);
    });

    test("opening stands alone: nothing comes in with it", () => {
      for (const actions of [[...INSTALL, ...opening(service)], [...opening(service), ...INSTALL]]) {
        const { state, description } = service.decide(actions);
        assert.equal(state, "Invalid");
        assert.match(description, /stands alone/);
      }
    });

    test("more than half of the active members decide", async () => {
      for (const [members, needed] of [[1, 1], [2, 2], [3, 2], [4, 3], [5, 3]]) {
        service = await started(engine, { members });
        let outcome = service.propose(0, INSTALL);
        for (let voter = 0; voter < needed; voter++) {
          assert.equal(outcome.state, "Open", `${voter} of ${members}`);
          outcome = service.vote(voter, outcome.id);
        }
        assert.equal(outcome.state, "Accepted", `${needed} of ${members}`);
      }
    });

    test("votes against, and of members who are not active, do not count", () => {
      const inactive = ["public:ccf.gov.members.info", hex(service.members[2]), json({ status: "Accepted" })];
      service.store.apply([inactive], service.ledger.last);
      const { id } = service.propose(0, INSTALL);
      assert.equal(service.vote(0, id).state, "Open", "one of two");
      assert.equal(service.vote(2, id).state, "Open", "not active");
      assert.equal(service.vote(1, id, false).state, "Open", "against");
      assert.deepEqual(table(service, "modules"), {});
    });

    test("proposals that are malformed are refused", () => {
      const app = structuredClone(INSTALL[0].args);
      const endpoint = (change) => {
        const changed = structuredClone(app);
        change(changed.bundle.metadata.endpoints["/append"].post);
        return changed;
      };
      for (const proposal of ["", "{", "null", "[]", "{}", '{"actions":[]}', '{"actions":{}}', '{"actions":[1]}', '{"actions":[{}]}', '{"actions":[{"name":"trigger_snapshot"}],"more":1}', '{"actions":[{"name":"trigger_snapshot","more":1}]}']) {
        assert.equal(service.propose(0, proposal).state, "Invalid", proposal);
      }
      for (const [name, args] of [
        ["trigger_snapshot", {}],
        ["set_user", {}],
        ["set_user", { cert: "x" }],
        ["set_user", { cert: USER.pem, more: 1 }],
        ["set_user", { cert: USER.pem, user_data: 1 }],
        ["remove_user", { user_id: USER.id.toUpperCase() }],
        ["remove_user", { user_id: "ab" }],
        ["add_snp_measurement", { measurement: "ab" }],
        ["add_snp_host_data", { host_data: HOST_DATA, security_policy: "another" }],
        ["add_snp_host_data", { host_data: HOST_DATA, security_policy: "" }],
        ["add_snp_tcb_version", { cpuid: "00a00f11", tcb_version: { boot_loader: 256, tee: 0, snp: 22, microcode: 1 } }],
        ["transition_node_to_trusted", { node_id: NODE, valid_from: "now", validity_period_days: 0 }],
        ["transition_service_to_open", { ...opening(service)[0].args, next_service_identity: "x" }],
        ["transition_service_to_open", { next_service_identity: service.ledger.certificate }],
        ["set_js_app", {}],
        ["set_js_app", { ...app, more: 1 }],
        ["set_js_app", { bundle: { ...app.bundle, modules: [] } }],
        ["set_js_app", { bundle: { ...app.bundle, modules: [{ name: "endpoints.js" }] } }],
        ["set_js_app", { bundle: { ...app.bundle, modules: app.bundle.modules.slice(1).filter(({ name }) => name !== "endpoints.js") } }],
        ["set_js_app", endpoint((post) => (post.mode = "historical"))],
        ["set_js_app", endpoint((post) => (post.authn_policies = []))],
        ["set_js_app", endpoint((post) => (post.surprise = 1))],
        ["set_js_app", endpoint((post) => delete post.js_function)],
      ]) {
        const { state, description } = act(name, args);
        assert.equal(state, "Invalid", `${name} ${JSON.stringify(args).slice(0, 100)}`);
        assert.ok(description.length > 0);
      }
    });
  });

  describe("after the opening", () => {
    beforeEach(async () => seed((service = await deployed(engine))));

    for (const [name, args] of SETUP) {
      test(`${name} is refused`, () => {
        const before = everything(service);
        assert.equal(act(name, args).state, "Rejected");
        assert.deepEqual(everything(service), before);
      });

      test(`${name} is refused when it was proposed before, and beside what is possible`, async () => {
        seed((service = await started(engine)));
        const { id } = service.propose(0, [{ name, args }]);
        service.decide(INSTALL);
        service.decide(opening(service));
        const before = everything(service);
        assert.equal(service.vote(0, id).state, "Rejected");
        const both = [{ name: "set_user", args: { cert: USER.pem } }, { name, args }];
        assert.equal(service.decide(both).state, "Rejected");
        assert.deepEqual(everything(service), before);
      });

      test(`${name} is refused by what applies it, too`, () => {
        const before = everything(service);
        const proposal = JSON.stringify({ actions: [{ name, args }] });
        assert.throws(() => service.applyUnresolved(proposal), /the service was opened, its code is final/);
        assert.deepEqual(everything(service), before);
      });
    }

    test("opening again is refused", () => {
      assert.equal(service.decide(opening(service)).state, "Rejected");
      assert.deepEqual(service.effects, [["opened"]]);
    });

    test("a service that recovers is as frozen as an open one, and can be opened again", () => {
      for (const status of ["Recovering", "WaitingForRecoveryShares"]) {
        const info = { cert: service.ledger.certificate, status };
        service.store.apply([["public:ccf.gov.service.info", "00".repeat(8), json(info)]], service.ledger.last);
        for (const [name, args] of SETUP) assert.equal(act(name, args).state, "Rejected", `${name}, ${status}`);
      }
      assert.equal(service.decide(opening(service)).state, "Accepted");
    });

    test("a node of the fixed kind is trusted, once, and can go", () => {
      const trust = () => act("transition_node_to_trusted", { node_id: NODE, valid_from: "now" });
      const status = () => service.governance("nodes.info", NODE).status;
      assert.equal(trust().state, "Accepted");
      assert.equal(status(), "Trusted");
      assert.equal(service.governance("nodes.info", NODE).ledger_secret_seqno, 1);
      assert.deepEqual(table(service, "nodes.endorsed_certificates"), { [NODE]: "endorsed CSR now 365" });
      assert.equal(act("remove_node", { node_id: NODE }).state, "Accepted");
      assert.equal(status(), "Retired");
      assert.equal(trust().state, "Accepted");
      assert.equal(status(), "Retired", "what was retired stays retired");
      assert.equal(act("transition_node_to_trusted", { node_id: "00".repeat(32), valid_from: "now" }).state, "Failed");
    });

    test("a node that was never trusted is forgotten", () => {
      assert.equal(act("remove_node", { node_id: NODE }).state, "Accepted");
      assert.deepEqual(table(service, "nodes.info"), {});
      assert.equal(act("remove_node", { node_id: NODE }).state, "Accepted", "again");
    });

    test("a node without a signing request is not trusted", () => {
      service.store.apply([["public:ccf.gov.nodes.info", hex(NODE), json({ status: "Pending" })]], service.ledger.last);
      assert.equal(act("transition_node_to_trusted", { node_id: NODE, valid_from: "now" }).state, "Failed");
      assert.equal(service.governance("nodes.info", NODE).status, "Pending");
    });

    test("certificates are renewed within the configured limits", () => {
      act("transition_node_to_trusted", { node_id: NODE, valid_from: "now" });
      const pending = json({ status: "Pending", certificate_signing_request: "CSR" });
      service.store.apply([["public:ccf.gov.nodes.info", hex("00".repeat(32)), pending]], service.ledger.last);
      const period = { valid_from: "later", validity_period_days: 30 };
      assert.equal(act("set_all_nodes_certificate_validity", period).state, "Accepted");
      const endorsed = { [NODE]: "endorsed CSR later 30" };
      assert.deepEqual(table(service, "nodes.endorsed_certificates"), endorsed, "trusted nodes alone");
      assert.equal(act("set_service_certificate_validity", period).state, "Accepted");
      assert.deepEqual(service.governance("service.info"), { cert: "renewed later 30", status: "Open" });
      for (const name of ["set_all_nodes_certificate_validity", "set_service_certificate_validity"]) {
        assert.equal(act(name, { ...period, validity_period_days: 366 }).state, "Failed", name);
      }
    });

    test("the host's certificate can be named and withdrawn", () => {
      assert.equal(act("set_user", { cert: USER.pem, user_data: { name: "host" } }).state, "Accepted");
      assert.deepEqual(table(service, "users.certs"), { [USER.id]: USER.pem });
      assert.deepEqual(service.governance("users.info", USER.id), { user_data: { name: "host" } });
      act("set_user", { cert: USER.pem });
      assert.deepEqual(table(service, "users.info"), {});
      assert.equal(act("remove_user", { user_id: USER.id }).state, "Accepted");
      assert.deepEqual(table(service, "users.certs"), {});
    });

    test("ledger files can be closed and snapshots taken", () => {
      assert.equal(act("trigger_ledger_chunk").state, "Accepted");
      assert.equal(act("trigger_snapshot").state, "Accepted");
      assert.deepEqual(service.effects.slice(1), [["chunk"], ["snapshot"]]);
    });

    test("upkeep reaches neither code, constitution, members nor the join policy", () => {
      const kept = () =>
        everything(service).filter(([name]) => /constitution|modules|endpoints|members|snp|service\.config/.test(name));
      const before = kept();
      for (const [name, args] of [
        ["transition_node_to_trusted", { node_id: NODE, valid_from: "now" }],
        ["set_all_nodes_certificate_validity", { valid_from: "now" }],
        ["set_service_certificate_validity", { valid_from: "now" }],
        ["set_user", { cert: USER.pem }],
        ["remove_user", { user_id: USER.id }],
        ["remove_node", { node_id: NODE }],
        ["trigger_ledger_chunk"],
        ["trigger_snapshot"],
      ]) {
        assert.equal(act(name, args).state, "Accepted", name);
      }
      assert.deepEqual(kept().filter(([name]) => !/endorsed/.test(name)), before.filter(([name]) => !/endorsed/.test(name)));
    });
  });

  for (const [when, start] of [["before", started], ["after", deployed]]) {
    test(`what CCF's sample constitutions can do beside that does not exist, ${when} the opening`, async () => {
      service = await start(engine);
      const before = everything(service);
      for (const [name, args] of ABSENT) {
        const { state, description } = act(name, args);
        assert.equal(state, "Invalid", name);
        assert.match(description, /no such action/, name);
      }
      assert.deepEqual(everything(service), before);
    });
  }

  test("there are no other actions than those tried here", () => {
    const found = [...CONSTITUTION.matchAll(/^action\(\s*(SETUP|OPENING|UPKEEP),\s*"(\w+)"/gm)];
    const names = (kind) => found.filter(([, of]) => of === kind).map(([, , name]) => name).sort();
    assert.deepEqual(names("SETUP"), SETUP.map(([name]) => name).sort());
    assert.deepEqual(names("OPENING"), ["transition_service_to_open"]);
    const upkeep = "remove_node remove_user set_all_nodes_certificate_validity set_service_certificate_validity set_user transition_node_to_trusted trigger_ledger_chunk trigger_snapshot";
    assert.deepEqual(names("UPKEEP"), upkeep.split(" "));
    assert.equal([...CONSTITUTION.matchAll(/\baction\(/g)].length, found.length + 1, "and its definition");
  });
});
