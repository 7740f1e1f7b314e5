// The harness over HTTP, routes as a CCF node has them: the application under /app, and /node/network.

import { createServer } from "node:http";

/** Longer than an answer takes, so that a receipt is first not there yet. */
const SIGNATURE_DELAY_MS = 20;

/** Serves on a free port of this machine: {url, close}. */
export async function serve(service) {
  const server = createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const { status, headers, body } = answer(service, request, Buffer.concat(chunks));
      response.writeHead(status, headers).end(body);
    });
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const timer = setInterval(() => {
    const unsigned = service.ledger.last > service.ledger.committed;
    if (unsigned) service.ledger.sign();
  }, SIGNATURE_DELAY_MS);
  const close = () => {
    clearInterval(timer);
    server.closeAllConnections();
    return new Promise((closed) => server.close(closed));
  };
  return { url: `http://127.0.0.1:${server.address().port}`, close };
}

function answer(service, { method, url }, body) {
  const [path, query = ""] = url.split("?", 2);
  if (path.startsWith("/app/")) return service.request({ method, path: path.slice(4), query, body });
  const known = method === "GET" && path === "/node/network";
  const content = known ? network(service) : { error: { code: "ResourceNotFound", message: path } };
  const headers = { "content-type": "application/json" };
  return { status: known ? 200 : 404, headers, body: JSON.stringify(content) };
}

function network({ ledger }) {
  return {
    service_status: "Open",
    service_certificate: ledger.certificate,
    current_view: ledger.view,
    current_service_create_txid: "2.1",
    recovery_count: 0,
  };
}
