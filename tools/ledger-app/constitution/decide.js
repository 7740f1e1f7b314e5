// How a proposal is judged: the three functions that CCF calls.
//
// The freeze is one rule, `refusal`, asked when a proposal is resolved and again before anything of it
// is applied: so a proposal made before the opening is refused after it as well.

/** Is the proposal well-formed? */
export function validate(input) {
  try {
    const proposal = JSON.parse(input);
    members({ actions: list })(proposal);
    for (const step of proposal.actions) {
      members({ name: text, args: optional(() => {}) })(step);
      need(actions.has(step.name), `${step.name}: no such action`);
      within(step.name, () => actions.get(step.name).form(step.args));
      // Else an action behind it could see the service as it was, or as it is, by its place alone.
      const alone = actions.get(step.name).kind !== OPENING || proposal.actions.length === 1;
      need(alone, `${step.name}: stands alone in its proposal`);
    }
    return { valid: true, description: "" };
  } catch (error) {
    return { valid: false, description: error.message };
  }
}

/** Do the votes decide it? More than half of the active members accept a proposal. */
export function resolve(input, proposerId, votes) {
  if (refusal(JSON.parse(input)) !== undefined) return "Rejected";
  const active = new Set();
  governance("members.info").forEach((value, key) => {
    if (ccf.bufToJsonCompatible(value).status === "Active") active.add(ccf.bufToStr(key));
  });
  const inFavour = votes.filter(({ member_id, vote }) => vote === true && active.has(member_id));
  return inFavour.length > active.size / 2 ? "Accepted" : "Open";
}

/** Does what the proposal says. */
export function apply(input, proposalId) {
  const proposal = JSON.parse(input);
  const why = refusal(proposal);
  if (why !== undefined) throw new Error(why);
  for (const { name, args } of proposal.actions) {
    within(name, () => actions.get(name).apply(args));
  }
}

/** Why the freeze forbids the proposal; undefined if it does not. "Opening" is what a new service is until it
 * is opened, once: a service that recovers is "Recovering". */
function refusal(proposal) {
  const { status } = requiredJson("service.info", ONLY, "service");
  for (const { name } of proposal.actions) {
    const { kind } = actions.get(name);
    if (kind === SETUP && status !== "Opening") return `${name}: the service was opened, its code is final`;
    if (kind === OPENING && status === "Open") return `${name}: the service is open`;
  }
  return undefined;
}
