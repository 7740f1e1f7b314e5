// What may come in, and nothing else: every member named, once, of its exact form.

import type { Body, Request } from "@microsoft/ccf-app/endpoints.js";
import { Refusal } from "./answer.js";

/** 32 bytes in lower-case hexadecimal. */
export type Hex32 = string;

/** A tag's next entry. */
export interface Append {
  tag: Hex32;
  version: number;
  digest: Hex32;
}

/** A question that its asker stamps. */
export interface Read {
  tag: Hex32;
  nonce: Hex32;
}

/** CCF's name of a transaction, "view.seqno". */
export interface TransactionId {
  view: number;
  seqno: number;
}

/** The body of an append. */
export function appendOf(request: Request): Append {
  const { tag, version, digest } = object(request.body, ["tag", "version", "digest"]);
  if (typeof version !== "number" || !Number.isSafeInteger(version) || version < 1) {
    throw invalid("version is an integer, 1 up to 2^53 - 1");
  }
  return { tag: hex32("tag", tag), version, digest: hex32("digest", digest) };
}

/** The body of a read. */
export function readOf(request: Request): Read {
  const { tag, nonce } = object(request.body, ["tag", "nonce"]);
  return { tag: hex32("tag", tag), nonce: hex32("nonce", nonce) };
}

/** The tag asked for. */
export function tagOf(request: Request): Hex32 {
  return hex32("tag", onlyParameter(request, "tag"));
}

/** The transaction asked for. */
export function transactionOf(request: Request): TransactionId {
  const text = onlyParameter(request, "transaction_id") ?? "";
  const parts = /^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$/.exec(text);
  const view = Number(parts?.[1]);
  const seqno = Number(parts?.[2]);
  if (!Number.isSafeInteger(view) || !Number.isSafeInteger(seqno)) {
    throw new Refusal(400, "InvalidQueryParameterValue", "transaction_id is view.seqno");
  }
  return { view, seqno };
}

function object(body: Body, names: string[]): Record<string, unknown> {
  let text: string;
  let value: unknown;
  try {
    text = body.text();
    value = JSON.parse(text);
  } catch {
    throw invalid("the body is not JSON");
  }
  if (typeof value !== "object" || value === null) {
    throw invalid("the body is not a JSON object");
  }
  const members = value as Record<string, unknown>;
  // Neither the names nor the values hold a quotation mark, so their number tells of a member that this
  // request has not, and of one written twice, of which JSON.parse keeps the last. What is absent is
  // refused by its form.
  const strings = names.length + names.filter((name) => typeof members[name] === "string").length;
  if (text.split('"').length - 1 !== 2 * strings) {
    throw invalid(`the body has the members ${names.join(", ")}, each once, and no other`);
  }
  return members;
}

/** The query's one parameter, as it stands there: nothing asked here needs percent-encoding. */
function onlyParameter(request: Request, name: string): string | undefined {
  const start = `${name}=`;
  return request.query.startsWith(start) ? request.query.slice(start.length) : undefined;
}

function hex32(name: string, value: unknown): Hex32 {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) {
    throw invalid(`${name} is 64 lower-case hex digits`);
  }
  return value;
}

function invalid(message: string): Refusal {
  return new Refusal(400, "InvalidInput", message);
}
