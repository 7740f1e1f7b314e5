// Opening: what is there from now on, by name, and for good.

/** SHA-256 of bytes, in hexadecimal. */
function sha256(bytes) {
  return hex(new Uint8Array(ccf.crypto.digest("SHA-256", bytes)));
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** SHA-256 of a table: of each entry's SHA-256 of key and of value, entries in the order of their keys. */
function tableDigest(name) {
  const entries = [];
  governance(name).forEach((value, key) => {
    entries.push([ccf.bufToStr(key), sha256(key) + sha256(value)]);
  });
  entries.sort(([one], [other]) => (one < other ? -1 : 1));
  const digits = entries.map(([, digests]) => digests).join("");
  const bytes = new Uint8Array(digits.length / 2);
  for (let at = 0; at < bytes.length; at++) bytes[at] = parseInt(digits.slice(2 * at, 2 * at + 2), 16);
  return { entries: entries.length, digest: sha256(bytes.buffer) };
}

action(
  OPENING,
  "transition_service_to_open",
  members({
    next_service_identity: certificate,
    previous_service_identity: optional(certificate),
    constitution: hexOf(32),
    modules: hexOf(32),
    endpoints: hexOf(32),
  }),
  (args) => {
    const constitution = requiredJson("constitution", ONLY, "constitution");
    same("constitution", sha256(ccf.strToBuf(constitution)), args.constitution);
    for (const name of ["modules", "endpoints"]) {
      const { entries, digest } = tableDigest(name);
      need(entries > 0, `there are no ${name}: the application comes first`);
      same(name, digest, args[name]);
    }
    const previous = args.previous_service_identity;
    ccf.node.transitionServiceToOpen(
      previous === undefined ? undefined : ccf.strToBuf(previous),
      ccf.strToBuf(args.next_service_identity),
    );
  },
);

function same(what, found, proposed) {
  need(found === proposed, `the ${what} in place are ${found}, not the ${proposed} of this proposal`);
}
