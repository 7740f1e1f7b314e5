//! What changed between two deployments, in words: each entry with what it was, what it is, and
//! whether the newer one accepts more or less.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::report::{PlatformBit, PolicyBit};
use crate::statement::{Machine, Statement, Workload};
use crate::values::Sha256;

use super::Deployment;

/// What a change does to what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Something is accepted that was not, or a check is gone.
    Weaker,
    /// Something is no longer accepted.
    Stricter,
    /// Neither, or it cannot be said: to be read.
    Other,
}

/// One difference. `Display` is a line to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The entry, as `deployment.toml` names it.
    pub entry: String,
    /// What it was, or nothing.
    pub before: Option<String>,
    /// What it is, or nothing.
    pub after: Option<String>,
    /// What that does.
    pub effect: Effect,
    /// What that means.
    pub meaning: &'static str,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "nothing".to_owned();
        let [before, after] = [&self.before, &self.after].map(|it| it.clone().unwrap_or_else(none));
        let word = match self.effect {
            Effect::Weaker => "WEAKER: ",
            Effect::Stricter => "stricter: ",
            Effect::Other => "",
        };
        write!(f, "{word}{}: {before} -> {after}; {}", self.entry, self.meaning)
    }
}

pub(super) fn compare(older: &Deployment, newer: &Deployment) -> Vec<Change> {
    let mut changes = compare_statements(&older.statement, &newer.statement);
    let (old, new) = (&older.key_release, &newer.key_release);
    changes.extend(differs(
        "key_release.authority",
        old.authority.as_str(),
        new.authority.as_str(),
        "tokens of another attestation service release the root key; the release policy changes",
    ));
    let effect = match new.pin_attestation_policy {
        true => Effect::Stricter,
        false => Effect::Weaker,
    };
    let pinned = differs(
        "key_release.pin_attestation_policy",
        old.pin_attestation_policy,
        new.pin_attestation_policy,
        "whether the minimum firmware holds for the release of the key; the release policy changes",
    );
    changes.extend(pinned.map(|change| Change { effect, ..change }));
    changes
}

