// A ledger over HTTP: its four routes and its key, as a host and a verifier use them.

import assert from "node:assert/strict";
import { X509Certificate, randomBytes } from "node:crypto";
import { request as http } from "node:http";
import { request as https } from "node:https";
import { setTimeout as pause } from "node:timers/promises";

const PAUSE_MS = 10;
const PATIENCE_MS = 30_000;

/** 32 random bytes in hexadecimal: checks share no tag, so a ledger in use can be checked. */
export const random = () => randomBytes(32).toString("hex");

export class Api {
  #url;
  #tls;

  /** The URL has no path; TLS: {cert, key, ca} where the ledger wants them. */
  constructor(url, tls = {}) {
    this.#url = new URL(url);
    this.#tls = tls;
  }

  /** {status, headers, bytes, json}; json is undefined if the body is not JSON. */
  async call(method, path, body) {
    const { status, headers, bytes } = await this.#send(method, path, body);
    const isJson = /^application\/json\b/.test(headers["content-type"] ?? "");
    return { status, headers, bytes, json: isJson ? JSON.parse(bytes.toString("utf8")) : undefined };
  }

  /** A body that is text goes as it is. */
  post(path, body) {
    return this.call("POST", path, typeof body === "string" ? body : JSON.stringify(body));
  }

  append(tag, version, digest) {
    return this.post("/app/append", { tag, version, digest });
  }

  /** An append that must be accepted: its transaction. */
  async appended(tag, version, digest) {
    const answer = await this.append(tag, version, digest);
    assert.equal(answer.status, 200, answer.bytes.toString());
    const { transactionId: _, ...entry } = answer.json;
    assert.deepEqual(entry, { version, digest });
    return transactionOf(answer);
  }

  async read(tag, nonce) {
    const answer = await this.post("/app/read", { tag, nonce });
    assert.equal(answer.status, 200, answer.bytes.toString());
    return { ...answer.json, transactionId: transactionOf(answer) };
  }

  async current(tag) {
    const answer = await this.call("GET", `/app/current?tag=${tag}`);
    assert.equal(answer.status, 200, answer.bytes.toString());
    return answer.json;
  }

  receipt(transaction) {
    return this.call("GET", `/app/receipt?transaction_id=${transaction}`);
  }

  /** The receipt's answer once it is not "not yet" any more. */
  async receiptInTheEnd(transaction) {
    for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await pause(PAUSE_MS)) {
      const answer = await this.receipt(transaction);
      if (answer.status !== 202) return answer;
      assert.match(answer.headers["retry-after"], /^[0-9]+$/);
    }
    throw new Error(`no receipt of ${transaction} after ${PATIENCE_MS} ms`);
  }

  /** The service's key, from the certificate it shows. */
  async key() {
    const { json } = await this.call("GET", "/node/network");
    assert.equal(json.service_status, "Open");
    return new X509Certificate(json.service_certificate).publicKey;
  }

  #send(method, path, body) {
    const send = this.#url.protocol === "https:" ? https : http;
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    return new Promise((resolve, reject) => {
      const sent = send(new URL(path, this.#url), { method, headers, ...this.#tls }, (response) => {
        const chunks = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () => {
          const { statusCode: status, headers } = response;
          resolve({ status, headers, bytes: Buffer.concat(chunks) });
        });
      });
      sent.on("error", reject);
      sent.end(body);
    });
  }
}

/** The transaction an answer speaks of. Its own body knows it only on a repeat: CCF names a transaction
 * after the application's answer was made, in a header. */
export function transactionOf({ json, headers }) {
  const id = json.transactionId ?? headers["x-ms-ccf-transaction-id"];
  assert.match(id, /^[1-9][0-9]*\.[1-9][0-9]*$/);
  return id;
}

/** An error in CCF's shape. */
export function refused(answer, status, code) {
  assert.equal(answer.status, status, answer.bytes.toString());
  assert.equal(answer.json?.error?.code, code, answer.bytes.toString());
  assert.ok(answer.json.error.message.length > 0);
}
