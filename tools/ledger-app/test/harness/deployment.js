// The application as README.md deploys it: installed and opened by proposals of the members.

import { readFileSync } from "node:fs";
import { Service } from "./service.js";

const built = (name) => readFileSync(new URL(`../../dist/${name}`, import.meta.url), "utf8");

export const CONSTITUTION = built("constitution.js");
export const DIGESTS = JSON.parse(built("digests.json"));
export const INSTALL = JSON.parse(built("set_js_app.json")).actions;

/** A service that is not open yet, and has no application. */
export function started(engine, options) {
  return Service.start(engine, CONSTITUTION, options);
}

/** The one action of an opening proposal. */
export function opening(service, digests = DIGESTS) {
  const next_service_identity = service.ledger.certificate;
  return [{ name: "transition_service_to_open", args: { next_service_identity, ...digests } }];
}

/** An open service with the application. */
export async function deployed(engine, options) {
  const service = await started(engine, options);
  for (const actions of [INSTALL, opening(service)]) {
    const { state, description } = service.decide(actions);
    if (state !== "Accepted") throw new Error(`${actions[0].name}: ${state} ${description}`);
  }
  await service.loadApplication();
  service.ledger.sign();
  return service;
}
