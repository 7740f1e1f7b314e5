// Historical queries: a range is fetched when it is asked for, and there the next time.

import { writtenTables } from "./store.js";

export class Historical {
  #ledger;
  #fetched = new Map();
  /** The most transactions that were asked for at once. */
  largest = 0;

  constructor(ledger) {
    this.#ledger = ledger;
  }

  range(handle, start, end, seconds) {
    if (![handle, start, end, seconds].every((value) => Number.isSafeInteger(value) && value >= 0)) {
      throw new RangeError("a handle, a range and an expiry are not negative");
    }
    this.largest = Math.max(this.largest, end - start + 1);
    const range = `${start}-${end}`;
    const ready = this.#fetched.get(handle) === range && end <= this.#ledger.committed;
    this.#fetched.set(handle, range);
    if (!ready) return null;
    return this.#ledger.entries.slice(start - 1, end).map(({ view, seqno, writes }) => ({
      transactionId: `${view}.${seqno}`,
      receipt: this.#ledger.receipt(seqno),
      kv: writtenTables(writes),
    }));
  }

  drop(handle) {
    return this.#fetched.delete(handle);
  }
}
