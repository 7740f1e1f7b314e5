// Answers, and errors in CCF's shape: {"error":{"code","message"}}.

import type { Request, Response } from "@microsoft/ccf-app/endpoints.js";

/** A request that ends here, with nothing written. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** Members beside "error". */
    readonly more: object = {},
  ) {
    super(message);
  }
}

/** An endpoint function whose refusals are answers. Anything else thrown is CCF's 500. */
export function endpoint(handler: (request: Request) => Response): (request: Request) => Response {
  return (request) => {
    try {
      return handler(request);
    } catch (thrown) {
      if (!(thrown instanceof Refusal)) throw thrown;
      const { status, code, message, more } = thrown;
      return { statusCode: status, body: { error: { code, message }, ...more } };
    }
  };
}

/** Not yet: the same request again, later. */
export function notYet(): Response {
  return { statusCode: 202, headers: { "retry-after": "1" } };
}
