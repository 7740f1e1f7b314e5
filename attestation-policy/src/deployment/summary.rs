//! The auditor's page: what a signature under this deployment means, in words.

use std::fmt::Write;

use crate::statement::{SnpDirect, Statement, Workload};
use crate::values::{Sha256, Timestamp};

use super::Deployment;

pub(super) fn render(deployment: &Deployment) -> String {
    let mut page = String::new();
    write_page(&mut page, deployment).expect("a String takes any text");
    page
}

fn write_page(page: &mut String, deployment: &Deployment) -> std::fmt::Result {
    let statement = deployment.statement();
    writeln!(page, "# Deployment {}, serial {}\n", statement.name(), statement.serial())?;
    writeln!(
        page,
        "Who signs this says: the code and the machines listed here, and no others, may hold the \
         root key of this deployment and answer its clients, until the statement expires.\n"
    )?;
    write_statement(page, statement)?;
    for (index, workload) in statement.workloads().iter().enumerate() {
        match workload {
            Workload::SnpDirect(workload) => write_snp_direct(page, index + 1, workload)?,
            #[cfg(feature = "development")]
            Workload::Simulated(workload) => {
                writeln!(page, "## Workload {}: SIMULATED, PROTECTS NOTHING\n", index + 1)?;
                writeln!(page, "- measurement: `{}`", workload.measurement)?;
                writeln!(page, "- root of the software chip: `{}`\n", workload.ark_sha256)?;
            }
        }
    }
    write_key_release(page, deployment)?;
    write_checklist(page, deployment)
}

fn write_statement(page: &mut String, statement: &Statement) -> std::fmt::Result {
    let identity = statement.identity();
    let (issued, expires) = (statement.issued(), statement.expires());
    for (name, value) in [
        ("valid", format!("{issued} to {expires} ({} days)", days(issued, expires))),
        ("host", statement.url().to_owned()),
        ("identity issuer", identity.issuer().to_owned()),
        ("OIDC client", identity.client_id().to_owned()),
        ("OIDC audience", identity.audience().to_owned()),
        ("configuration hash", statement.config().to_string()),
        ("root key commitment", statement.root().to_string()),
    ] {
        writeln!(page, "- {name}: `{value}`")?;
    }
    writeln!(page)
}

fn write_snp_direct(page: &mut String, number: usize, workload: &SnpDirect) -> std::fmt::Result {
    writeln!(page, "## Workload {number}: image booted directly as an SNP guest\n")?;
    writeln!(page, "- measurement: `{}`", workload.measurement)?;
    for floor in &workload.minimum_tcb {
        writeln!(page, "- on {}, firmware of at least: {}", floor.product, floor.tcb)?;
    }
    let policy = [&workload.policy_required, &workload.policy_forbidden];
    let [required, forbidden] = policy.map(|bits| list(bits.iter().map(|bit| bit.name())));
    writeln!(page, "- guest policy must have: {required}; must not have: {forbidden}")?;
    let platform = [&workload.platform_required, &workload.platform_forbidden];
    let [required, forbidden] = platform.map(|bits| list(bits.iter().map(|bit| bit.name())));
    writeln!(page, "- platform must have: {required}; must not have: {forbidden}")?;
    for (name, digest) in
        [("ID key", workload.id_key_digest), ("author key", workload.author_key_digest)]
    {
        let digest = digest.map_or_else(|| "any or none".to_owned(), |it| format!("`{it}`"));
        writeln!(page, "- {name}: {digest}")?;
    }
    writeln!(page, "- always: VMPL 0, debugging off, migration off, VCEK under AMD's root\n")
}

fn write_key_release(page: &mut String, deployment: &Deployment) -> std::fmt::Result {
    writeln!(page, "## Key release\n")?;
    writeln!(page, "- attestation authority: `{}`", deployment.key_release.authority.as_str())?;
    for (name, text) in [
        ("statement payload", deployment.statement_payload()),
        ("release policy", deployment.release_policy().into_bytes()),
        ("attestation policy", deployment.attestation_policy().into_bytes()),
    ] {
        writeln!(page, "- SHA-256 of the {name}: `{}`", Sha256::of(&text))?;
    }
    writeln!(page)
}

fn write_checklist(page: &mut String, deployment: &Deployment) -> std::fmt::Result {
    writeln!(page, "## Before signing\n")?;
    for item in [
        "the image, rebuilt from its sources, has the measurement above;".to_owned(),
        "the configuration hash is that of the configuration that was reviewed;".to_owned(),
        "the root key in Managed HSM carries exactly this release policy, marked immutable;"
            .to_owned(),
        "the attestation authority carries exactly this attestation policy;".to_owned(),
        "at least two holders sign, each on a machine of their own;".to_owned(),
        format!(
            "no statement of {} with serial {} was signed before.",
            deployment.statement().name(),
            deployment.statement().serial()
        ),
    ] {
        writeln!(page, "- [ ] {item}")?;
    }
    Ok(())
}

fn days(from: Timestamp, to: Timestamp) -> u64 {
    to.since(from).as_secs().div_ceil(24 * 60 * 60)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "nothing in particular".into() } else { names.join(", ") }
}
