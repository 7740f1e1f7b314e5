//! The Azure Attestation policy (claim rule grammar, version 1.0).
//!
//! Every condition names the issuer `AttestationService`: whoever asks for a token may add claims
//! of their own, and those must not be taken for the service's.

use std::fmt::{Display, Write};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::statement::{Statement, Workload, WorkloadId};
use crate::tcb::Tcb;
use crate::values::Sha256;

use super::release_policy::{self, claim};

pub(super) fn render(statement: &Statement) -> String {
    let mut text = String::from("version= 1.0;\nauthorizationrules\n{\n");
    for workload in statement.workloads() {
        for floor in floors(workload) {
            rule(&mut text, workload, floor);
        }
    }
    text.push_str("};\nissuancerules\n{\n};\n");
    text
}

/// The claim `x-ms-policy-hash` of tokens that were issued under this policy: SHA-256 over the
/// base64url text that the service stores it as.
pub(super) fn hash(policy: &str) -> String {
    let stored = URL_SAFE_NO_PAD.encode(policy);
    URL_SAFE_NO_PAD.encode(Sha256::of(stored.as_bytes()).as_bytes())
}

fn floors(workload: &Workload) -> Vec<Option<Tcb>> {
    match workload.machine() {
        Some(machine) => machine.minimum_tcb.iter().map(|floor| Some(floor.tcb)).collect(),
        None => vec![None],
    }
}

fn rule(text: &mut String, workload: &Workload, floor: Option<Tcb>) {
    let identity = match workload.id() {
        WorkloadId::Measurement(measurement) => (claim::MEASUREMENT, measurement.to_string()),
        WorkloadId::HostData(host_data) => (claim::HOST_DATA, host_data.to_string()),
    };
    let mut conditions = vec![
        condition(identity.0, "==", format!("\"{}\"", identity.1)),
        condition(claim::DEBUGGABLE, "==", false),
        condition(claim::MIGRATION, "==", false),
        condition(claim::VMPL, "==", 0),
    ];
    // A JSON text, flag or number is written as a claim rule's.
    let launch = release_policy::launch(workload).into_iter();
    conditions.extend(launch.map(|demand| condition(demand.claim, "==", demand.equals)));
    if let Some(floor) = floor {
        conditions.extend([
            condition("x-ms-sevsnpvm-bootloader-svn", ">=", floor.bootloader),
            condition("x-ms-sevsnpvm-tee-svn", ">=", floor.tee),
            condition("x-ms-sevsnpvm-snpfw-svn", ">=", floor.snp),
            condition("x-ms-sevsnpvm-microcode-svn", ">=", floor.microcode),
        ]);
    }
    let conditions = conditions.join("\n        && ");
    write!(text, "        {conditions}\n    => permit();\n").expect("a String takes any text");
}

fn condition(claim: &str, operator: &str, value: impl Display) -> String {
    format!(r#"[ type=="{claim}", value{operator}{value}, issuer=="AttestationService" ]"#)
}
