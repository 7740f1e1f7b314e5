// CCF's key-value store, as an application sees it: tables of bytes, optimistic transactions, and the
// version of each key's last write. https://microsoft.github.io/CCF/main/build_apps/kv/ is what it models.

/** What a transaction may do with a table, by the table's name. */
const ACCESS = {
  application: (table) => (/^public:ccf\./.test(table) ? "read" : "write"),
  reading: () => "read",
  governance: (table) => (/^public:ccf\.gov\./.test(table) ? "write" : "read"),
};

const hex = (buffer) => Buffer.from(buffer).toString("hex");
const buffer = (hexadecimal) => Uint8Array.from(Buffer.from(hexadecimal, "hex")).buffer;

export class Store {
  /** Table to key to {value, version}; a deleted key keeps its version. */
  #tables = new Map();

  /** A transaction on the state as it is now. Access: one of ACCESS. */
  begin(access) {
    return new Transaction(this, ACCESS[access]);
  }

  /** Makes writes visible, as version `seqno`. Writes: [table, key, value or null]. */
  apply(writes, seqno) {
    for (const [table, key, value] of writes) this.#table(table).set(key, { value, version: seqno });
  }

  entry(table, key) {
    return this.#table(table).get(key);
  }

  entries(table) {
    return [...this.#table(table)].filter(([, { value }]) => value !== null);
  }

  /** When anything of the table was written last. */
  versionOf(table) {
    return Math.max(0, ...[...this.#table(table).values()].map(({ version }) => version));
  }

  #table(name) {
    if (!this.#tables.has(name)) this.#tables.set(name, new Map());
    return this.#tables.get(name);
  }
}

export class Transaction {
  #store;
  #access;
  #writes = new Map();
  #reads = new Map();

  constructor(store, access) {
    this.#store = store;
    this.#access = access;
    const table = (name) => this.#handle(name);
    /** ccf.kv */
    this.kv = new Proxy({}, { get: (_, name) => (typeof name === "string" ? table(name) : undefined) });
  }

  /** [table, key, value or null], in hexadecimal. */
  get writes() {
    return [...this.#writes].flatMap(([table, keys]) =>
      [...keys].map(([key, value]) => [table, key, value]),
    );
  }

  /** Something it read was written since. */
  get conflicts() {
    return [...this.#reads.values()].some(({ version, now }) => version !== now());
  }

  #handle(table) {
    const store = this.#store;
    const own = () => this.#writes.get(table) ?? new Map();
    const write = (key, value) => {
      if (this.#access(table) !== "write") throw new TypeError(`table ${table} is read-only here`);
      if (!this.#writes.has(table)) this.#writes.set(table, new Map());
      this.#writes.get(table).set(key, value);
    };
    const read = (key) => {
      if (own().has(key)) return own().get(key);
      this.#noteRead(`${table}/${key}`, () => store.entry(table, key)?.version ?? 0);
      return store.entry(table, key)?.value ?? null;
    };
    const all = () => {
      this.#noteRead(table, () => store.versionOf(table));
      const found = new Map(store.entries(table).map(([key, { value }]) => [key, value]));
      own().forEach((value, key) => (value === null ? found.delete(key) : found.set(key, value)));
      return found;
    };
    const handle = {
      has: (key) => read(bytes(key)) !== null,
      get: (key) => (read(bytes(key)) === null ? undefined : buffer(read(bytes(key)))),
      getVersionOfPreviousWrite: (key) => {
        this.#noteRead(`${table}/${bytes(key)}`, () => store.entry(table, bytes(key))?.version ?? 0);
        return store.entry(table, bytes(key))?.version;
      },
      set: (key, value) => {
        write(bytes(key), bytes(value));
        return handle;
      },
      delete: (key) => write(bytes(key), null),
      clear: () => [...all().keys()].forEach((key) => write(key, null)),
      forEach: (callback) => all().forEach((value, key) => callback(buffer(value), buffer(key), handle)),
      get size() {
        return all().size;
      },
    };
    return handle;
  }

  #noteRead(what, now) {
    if (!this.#reads.has(what)) this.#reads.set(what, { version: now(), now });
  }
}

/** The tables that one transaction wrote, read-only: what a historical query shows. */
export function writtenTables(writes) {
  const store = new Store();
  store.apply(writes, 1);
  return store.begin("reading").kv;
}

function bytes(argument) {
  if (!(argument instanceof ArrayBuffer)) throw new TypeError("the argument is not an ArrayBuffer");
  return hex(argument);
}
