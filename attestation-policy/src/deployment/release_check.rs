//! Whether a release policy, however it came about, releases the root key to nothing but what a
//! deployment accepts.
//!
//! The policy is taken apart into branches, each a set of conditions that together release the
//! key. A branch passes only if it demands everything that the branch made for one of the
//! deployment's workloads demands; more conditions only narrow it. So the answer errs on one side: a
//! policy that says the same in other words may be refused, one that releases more never passes.

mod grammar;

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use serde::Serialize;
use serde_json::{Value, json};

use crate::statement::{Statement, Workload, WorkloadId};
use crate::values::shorten;

use super::Deployment;
use super::release_policy::{self, Condition, claim};

use grammar::{Branch, Document};

/// Why bytes are not a release policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a release policy: {0}")]
pub struct ReleasePolicyError(String);

/// What is wrong with a policy, one entry for each thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// What releases more than the deployment accepts; none if the policy is right.
    pub findings: Vec<Finding>,
    /// Whether Managed HSM holds it immutable; `None` when only the policy itself was given, which
    /// does not say.
    pub immutable: Option<bool>,
    /// Workloads that the deployment accepts and the policy does not: they never get the key.
    pub unserved: Vec<WorkloadId>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind.
    pub reason: Reason,
    /// Which entry of the policy's outer `anyOf`, from 1; none when it is about the whole.
    pub entry: Option<usize>,
    /// What would be right, and what is there.
    pub detail: String,
}

/// Kinds of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Believes tokens of another attestation service.
    ForeignAuthority,
    /// Does not demand SEV-SNP.
    AttestationType,
    /// Would release to a guest whose memory the host can read.
    DebugGuest,
    /// Would release to a guest that the host can take elsewhere.
    MigratableGuest,
    /// Would release to what runs less privileged than the measured code, or to the host itself.
    LessPrivileged,
    /// Would release to a guest whose cores' other threads run, or do not, against the deployment.
    Multithreading,
    /// Would release to a guest launched without an ID block, or with one of another ID key.
    IdKey,
    /// Would release to a guest whose ID key nobody certified, or another author key did.
    AuthorKey,
    /// Would release to whoever does not ask as Keyfold's boot does.
    Role,
    /// Would release to an enclave of another configuration: another ledger, above all.
    Config,
    /// Does not demand the attestation policy that the deployment pins.
    AttestationPolicy,
    /// Would release to code that the deployment does not list.
    UnlistedWorkload,
    /// Would release to any code.
    AnyWorkload,
    /// Would release to any container under an endorsed utility VM.
    AciWithoutHostData,
    /// Would release to a container under a utility VM that nobody endorsed, or somebody else.
    AciUnendorsed,
    /// Would release to a container under a utility VM older than the deployment's lowest.
    AciVersion,
    /// Whoever manages the key can replace the policy.
    Mutable,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(f, "entry {entry}: {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

pub(super) fn check(
    deployment: &Deployment, text: &[u8],
) -> Result<PolicyVerdict, ReleasePolicyError> {
    let document = Document::parse(text).map_err(ReleasePolicyError)?;
    let branches = document.policy.branches().map_err(ReleasePolicyError)?;
    let expected = Expected::new(deployment);
    let mut findings = BTreeSet::new();
    for branch in &branches {
        expected.judge(branch, &mut findings);
    }
    // Several branches of one entry have the same fault.
    let mut findings: Vec<Finding> = findings.into_iter().collect();
    if document.immutable == Some(false) {
        findings.push(Finding {
            reason: Reason::Mutable,
            entry: None,
            detail:
                "immutable: expected true, found false: whoever may manage the key can replace \
                     this policy by one that releases the key to anybody"
                    .into(),
        });
    }
    let is_served = |workload: &&Workload| {
        branches.iter().any(|branch| expected.holds(branch) && demands_all(branch, workload))
    };
    let unserved = deployment.statement.workloads().iter().filter(|one| !is_served(one));
    Ok(PolicyVerdict {
        findings,
        immutable: document.immutable,
        unserved: unserved.map(Workload::id).collect(),
    })
}

/// What every branch has to demand.
struct Expected<'a> {
    authority: &'a str,
    statement: &'a Statement,
    conditions: Vec<(Reason, Condition)>,
}

impl<'a> Expected<'a> {
    fn new(deployment: &'a Deployment) -> Self {
        let statement = &deployment.statement;
        let hash = deployment.pinned_policy_hash();
        let conditions = release_policy::every_branch(statement, hash.as_deref()).into_iter();
        let conditions = conditions.map(|condition| (reason(condition.claim), condition)).collect();
        let authority = deployment.key_release.authority.as_str();
        Self { authority, statement, conditions }
    }

    /// Whether the branch demands what every one has to.
    fn holds(&self, branch: &Branch<'_>) -> bool {
        same_authority(branch.authority, self.authority)
            && self.conditions.iter().all(|(_, condition)| branch.demands(condition))
    }

