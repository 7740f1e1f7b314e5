//! The Managed HSM release policy (Azure Key Vault's key release policy grammar, version 1.0.0).
//!
//! Only `equals` is used: it is the one condition that every version of the service evaluates. A
//! claim that is missing counts as unmet.

use serde::Serialize;
use serde_json::{Value, json};

use crate::statement::{Statement, Workload};

/// The role that the enclave claims when it asks for the root key.
pub(super) const RELEASE_ROLE: &str = "release";

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
    all_of: Vec<Condition>,
}

#[derive(Serialize)]
struct Condition {
    claim: &'static str,
    equals: Value,
}

pub(super) fn render(statement: &Statement, authority: &str) -> String {
    let any_of = statement
        .workloads()
        .iter()
        .map(|workload| Authority { authority, all_of: conditions(statement, workload) })
        .collect();
    let policy = Policy { version: "1.0.0", any_of };
    let text = serde_json::to_string_pretty(&policy).expect("strings always have a JSON form");
    text + "\n"
}

fn conditions(statement: &Statement, workload: &Workload) -> Vec<Condition> {
    [
        ("x-ms-attestation-type", json!("sevsnpvm")),
        ("x-ms-sevsnpvm-launchmeasurement", json!(workload.measurement())),
        ("x-ms-sevsnpvm-is-debuggable", json!(false)),
        // The host chooses the guest policy: a migratable guest's memory, key and all, could be
        // taken to the host's own migration agent.
        ("x-ms-sevsnpvm-migration-allowed", json!(false)),
        ("x-ms-runtime.keyfold.role", json!(RELEASE_ROLE)),
        ("x-ms-runtime.keyfold.config", json!(statement.config())),
    ]
    .into_iter()
    .map(|(claim, equals)| Condition { claim, equals })
    .collect()
}
