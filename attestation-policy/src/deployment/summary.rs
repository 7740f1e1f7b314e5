//! The auditor's page: what a signature under this deployment means, in words.

use std::fmt::Write;

use serde_json::Value;

use crate::report::PolicyBit;
use crate::statement::{Aci, Machine, SnpDirect, Statement, Workload};
use crate::values::{Sha256, Timestamp};

use super::Deployment;
use super::release_policy::{self, Condition, SVNS_AHEAD, claim};

pub(super) fn render(deployment: &Deployment) -> String {
    let mut page = String::new();
    write_page(&mut page, deployment).expect("a String takes any text");
    page
}

fn write_page(page: &mut String, deployment: &Deployment) -> std::fmt::Result {
    write_promise(page, deployment.statement())?;
    write_key_release(page, deployment)?;
    write_checklist(page, deployment)
}

/// The part of the page that a statement alone tells: what it accepts, in Markdown. Who signed it is
/// not in it.
pub fn statement_summary(statement: &Statement) -> String {
    let mut page = String::new();
    write_promise(&mut page, statement).expect("a String takes any text");
    page
}

fn write_promise(page: &mut String, statement: &Statement) -> std::fmt::Result {
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
            Workload::Aci(workload) => write_aci(page, index + 1, workload)?,
            #[cfg(feature = "development")]
            Workload::Simulated(workload) => {
                writeln!(page, "## Workload {}: SIMULATED, PROTECTS NOTHING\n", index + 1)?;
                writeln!(page, "- measurement: `{}`", workload.measurement)?;
                writeln!(page, "- root of the software chip: `{}`\n", workload.ark_sha256)?;
                continue;
            }
        }
        if let Some(machine) = workload.machine() {
            write_machine(page, &machine)?;
        }
        writeln!(page, "- always: VMPL 0, debugging off, migration off, VCEK under AMD's root")?;
        write_guard(page, workload)?;
    }
    Ok(())
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
    for (name, digest) in
        [("ID key", workload.id_key_digest), ("author key", workload.author_key_digest)]
    {
        let digest = digest.map_or_else(|| "any or none".to_owned(), |it| format!("`{it}`"));
        writeln!(page, "- {name}: {digest}")?;
    }
    Ok(())
}

fn write_aci(page: &mut String, number: usize, workload: &Aci) -> std::fmt::Result {
    let Aci { host_data, uvm, .. } = workload;
    writeln!(page, "## Workload {number}: confidential container on Azure\n")?;
    writeln!(page, "- SHA-256 of the container policy (host_data): `{host_data}`")?;
    writeln!(page, "- utility VM endorsed by: `{}`", uvm.issuer)?;
    writeln!(page, "- product line of the utility VM: `{}`", uvm.feed())?;
    writeln!(page, "- security version of the utility VM: at least {}", uvm.minimum_svn)?;
    writeln!(
        page,
        "- the launch measurement is the utility VM's and must be the endorsed one: that the utility \
         VM enforces the policy is Microsoft's word"
    )?;
    writeln!(
        page,
        "- the root key is released under security versions {} to {} only",
        uvm.minimum_svn,
        uvm.minimum_svn.saturating_add(SVNS_AHEAD)
    )
}

fn write_machine(page: &mut String, machine: &Machine<'_>) -> std::fmt::Result {
    for floor in machine.minimum_tcb {
        writeln!(page, "- on {}, firmware of at least: {}", floor.product, floor.tcb)?;
    }
    let policy = [machine.policy_required, machine.policy_forbidden];
    let [required, forbidden] = policy.map(|bits| list(bits.iter().map(|bit| bit.name())));
    writeln!(page, "- guest policy must have: {required}; must not have: {forbidden}")?;
    let platform = [machine.platform_required, machine.platform_forbidden];
    let [required, forbidden] = platform.map(|bits| list(bits.iter().map(|bit| bit.name())));
    writeln!(page, "- platform must have: {required}; must not have: {forbidden}")
}

