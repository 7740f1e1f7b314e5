// What members can propose. An action that is not in this map does not exist: there is none that changes
// this constitution or the members, before or after the service is opened.
//
// SETUP is possible until the service is opened, OPENING opens it, UPKEEP is always possible.

const SETUP = "setup";
const OPENING = "opening";
const UPKEEP = "upkeep";

const actions = new Map();

/** Adds an action: the form of its arguments, and what it does once it was accepted. */
function action(kind, name, form, apply) {
  actions.set(name, { kind, form, apply });
}

/** Key of a table that holds one value. */
const ONLY = new ArrayBuffer(8);

/** A table of the service's governance. */
function governance(name) {
  return ccf.kv[`public:ccf.gov.${name}`];
}

/** A JSON value in a table; undefined if there is none. */
function json(table, key) {
  const value = governance(table).get(key);
  return value === undefined ? undefined : ccf.bufToJsonCompatible(value);
}

function setJson(table, key, value) {
  governance(table).set(key, ccf.jsonCompatibleToBuf(value));
}

/** A JSON value that must be there. */
function requiredJson(table, key, what) {
  const value = json(table, key);
  if (value === undefined) throw new Error(`there is no ${what}`);
  return value;
}
