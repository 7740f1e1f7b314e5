// A CCF service of one node, as far as an application and a constitution can tell.
//
// Models: transactions that are run again on a conflict and leave nothing when they fail or answer with
// an error; the claims digest; transaction ids known only after the handler; endpoints found in the
// tables that governance writes; proposals, ballots and their three functions, a failed one leaving
// nothing; signature transactions, commits at them, receipts, views, a primary that loses what was
// not committed. Does not model: several nodes, TLS and who calls, private tables, time, the proposals'
// own records. It is written from CCF's documentation and source; it is not CCF.

import { createHash, generateKeyPairSync } from "node:crypto";
import { ccfFor } from "./ccf.js";
import { Historical } from "./historical.js";
import { Ledger } from "./ledger.js";
import { Store } from "./store.js";
import { certificate } from "./x509.js";

const ONLY = "00".repeat(8);
const ATTEMPTS = 30;
const hex = (text) => Buffer.from(text).toString("hex");
const json = (value) => hex(JSON.stringify(value));

export class Service {
  effects = [];
  proposals = new Map();
  /** Called between a handler's end and its commit, once: what another request does meanwhile. */
  meanwhile = undefined;

  constructor(engine, { issuer = "https://ledger.test", subject = "keyfold" } = {}) {
    this.engine = engine;
    this.ledger = new Ledger({ issuer, subject });
    this.store = new Store();
    this.historical = new Historical(this.ledger);
  }

  /** A new service with its members and constitution: "Opening". */
  static async start(engine, constitution, { members = 3, ...options } = {}) {
    const service = new Service(engine, options);
    const identities = Array.from({ length: members }, (_, index) => identity(`member ${index}`));
    service.members = identities.map(({ id }) => id);
    const writes = [
      ...identities.flatMap(({ id, pem }) => [
        ["public:ccf.gov.members.certs", hex(id), hex(pem)],
        ["public:ccf.gov.members.info", hex(id), json({ status: "Active" })],
      ]),
      ["public:ccf.gov.constitution", ONLY, json(constitution)],
      ["public:ccf.gov.service.config", ONLY, json({ recovery_threshold: 1 })],
      ["public:ccf.gov.service.info", ONLY, json({ cert: service.ledger.certificate, status: "Opening" })],
    ];
    service.#commit(writes);
    service.constitution = await engine.load([["/constitution.js", constitution]]);
    return service;
  }

  /** Loads the application that the tables hold, as CCF does for the next request. */
  async loadApplication() {
    const modules = this.store.entries("public:ccf.gov.modules");
    const text = (digits) => Buffer.from(digits, "hex").toString("utf8");
    this.application = await this.engine.load(
      modules.map(([path, { value }]) => [text(path), text(value)]),
    );
  }

  /** A governance value that is JSON under the one key. */
  governance(table, key = ONLY) {
    const value = this.store.entry(`public:ccf.gov.${table}`, key === ONLY ? ONLY : hex(key))?.value;
    return value == null ? undefined : JSON.parse(Buffer.from(value, "hex").toString("utf8"));
  }

  viewOf(seqno) {
    return this.ledger.viewOf(seqno);
  }