/// Which of these demands guard the root key too. Whoever starts a guest may let no client see it.
fn write_guard(page: &mut String, workload: &Workload) -> std::fmt::Result {
    let launch = release_policy::launch(workload);
    let more = launch.iter().map(|demand| ", ".to_owned() + name_of_demand(demand));
    let more: String = more.collect();
    writeln!(
        page,
        "- the root key's release policy demands: VMPL 0, debugging off, migration off{more}"
    )?;
    let Some(machine) = workload.machine() else { return writeln!(page) };

    let policy = [(machine.policy_required, "on"), (machine.policy_forbidden, "off")];
    let without_claim = policy.into_iter().flat_map(|(bits, state)| {
        let bits = bits.iter().filter(|bit| **bit != PolicyBit::SmtAllowed);
        bits.map(move |bit| format!("{bit} {state}"))
    });
    let policy: Vec<String> = without_claim.collect();
    let has_id_block =
        launch.iter().any(|it| [claim::ID_KEY, claim::AUTHOR_KEY].contains(&it.claim));
    match (policy.is_empty(), has_id_block) {
        (true, _) => {}
        (false, true) => writeln!(
            page,
            "- bound for the key by the ID block alone, which carries POLICY, in each block that its \
             signer ever signed: guest policy {}",
            policy.join(", ")
        )?,
        (false, false) => {
            // A container's utility VM is launched by Azure, under no ID block of the deployment's.
            let remedy = match workload {
                Workload::Aci(_) => "",
                _ => " (naming an ID key would bind all policy bits: the ID block carries POLICY)",
            };
            let policy = policy.join(", ");
            let what = "clients check this; it does not guard the key";
            writeln!(page, "- {what}: guest policy {policy}{remedy}")?;
        }
    }
    let platform = [(machine.platform_required, "on"), (machine.platform_forbidden, "off")];
    let platform = platform
        .into_iter()
        .flat_map(|(bits, state)| bits.iter().map(move |bit| format!("{bit} {state}")));
    let platform: Vec<String> = platform.collect();
    if !platform.is_empty() {
        let platform = platform.join(", ");
        writeln!(page, "- clients check this; it does not guard the key: platform {platform}")?;
    }
    writeln!(page)
}

fn name_of_demand(demand: &Condition) -> &'static str {
    match (demand.claim, &demand.equals) {
        (claim::ID_KEY, _) => "the ID key",
        (claim::AUTHOR_KEY, _) => "the author key",
        (claim::SMT, Value::Bool(true)) => "smt-allowed on",
        (claim::SMT, _) => "smt-allowed off",
        (other, _) => other,
    }
}

fn write_key_release(page: &mut String, deployment: &Deployment) -> std::fmt::Result {
    writeln!(page, "## Key release\n")?;
    writeln!(page, "- attestation authority: `{}`", deployment.key_release.authority.as_str())?;
    let minimum = match deployment.key_release.pin_attestation_policy {
        true => {
            "pinned by the release policy: a minimum firmware holds for the key as well; where a \
             workload lists several products, firmware that meets any one's floor gets the key, \
             whatever the chip, and fmc is not looked at; clients check each product's own"
        }
        false => {
            "NOT pinned: whoever administers the attestation service can let older firmware have the \
             key; clients still refuse it"
        }
    };
    writeln!(page, "- attestation policy: {minimum}")?;
    for (name, _, text) in deployment.texts() {
        writeln!(page, "- SHA-256 of the {name}: `{}`", Sha256::of(&text))?;
    }
    writeln!(page)
}

fn write_checklist(page: &mut String, deployment: &Deployment) -> std::fmt::Result {
    writeln!(page, "## Before signing\n")?;
    let workloads = deployment.statement().workloads();
    let has_container = workloads.iter().any(|one| matches!(one, Workload::Aci(_)));
    let has_image = workloads.iter().any(|one| !matches!(one, Workload::Aci(_)));
    for (is_listed, item) in [
        (has_image, "the image, rebuilt from its sources, has the measurement above;"),
        (has_container, "the container policy, made again from its images, has the hash above;"),
    ] {
        if is_listed {
            writeln!(page, "- [ ] {item}")?;
        }
    }
    for item in [
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