/// What is different in the newer statement.
pub fn compare_statements(older: &Statement, newer: &Statement) -> Vec<Change> {
    let mut changes: Vec<Change> = [
        differs("statement.name", older.name(), newer.name(), "this is another deployment"),
        serial(older, newer),
        differs("statement.issued", older.issued(), newer.issued(), "when it was made"),
        differs("statement.expires", older.expires(), newer.expires(), "when clients refuse it"),
        differs("statement.url", older.url(), newer.url(), "clients talk to another place"),
        differs(
            "statement.identity.issuer",
            older.identity().issuer(),
            newer.identity().issuer(),
            "users sign in elsewhere, and every account id is another",
        ),
        differs(
            "statement.identity.client_id",
            older.identity().client_id(),
            newer.identity().client_id(),
            "clients sign in under another name",
        ),
        differs(
            "statement.identity.audience",
            older.identity().audience(),
            newer.identity().audience(),
            "tokens are made out to somebody else",
        ),
        differs(
            "statement.config",
            older.config(),
            newer.config(),
            "the enclave has another name, ledger or fresh_read; the release policy changes",
        ),
        differs(
            "statement.root",
            older.root(),
            newer.root(),
            "another root key: it opens no account of the old one",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    compare_workloads(older, newer, &mut changes);
    if changes.is_empty() {
        // Another order of the same entries is another payload, which a serial must not be used for.
        let [before, after] = [older, newer].map(|one| Sha256::of(&one.to_payload()));
        let meaning =
            "the same in another order: still another statement, with a serial of its own";
        changes.extend(differs("statement payload's SHA-256", before, after, meaning));
    }
    changes
}

fn serial(older: &Statement, newer: &Statement) -> Option<Change> {
    let meaning = match newer.serial() > older.serial() {
        true => "clients that have seen the newer one refuse the older",
        false => "NOT higher: clients that have seen the older statement refuse this one",
    };
    differs("statement.serial", older.serial(), newer.serial(), meaning)
}

fn compare_workloads(older: &Statement, newer: &Statement, changes: &mut Vec<Change>) {
    let same = |list: &Statement, one: &Workload| {
        list.workloads().iter().find(|other| other.id() == one.id()).cloned()
    };
    let entry = |one: &Workload| format!("workload {} ({})", one.id(), one.profile());
    for old in older.workloads() {
        let Some(new) = same(newer, old) else {
            changes.push(Change {
                entry: entry(old),
                before: Some("accepted".into()),
                after: None,
                effect: Effect::Stricter,
                meaning: "clients no longer talk to it; the release policy changes",
            });
            continue;
        };
        compare_workload(&entry(old), old, &new, changes);
    }
    for new in newer.workloads().iter().filter(|new| same(older, new).is_none()) {
        changes.push(Change {
            entry: entry(new),
            before: None,
            after: Some("accepted".into()),
            effect: Effect::Weaker,
            meaning: "other code may hold the root key and answer clients; the release policy changes",
        });
    }
}

fn compare_workload(entry: &str, old: &Workload, new: &Workload, changes: &mut Vec<Change>) {
    let at = |name: &str| format!("{entry} {name}");
    match (old, new) {
        (Workload::SnpDirect(old), Workload::SnpDirect(new)) => {
            for (name, old, new) in [
                ("id_key_digest", old.id_key_digest, new.id_key_digest),
                ("author_key_digest", old.author_key_digest, new.author_key_digest),
            ] {
                let meaning = "who must have signed the ID block; the release policy changes";
                changes.extend(optional(&at(name), old, new, meaning));
            }
        }
        (Workload::Aci(old), Workload::Aci(new)) => {
            let (issuer, feed) = (&new.uvm.issuer, new.uvm.feed());
            changes.extend(differs(
                &at("uvm.issuer"),
                &old.uvm.issuer,
                issuer,
                "somebody else decides which utility VMs enforce the policy",
            ));
            let meaning = "another product line of utility VMs enforces the policy";
            changes.extend(differs(&at("uvm.feed"), old.uvm.feed(), feed, meaning));
            changes.extend(ordered(
                &at("uvm.minimum_svn"),
                old.uvm.minimum_svn,
                new.uvm.minimum_svn,
                "the lowest security version of utility VMs; the release policy changes",
            ));
        }
        #[cfg(feature = "development")]
        (Workload::Simulated(old), Workload::Simulated(new)) => {
            let (old, new) = (old.ark_sha256, new.ark_sha256);
            changes.extend(differs(&at("ark_sha256"), old, new, "another software chip"));
        }
        _ => changes.extend(differs(
            &at("profile"),
            old.profile(),
            new.profile(),
            "it is attested in another way",
        )),
    }
    match (old.machine(), new.machine()) {
        (Some(old), Some(new)) => compare_machine(entry, &old, &new, changes),
        (old, new) => changes.extend(optional(
            &at("minimum_tcb"),
            old.map(|_| "something"),
            new.map(|_| "something"),
            "what the machine must be like",
        )),
    }
}

fn compare_machine(entry: &str, old: &Machine<'_>, new: &Machine<'_>, changes: &mut Vec<Change>) {
    let products = old.minimum_tcb.iter().chain(new.minimum_tcb).map(|floor| floor.product);
    for product in products.collect::<std::collections::BTreeSet<_>>() {
        let at = format!("{entry} minimum_tcb {product}");
        let meaning = "the lowest firmware; the attestation policy changes, and the release policy \
                       where it pins that";
        let (before, after) = (old.floor(product), new.floor(product));
        let effect = match (&before, &after) {
            (Some(before), Some(after)) if after.is_at_least(before) => Effect::Stricter,
            (Some(_), None) => Effect::Stricter,
            // Lower in any part, or a product more.
            _ => Effect::Weaker,
        };
        let change = optional(&at, before, after, meaning);
        changes.extend(change.map(|change| Change { effect, ..change }));
    }
    bits(entry, "policy_required", old.policy_required, new.policy_required, changes);
    bits(entry, "policy_forbidden", old.policy_forbidden, new.policy_forbidden, changes);
    bits(entry, "platform_required", old.platform_required, new.platform_required, changes);
    bits(entry, "platform_forbidden", old.platform_forbidden, new.platform_forbidden, changes);
}

/// What a demand on a bit means.
trait Bit: PartialEq + Display {
    fn meaning(&self) -> &'static str;
}

impl Bit for PolicyBit {
    fn meaning(&self) -> &'static str {
        match self {
            Self::SmtAllowed => "what the guest policy must be like; the release policy changes",
            _ => {
                "what the guest policy must be like; clients check it, and it guards the key only through a named ID key"
            }
        }
    }
}

impl Bit for PlatformBit {
    fn meaning(&self) -> &'static str {
        "what the machine must be like; clients check it, and it does not guard the key"
    }
}

/// Lists of demands: one more is stricter.
fn bits<T: Bit>(entry: &str, name: &str, old: &[T], new: &[T], changes: &mut Vec<Change>) {
    let mut push = |bit: &T, is_new: bool| {
        let demanded = Some("demanded".to_owned());
        let (before, after, effect) = match is_new {
            true => (None, demanded, Effect::Stricter),
            false => (demanded, None, Effect::Weaker),
        };
        let entry = format!("{entry} {name} {bit}");
        changes.push(Change { entry, before, after, effect, meaning: bit.meaning() });
    };
    old.iter().filter(|bit| !new.contains(bit)).for_each(|bit| push(bit, false));
    new.iter().filter(|bit| !old.contains(bit)).for_each(|bit| push(bit, true));
}

fn differs<T: PartialEq + Display>(
    entry: &str, before: T, after: T, meaning: &'static str,
) -> Option<Change> {
    let is_same = before == after;
    let (before, after) = (Some(before.to_string()), Some(after.to_string()));
    let entry = entry.to_owned();
    (!is_same).then_some(Change { entry, before, after, effect: Effect::Other, meaning })
}

/// A floor: higher is stricter.
fn ordered(entry: &str, before: u64, after: u64, meaning: &'static str) -> Option<Change> {
    let effect = if after > before { Effect::Stricter } else { Effect::Weaker };
    differs(entry, before, after, meaning).map(|change| Change { effect, ..change })
}

/// A demand that may be there or not.
fn optional<T: PartialEq + Display>(
    entry: &str, before: Option<T>, after: Option<T>, meaning: &'static str,
) -> Option<Change> {
    if before == after {
        return None;
    }
    let effect = match (&before, &after) {
        (None, _) => Effect::Stricter,
        (_, None) => Effect::Weaker,
        _ => Effect::Other,
    };
    let [before, after] = [before, after].map(|it| it.map(|it| it.to_string()));
    Some(Change { entry: entry.to_owned(), before, after, effect, meaning })
}