  /** One request to the application: {status, headers, body}. */
  request({ method, path, query = "", body = "" }) {
    const { properties, error } = this.#endpoint(method, path);
    if (properties === undefined) return error;
    const request = {
      ...{ method, path, query, url: `${path}?${query}`, route: path, headers: {}, params: {} },
      hostname: "ledger.test",
      body: bodyOf(Buffer.from(body)),
    };
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const answer = this.#attempt(properties, request);
      if (answer !== "conflict") return answer;
    }
    return failure(503, "TransactionCommitAttemptsExceedLimit", "too many conflicts");
  }

  /** A member proposes: the state it is in then, and its id. */
  propose(member, actions) {
    const proposal = typeof actions === "string" ? actions : JSON.stringify({ actions });
    const transaction = this.store.begin("governance");
    const { valid, description } = this.#constitution("validate", this.store.begin("reading"), [proposal]);
    if (valid !== true) return { state: "Invalid", description };
    const id = createHash("sha256").update(`${this.proposals.size} ${proposal}`).digest("hex");
    const info = { id, proposal, proposer: this.members[member], ballots: new Map(), state: "Open" };
    this.proposals.set(id, info);
    return this.#resolve(info, transaction);
  }

  /** A member's ballot. */
  vote(member, id, vote = true) {
    const info = this.proposals.get(id);
    if (info.state !== "Open") throw new Error(`the proposal is ${info.state}`);
    info.ballots.set(this.members[member], vote);
    return this.#resolve(info, this.store.begin("governance"));
  }

  /** Proposed by the first and accepted by enough. */
  decide(actions) {
    let outcome = this.propose(0, actions);
    for (let member = 0; member < this.members.length && outcome.state === "Open"; member++) {
      outcome = this.vote(member, outcome.id);
    }
    return outcome;
  }

  /** Calls `apply` with a proposal that was not resolved: what it alone keeps out. */
  applyUnresolved(proposal) {
    this.#constitution("apply", this.store.begin("governance"), [proposal, ""]);
  }

  /** As after the last signature: what was not committed is gone, in a new view. */
  changeView() {
    this.ledger.loseUncommitted();
    this.store = new Store();
    for (const { writes, seqno } of this.ledger.entries) this.store.apply(writes, seqno);
  }

  #endpoint(method, path) {
    const at = (verb) => this.governance("endpoints", `${verb} ${path}`);
    const properties = at(method);
    if (properties !== undefined) return { properties };
    const others = ["GET", "POST"].filter((verb) => at(verb) !== undefined);
    if (others.length === 0) return { error: failure(404, "ResourceNotFound", `Unknown path: ${path}.`) };
    const error = failure(405, "UnsupportedHttpVerb", `Allowed methods: ${others}.`);
    return { error: { ...error, headers: { ...error.headers, allow: others.join(", ") } } };
  }

  #attempt({ js_module, js_function, mode }, request) {
    const transaction = this.store.begin(mode === "readwrite" ? "application" : "reading");
    const set = {};
    const readAt = `${this.ledger.view}.${this.ledger.last}`;
    let answer;
    try {
      answer = this.application(js_module, js_function, ccfFor(this, transaction, set), [request]);
    } catch (error) {
      return failure(500, "InternalError", `Exception thrown while executing. ${error.message}`);
    }
    const response = responseOf(answer);
    const meanwhile = this.meanwhile;
    this.meanwhile = undefined;
    meanwhile?.();
    const applied = set.applyWrites === true || (response.status >= 200 && response.status < 300);
    if (!applied) return response;
    if (transaction.writes.length === 0) return named(response, readAt);
    if (transaction.conflicts) return "conflict";
    const { view, seqno } = this.#commit(transaction.writes, set.claims);
    return named(response, `${view}.${seqno}`);
  }

  #commit(writes, claims) {
    const entry = this.ledger.append(writes, claims);
    this.store.apply(writes, entry.seqno);
    return entry;
  }

  #resolve(info, transaction) {
    const votes = [...info.ballots].map(([member_id, vote]) => ({ member_id, vote }));
    const { id, proposal, proposer } = info;
    const reading = this.store.begin("reading");
    info.state = this.#constitution("resolve", reading, [proposal, proposer, votes, id]);
    if (info.state === "Accepted") {
      try {
        this.#constitution("apply", transaction, [proposal, id]);
      } catch (error) {
        info.state = "Failed";
        return { id, state: info.state, description: error.message };
      }
      this.#commit(transaction.writes);
    }
    return { id, state: info.state };
  }

  #constitution(name, transaction, args) {
    return this.constitution("/constitution.js", name, ccfFor(this, transaction), args);
  }
}

/** A certificate and CCF's id of it. */
export function identity(name) {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-384" });
  const pem = certificate(privateKey, publicKey, name);
  const der = Buffer.from(pem.replace(/-----.*-----|\s/g, ""), "base64");
  return { pem, id: createHash("sha256").update(der).digest("hex") };
}

function bodyOf(bytes) {
  const arrayBuffer = () => Uint8Array.from(bytes).buffer;
  const text = () => globalThis.ccf.bufToStr(arrayBuffer());
  return { arrayBuffer, text, json: () => JSON.parse(text()) };
}

/** As CCF turns what a handler returns into a response. */
function responseOf({ statusCode = 200, headers = {}, body }) {
  const binary = body instanceof ArrayBuffer || ArrayBuffer.isView(body);
  const type = binary ? "application/octet-stream" : typeof body === "string" ? "text/plain" : "application/json";
  const bytes =
    body === undefined
      ? Buffer.alloc(0)
      : binary
        ? Buffer.from(body)
        : Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
  const content = body === undefined ? {} : { "content-type": type };
  return { status: statusCode, headers: { ...content, ...headers }, body: bytes };
}

function named(response, id) {
  return { ...response, headers: { ...response.headers, "x-ms-ccf-transaction-id": id } };
}

function failure(status, code, message) {
  return responseOf({ statusCode: status, body: { error: { code, message } } });
}
