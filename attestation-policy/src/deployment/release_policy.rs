//! The Managed HSM release policy (Azure Key Vault's key release policy grammar, version 1.0.0).
//!
//! Only `equals` is used: it is the one condition that every version of the service evaluates. A
//! claim that is missing counts as unmet. One branch per workload; every condition of a branch must
//! hold.
//!
//! The host chooses how a guest is launched, and POLICY is not in the launch measurement: a genuine
//! image could be launched, where no client ever looks, in a way that every client would refuse. So
//! whatever a statement demands of the launch and a claim tells is demanded here too: VMPL, debugging,
//! migration, multithreading, the keys behind the ID block. No claim tells the other bits of POLICY,
//! nor PLATFORM_INFO. A named ID or author key binds all of POLICY, which the ID block carries.
//!
//! For confidential containers `equals` can pin HOST_DATA, that Microsoft's service found the utility
//! VM compliant, and who endorsed it, but not its measurement, which changes with each release. The
//! lowest security version becomes a list: it and the [`SVNS_AHEAD`] after it, one of which must be
//! equal. Without it, the key would be released under an old utility VM whose weakness is public, and
//! no client could ever see that.

use serde::Serialize;
use serde_json::{Value, json};

use crate::report::PolicyBit;
use crate::statement::{Aci, Statement, Workload};

/// The role that the enclave claims when it asks for the root key.
const RELEASE_ROLE: &str = "release";

/// How many security versions after the lowest get the key. There were five in the first three
/// years; a policy that is immutable has to last.
pub(super) const SVNS_AHEAD: u64 = 32;

/// Claims of the attestation service's tokens.
pub(super) mod claim {
    pub(crate) const ATTESTATION_TYPE: &str = "x-ms-attestation-type";
    pub(crate) const DEBUGGABLE: &str = "x-ms-sevsnpvm-is-debuggable";
    pub(crate) const MIGRATION: &str = "x-ms-sevsnpvm-migration-allowed";
    pub(crate) const VMPL: &str = "x-ms-sevsnpvm-vmpl";
    pub(crate) const SMT: &str = "x-ms-sevsnpvm-smt-allowed";
    pub(crate) const ID_KEY: &str = "x-ms-sevsnpvm-idkeydigest";
    pub(crate) const AUTHOR_KEY: &str = "x-ms-sevsnpvm-authorkeydigest";
    pub(crate) const ROLE: &str = "x-ms-runtime.keyfold.role";
    pub(crate) const CONFIG: &str = "x-ms-runtime.keyfold.config";
    pub(crate) const POLICY_HASH: &str = "x-ms-policy-hash";
    pub(crate) const MEASUREMENT: &str = "x-ms-sevsnpvm-launchmeasurement";
    pub(crate) const HOST_DATA: &str = "x-ms-sevsnpvm-hostdata";
    pub(crate) const COMPLIANCE: &str = "x-ms-compliance-status";
    pub(crate) const UVM_ISSUER: &str = "x-ms-sevsnpvm-uvm-endorsement-headers.iss";
    pub(crate) const UVM_FEED: &str = "x-ms-sevsnpvm-uvm-endorsement-headers.feed";
    pub(crate) const UVM_SVN: &str = "x-ms-sevsnpvm-uvm-endorsement.x-ms-sevsnpvm-guestsvn";
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy<'a> {
    version: &'static str,
    any_of: Vec<Authority<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Authority<'a> {
    authority: &'a str,
    all_of: Vec<Rule>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Rule {
    Equals(Condition),
    #[serde(rename_all = "camelCase")]
    Any {
        any_of: Vec<Condition>,
    },
}

/// One claim, and the only value it may have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Condition {
    pub(super) claim: &'static str,
    pub(super) equals: Value,
}

fn equals((claim, equals): (&'static str, Value)) -> Condition {
    Condition { claim, equals }
}

/// The policy's text. `policy_hash`: what the attestation policy must be, where it is pinned.
pub(super) fn render(statement: &Statement, authority: &str, policy_hash: Option<&str>) -> String {
    let rules = |workload| {
        let mut conditions = every_branch(statement, policy_hash);
        // What is attested, then what code it is, then how it runs.
        conditions.splice(1..1, identity(workload));
        let mut rules: Vec<Rule> = conditions.into_iter().map(Rule::Equals).collect();
        if let Workload::Aci(workload) = workload {
            rules.push(Rule::Any { any_of: versions(workload) });
        }
        rules
    };
    let workloads = statement.workloads().iter();
    let any_of = workloads.map(|workload| Authority { authority, all_of: rules(workload) });
    let policy = Policy { version: "1.0.0", any_of: any_of.collect() };
    let text = serde_json::to_string_pretty(&policy).expect("strings always have a JSON form");
    text + "\n"
}

/// What holds whatever the workload; the attestation type first.
pub(super) fn every_branch(statement: &Statement, policy_hash: Option<&str>) -> Vec<Condition> {
    let pinned = policy_hash.map(|hash| (claim::POLICY_HASH, json!(hash)));
    [
        (claim::ATTESTATION_TYPE, json!("sevsnpvm")),
        (claim::DEBUGGABLE, json!(false)),
        // The host chooses the guest policy: a migratable guest's memory, key and all, could be
        // taken to the host's own migration agent.
        (claim::MIGRATION, json!(false)),
        // What runs less privileged is not the measured code, and the host itself asks as -1.
        (claim::VMPL, json!(0)),
        (claim::ROLE, json!(RELEASE_ROLE)),
        (claim::CONFIG, json!(statement.config())),
    ]
    .into_iter()
    .chain(pinned)
    .map(equals)
    .collect()
}

/// What identifies a workload, and how it must have been launched.
pub(super) fn identity(workload: &Workload) -> Vec<Condition> {
    let identity = match workload {
        Workload::SnpDirect(workload) => vec![(claim::MEASUREMENT, json!(workload.measurement))],
        Workload::Aci(workload) => vec![
            (claim::COMPLIANCE, json!("azure-compliant-uvm")),
            (claim::HOST_DATA, json!(workload.host_data)),
            (claim::UVM_ISSUER, json!(workload.uvm.issuer)),
            (claim::UVM_FEED, json!(workload.uvm.feed())),
        ],
        #[cfg(feature = "development")]
        Workload::Simulated(workload) => vec![(claim::MEASUREMENT, json!(workload.measurement))],
    };
    identity.into_iter().map(equals).chain(launch(workload)).collect()
}

/// What a workload demands of its launch beyond what every one does, as far as claims tell it.
pub(super) fn launch(workload: &Workload) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if let Workload::SnpDirect(workload) = workload {
        let id_key = workload.id_key_digest.map(|digest| (claim::ID_KEY, json!(digest)));
        let author_key = workload.author_key_digest.map(|key| (claim::AUTHOR_KEY, json!(key)));
        conditions.extend(id_key.into_iter().chain(author_key));
    }
    if let Some(machine) = workload.machine() {
        for (bits, is_on) in [(machine.policy_required, true), (machine.policy_forbidden, false)] {
            if bits.contains(&PolicyBit::SmtAllowed) {
                conditions.push((claim::SMT, json!(is_on)));
            }
        }
    }
    conditions.into_iter().map(equals).collect()
}

/// The security versions, one of which the utility VM must have. The claim is a text.
fn versions(workload: &Aci) -> Vec<Condition> {
    let lowest = workload.uvm.minimum_svn;
    (lowest..=lowest.saturating_add(SVNS_AHEAD))
        .map(|svn| equals((claim::UVM_SVN, json!(svn.to_string()))))
        .collect()
}