    fn judge(&self, branch: &Branch<'_>, findings: &mut BTreeSet<Finding>) {
        let mut find = |reason, detail: String| {
            findings.insert(Finding { reason, entry: Some(branch.entry), detail });
        };
        if !same_authority(branch.authority, self.authority) {
            let found = shorten(branch.authority);
            let detail = format!("authority: expected {}, found {found}", self.authority);
            find(Reason::ForeignAuthority, detail);
        }
        for (reason, condition) in &self.conditions {
            if !branch.demands(condition) {
                find(*reason, describe(branch, condition));
            }
        }
        let workloads = self.statement.workloads();
        if workloads.iter().any(|workload| demands_all(branch, workload)) {
            return;
        }
        // The branch is about no workload; if it nearly is, say what is missing.
        match workloads.iter().find(|workload| names(branch, workload)) {
            Some(workload) => missing(branch, workload)
                .into_iter()
                .for_each(|(reason, detail)| find(reason, detail)),
            None => {
                let (reason, detail) = unknown(branch, workloads);
                find(reason, detail);
            }
        }
    }
}

fn reason(claim: &str) -> Reason {
    match claim {
        claim::DEBUGGABLE => Reason::DebugGuest,
        claim::MIGRATION => Reason::MigratableGuest,
        claim::VMPL => Reason::LessPrivileged,
        claim::SMT => Reason::Multithreading,
        claim::ID_KEY => Reason::IdKey,
        claim::AUTHOR_KEY => Reason::AuthorKey,
        claim::ROLE => Reason::Role,
        claim::CONFIG => Reason::Config,
        claim::POLICY_HASH => Reason::AttestationPolicy,
        claim::ATTESTATION_TYPE => Reason::AttestationType,
        claim::HOST_DATA => Reason::AciWithoutHostData,
        claim::MEASUREMENT => Reason::UnlistedWorkload,
        // Compliance status, issuer and feed of the endorsement.
        _ => Reason::AciUnendorsed,
    }
}

/// Everything that the branch made for the workload demands of the code and its launch.
fn demands_all(branch: &Branch<'_>, workload: &Workload) -> bool {
    missing(branch, workload).is_empty()
}

fn missing(branch: &Branch<'_>, workload: &Workload) -> Vec<(Reason, String)> {
    let identity = release_policy::identity(workload);
    let unmet = identity.iter().filter(|condition| !branch.demands(condition));
    let mut missing: Vec<_> =
        unmet.map(|condition| (reason(condition.claim), describe(branch, condition))).collect();
    if let Workload::Aci(workload) = workload {
        let lowest = workload.uvm.minimum_svn;
        let is_high = |value: &Value| {
            let svn = value.as_str().and_then(|text| text.parse::<u64>().ok());
            svn.is_some_and(|svn| svn >= lowest && value.as_str() == Some(&svn.to_string()))
        };
        if !branch.equal_to(claim::UVM_SVN).any(is_high) {
            let found = found(branch, claim::UVM_SVN);
            let detail = format!("{}: expected \"{lowest}\" or higher, {found}", claim::UVM_SVN);
            missing.push((Reason::AciVersion, detail));
        }
    }
    missing
}

/// Whether the branch demands this workload's identity, if not all that goes with it.
fn names(branch: &Branch<'_>, workload: &Workload) -> bool {
    let (claim, value) = match workload.id() {
        WorkloadId::Measurement(measurement) => (claim::MEASUREMENT, json!(measurement)),
        WorkloadId::HostData(host_data) => (claim::HOST_DATA, json!(host_data)),
    };
    branch.equal_to(claim).any(|found| *found == value)
}

/// What to say about a branch that names no listed workload.
fn unknown(branch: &Branch<'_>, workloads: &[Workload]) -> (Reason, String) {
    let listed: Vec<String> = workloads.iter().map(|workload| workload.id().to_string()).collect();
    let listed = listed.join(" or ");
    let has = |claim| branch.equal_to(claim).next().is_some();
    let is_container = [claim::COMPLIANCE, claim::UVM_ISSUER, claim::UVM_FEED, claim::UVM_SVN]
        .into_iter()
        .any(has);
    if has(claim::HOST_DATA) {
        let found = found(branch, claim::HOST_DATA);
        (Reason::UnlistedWorkload, format!("{}: expected {listed}, {found}", claim::HOST_DATA))
    } else if is_container {
        let detail = format!("{}: expected {listed}, found none", claim::HOST_DATA);
        (Reason::AciWithoutHostData, detail + "; any container on Azure would get the key")
    } else if has(claim::MEASUREMENT) {
        let found = found(branch, claim::MEASUREMENT);
        (Reason::UnlistedWorkload, format!("{}: expected {listed}, {found}", claim::MEASUREMENT))
    } else {
        let detail = format!("expected {listed}, found no condition on the code");
        (Reason::AnyWorkload, detail + "; any code would get the key")
    }
}

fn describe(branch: &Branch<'_>, condition: &Condition) -> String {
    let Condition { claim, equals } = condition;
    format!("{claim}: expected equals {equals}, {}", found(branch, claim))
}

fn found(branch: &Branch<'_>, claim: &str) -> String {
    let values: Vec<String> =
        branch.equal_to(claim).map(|value| shorten(&value.to_string())).collect();
    match values.is_empty() {
        true => "found no such condition".into(),
        false => format!("found {}", values.join(" and ")),
    }
}

/// With or without a slash at the end: the service's own samples have both.
fn same_authority(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}
