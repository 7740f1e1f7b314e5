//! The Azure Attestation policy (claim rule grammar, version 1.0).
//!
//! Every condition names the issuer `AttestationService`: whoever asks for a token may add claims
//! of their own, and those must not be taken for the service's.

use std::fmt::{Display, Write};

use crate::statement::{Statement, Workload};
use crate::tcb::Tcb;

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

fn floors(workload: &Workload) -> Vec<Option<Tcb>> {
    match workload {
        Workload::SnpDirect(workload) => {
            workload.minimum_tcb.iter().map(|floor| Some(floor.tcb)).collect()
        }
        #[cfg(feature = "development")]
        Workload::Simulated(_) => vec![None],
    }
}

fn rule(text: &mut String, workload: &Workload, floor: Option<Tcb>) {
    let measurement = format!("\"{}\"", workload.measurement());
    let mut conditions = vec![
        condition("launchmeasurement", "==", measurement),
        condition("is-debuggable", "==", false),
        condition("migration-allowed", "==", false),
        condition("vmpl", "==", 0),
    ];
    if let Some(floor) = floor {
        conditions.extend([
            condition("bootloader-svn", ">=", floor.bootloader),
            condition("tee-svn", ">=", floor.tee),
            condition("snpfw-svn", ">=", floor.snp),
            condition("microcode-svn", ">=", floor.microcode),
        ]);
    }
    let conditions = conditions.join("\n        && ");
    write!(text, "        {conditions}\n    => permit();\n").expect("a String takes any text");
}

fn condition(claim: &str, operator: &str, value: impl Display) -> String {
    format!(
        r#"[ type=="x-ms-sevsnpvm-{claim}", value{operator}{value}, issuer=="AttestationService" ]"#
    )
}
