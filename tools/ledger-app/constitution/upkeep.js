// Always: nodes of the fixed kind come and go, certificates are renewed on the same keys, the host's
// certificate is named. Nothing here reaches what receipts mean.

action(
  UPKEEP,
  "transition_node_to_trusted",
  members({ node_id: hexOf(32), valid_from: text, validity_period_days: optional(days) }),
  ({ node_id, valid_from, validity_period_days }) => {
    const key = ccf.strToBuf(node_id);
    const node = requiredJson("nodes.info", key, `node ${node_id}`);
    // The node compared its attestation with the join policy when it asked to join.
    if (node.status !== "Pending") return;
    endorse(node_id, node, valid_from, validity_period_days);
    const ledger_secret_seqno = ccf.network.getLatestLedgerSecretSeqno();
    setJson("nodes.info", key, { ...node, status: "Trusted", ledger_secret_seqno });
  },
);

action(UPKEEP, "remove_node", members({ node_id: hexOf(32) }), ({ node_id }) => {
  const key = ccf.strToBuf(node_id);
  const node = json("nodes.info", key);
  if (node === undefined) return;
  if (node.status === "Pending") governance("nodes.info").delete(key);
  else setJson("nodes.info", key, { ...node, status: "Retired" });
});

const PERIOD = members({ valid_from: text, validity_period_days: optional(days) });

action(UPKEEP, "set_all_nodes_certificate_validity", PERIOD, (args) => {
  governance("nodes.info").forEach((value, key) => {
    const node = ccf.bufToJsonCompatible(value);
    if (node.status !== "Trusted") return;
    endorse(ccf.bufToStr(key), node, args.valid_from, args.validity_period_days);
  });
});

action(UPKEEP, "set_service_certificate_validity", PERIOD, (args) => {
  const most = longest("maximum_service_certificate_validity_days", args.validity_period_days);
  const cert = ccf.network.generateNetworkCertificate(args.valid_from, most);
  const service = requiredJson("service.info", ONLY, "service");
  setJson("service.info", ONLY, { ...service, cert });
});

action(
  UPKEEP,
  "set_user",
  members({ cert: certificate, user_data: optional(object) }),
  ({ cert, user_data }) => {
    const key = ccf.strToBuf(ccf.pemToId(cert));
    governance("users.certs").set(key, ccf.strToBuf(cert));
    if (user_data === undefined) governance("users.info").delete(key);
    else setJson("users.info", key, { user_data });
  },
);

action(UPKEEP, "remove_user", members({ user_id: hexOf(32) }), ({ user_id }) => {
  governance("users.certs").delete(ccf.strToBuf(user_id));
  governance("users.info").delete(ccf.strToBuf(user_id));
});

action(UPKEEP, "trigger_ledger_chunk", nothing, () => ccf.node.triggerLedgerChunk());
action(UPKEEP, "trigger_snapshot", nothing, () => ccf.node.triggerSnapshot());

/** Has the service sign a node's certificate. */
function endorse(nodeId, node, validFrom, validityPeriodDays) {
  const request = node.certificate_signing_request;
  need(request !== undefined, `node ${nodeId} has no certificate signing request`);
  const most = longest("maximum_node_certificate_validity_days", validityPeriodDays);
  const cert = ccf.network.generateEndorsedCertificate(request, validFrom, most);
  governance("nodes.endorsed_certificates").set(ccf.strToBuf(nodeId), ccf.strToBuf(cert));
}

/** The days asked for, within what the service's configuration allows. */
function longest(limit, wanted) {
  const most = requiredJson("service.config", ONLY, "service configuration")[limit] ?? 365;
  need(wanted === undefined || wanted <= most, `validity_period_days: at most ${most}`);
  return wanted ?? most;
}
