//! The decision: may this client use this channel key?
//!
//! [`verify_evidence`] is the only way to a [`VerifiedChannel`], and a `VerifiedChannel` the only
//! place to take a channel key from. Checked, in this order:
//!
//! 1. the statement has not expired since it was verified;
//! 2. the chain, up to a pinned root ([`crate::chain`]);
//! 3. the report: length, version, signature, product, TCB and chip id as the VCEK says;
//! 4. what holds for every guest: VMPL 0, no debugging, no migration, no unknown policy bit;
//! 5. the measurement is an accepted workload's or, for confidential containers, HOST_DATA is;
//!    attested under that workload's kind of root;
//! 6. the profile's own fields: firmware, policy and platform bits; for confidential containers the
//!    endorsement of the utility VM ([`crate::uvm`]), whose measurement must be the report's;
//! 7. REPORT_DATA is the claims' hash;
//! 8. the claims: role, configuration, root commitment, channel key.

use crate::chain::{self, ChainBytes, PinnedRoot, RootKind, VerifiedChain};
use crate::claims::ChannelClaims;
use crate::field::{Field, require_equal};
use crate::report::Report;
use crate::statement::{
    Aci, Machine, SnpDirect, Statement, VerifiedStatement, Workload, WorkloadId,
};
use crate::tcb::{Product, Tcb};
use crate::uvm::{Endorsement, verify_endorsement};
use crate::values::{ChipId, ConfigHash, Measurement, RootCommitment, Sha256, Timestamp};

pub use crate::field::EvidenceError;

/// Length of an X-Wing public key: ML-KEM-768's 1184 bytes and X25519's 32.
pub const CHANNEL_KEY_LENGTH: usize = 1216;

/// What a host serves as proof, not yet believed.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The runtime claims' text.
    pub claims: &'a [u8],
    /// The 1184 bytes of the report.
    pub report: &'a [u8],
    /// The certificates behind the report's signature.
    pub chain: ChainBytes<'a>,
    /// The endorsement of the utility VM, a COSE_Sign1 message. Needed and read for workloads of
    /// profile `aci` alone.
    pub uvm_endorsement: Option<&'a [u8]>,
}

/// A channel that ends in accepted code on accepted hardware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChannel {
    public_key: Box<[u8; CHANNEL_KEY_LENGTH]>,
    key_digest: Sha256,
    config: ConfigHash,
    root: RootCommitment,
    measurement: Measurement,
    workload: WorkloadId,
    endorsement: Option<Endorsement>,
    attested_by: RootKind,
    product: Product,
    tcb: Tcb,
    chip_id: ChipId,
}

impl VerifiedChannel {
    /// The X-Wing public key to open sessions to.
    pub fn public_key(&self) -> &[u8; CHANNEL_KEY_LENGTH] {
        &self.public_key
    }

    /// SHA-256 of the public key: the channel's key id.
    pub fn key_digest(&self) -> Sha256 {
        self.key_digest
    }

    /// The enclave's configuration.
    pub fn config(&self) -> ConfigHash {
        self.config
    }

    /// The enclave's root key.
    pub fn root(&self) -> RootCommitment {
        self.root
    }

    /// What was measured at launch: the enclave's code, or the utility VM around its container.
    pub fn measurement(&self) -> Measurement {
        self.measurement
    }

    /// Which of the statement's workloads it is.
    pub fn workload(&self) -> WorkloadId {
        self.workload
    }

    /// What is endorsed about the utility VM around a confidential container.
    pub fn endorsement(&self) -> Option<&Endorsement> {
        self.endorsement.as_ref()
    }

    /// Whether the chip is simulated, so that nothing is protected; to be said on every line.
    pub fn is_simulated(&self) -> bool {
        self.attested_by == RootKind::Simulated
    }

    /// The processor family.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The platform's firmware.
    pub fn tcb(&self) -> Tcb {
        self.tcb
    }

    /// The chip.
    pub fn chip_id(&self) -> ChipId {
        self.chip_id
    }
}

/// Decides whether `channel_public_key` belongs to code that `statement` accepts.
///
/// # Errors
/// The first field that does not hold, with what was expected and what came.
pub fn verify_evidence(
    statement: &VerifiedStatement, evidence: &Evidence<'_>, channel_public_key: &[u8],
    now: Timestamp,
) -> Result<VerifiedChannel, EvidenceError> {
    let statement = statement.statement();
    verify_under(&accepted_roots(statement), statement, evidence, channel_public_key, now)
}

/// AMD's roots; and, where the build accepts them, those of the statement's simulated chips.
fn accepted_roots(statement: &Statement) -> Vec<PinnedRoot> {
    let simulated = statement.workloads().iter().filter_map(|workload| match workload {
        Workload::SnpDirect(_) | Workload::Aci(_) => None,
        #[cfg(feature = "development")]
        Workload::Simulated(workload) => Some(chain::simulated_root(workload.ark_sha256)),
    });
    chain::amd_roots().into_iter().chain(simulated).collect()
}

fn verify_under(
    roots: &[PinnedRoot], statement: &Statement, evidence: &Evidence<'_>,
    channel_public_key: &[u8], now: Timestamp,
) -> Result<VerifiedChannel, EvidenceError> {
    if now >= statement.expires() {
        let expected = format!("a time after {now}");
        return Err(EvidenceError::new(Field::StatementExpiry, expected, statement.expires()));
    }
    let chain = chain::verify_chain(evidence.chain, roots, now)?;
    let report = Report::parse(evidence.report)?;
    chain.check_report(&report)?;

    check_every_guest(&report)?;
    let workload = find_workload(statement, &report)?;
    let endorsement = check_workload(workload, &chain, &report, evidence.uvm_endorsement, now)?;

    let mut report_data = [0; 64];
    report_data[..32].copy_from_slice(Sha256::of(evidence.claims).as_bytes());
    require_equal(Field::ReportData, hex::encode(report_data), hex::encode(report.report_data()))?;
    let claims = ChannelClaims::parse(evidence.claims)?;
    require_equal(Field::ClaimsConfig, statement.config(), claims.config)?;
    require_equal(Field::ClaimsRoot, statement.root(), claims.root)?;
    let public_key = channel_key(channel_public_key)?;
    require_equal(Field::ClaimsChannelKey, claims.channel_key, Sha256::of(channel_public_key))?;

    Ok(VerifiedChannel {
        public_key,
        key_digest: claims.channel_key,
        config: claims.config,
        root: claims.root,
        measurement: report.measurement(),
        workload: workload.id(),
        endorsement,
        attested_by: chain.root(),
        product: chain.product(),
        tcb: chain.tcb(),
        chip_id: chain.chip_id(),
    })
}

/// What no statement can waive.
fn check_every_guest(report: &Report) -> Result<(), EvidenceError> {
    let policy = report.policy();
    require_equal(Field::ReportVmpl, 0, report.vmpl())?;
    require_equal(Field::PolicyDebug, "off", on_or_off(policy.debug_allowed()))?;
    require_equal(Field::PolicyMigration, "off", on_or_off(policy.migration_allowed()))?;
    if policy.reserved_bits_are_right() {
        return Ok(());
    }
    Err(EvidenceError::new(
        Field::PolicyReserved,
        "bit 17 set and bits 26 to 63 clear",
        format!("{:#018x}", policy.0),
    ))
}

/// By measurement, or by HOST_DATA where that is what identifies a workload. Whoever launches a
/// guest chooses HOST_DATA, so it proves something only together with the endorsed measurement.
fn find_workload<'a>(
    statement: &'a Statement, report: &Report,
) -> Result<&'a Workload, EvidenceError> {
    let workloads = statement.workloads();
    let measured = WorkloadId::Measurement(report.measurement());
    let hosted = WorkloadId::HostData(report.host_data());
    if let Some(workload) =
        [measured, hosted].iter().find_map(|id| workloads.iter().find(|one| one.id() == *id))
    {
        return Ok(workload);
    }
    let accepted: Vec<String> = workloads.iter().map(|one| one.id().to_string()).collect();
    let only_hosted = workloads.iter().all(|one| matches!(one, Workload::Aci(_)));
    let (field, found) = match only_hosted {
        true => (Field::HostData, hosted),
        false => (Field::Measurement, measured),
    };
    Err(EvidenceError::new(field, format!("one of {}", accepted.join(", ")), found))
}

fn check_workload(
    workload: &Workload, chain: &VerifiedChain, report: &Report, endorsement: Option<&[u8]>,
    now: Timestamp,
) -> Result<Option<Endorsement>, EvidenceError> {
    let expected_root = match workload {
        Workload::SnpDirect(_) | Workload::Aci(_) => RootKind::Amd,
        #[cfg(feature = "development")]
        Workload::Simulated(_) => RootKind::Simulated,
    };
    require_equal(Field::WorkloadRoot, expected_root, chain.root())?;
    if let Some(machine) = workload.machine() {
        check_firmware(&machine, chain, report)?;
        check_launch(&machine, report)?;
    }
    match workload {
        Workload::SnpDirect(workload) => check_keys(workload, report).map(|()| None),
        Workload::Aci(workload) => check_endorsement(workload, report, endorsement, now).map(Some),
        #[cfg(feature = "development")]
        Workload::Simulated(_) => Ok(None),
    }
}

/// The utility VM that was measured is a released one.
fn check_endorsement(
    workload: &Aci, report: &Report, endorsement: Option<&[u8]>, now: Timestamp,
) -> Result<Endorsement, EvidenceError> {
    let message = endorsement.ok_or_else(|| {
        let expected = "an endorsement of the utility VM, for a confidential container";
        EvidenceError::new(Field::UvmEndorsement, expected, "none")
    })?;
    let endorsement = verify_endorsement(message, &workload.uvm, now)?;
    require_equal(Field::UvmMeasurement, report.measurement(), endorsement.measurement())?;
    Ok(endorsement)
}

/// The platform's firmware now, the lowest it can be taken back to, and the one at launch.
fn check_firmware(
    machine: &Machine<'_>, chain: &VerifiedChain, report: &Report,
) -> Result<(), EvidenceError> {
    let product = chain.product();
    let Some(floor) = machine.floor(product) else {
        let accepted: Vec<&str> =
            machine.minimum_tcb.iter().map(|floor| floor.product.name()).collect();
        let expected = format!("one of {}", accepted.join(", "));
        return Err(EvidenceError::new(Field::WorkloadProduct, expected, product));
    };
    for (field, raw) in [
        (Field::MinimumReportedTcb, report.reported_tcb()),
        (Field::MinimumCommittedTcb, report.committed_tcb()),
        (Field::MinimumLaunchTcb, report.launch_tcb()),
    ] {
        if !raw.decode(product).is_some_and(|tcb| tcb.is_at_least(&floor)) {
            let found = chain::describe_tcb(raw, product);
            return Err(EvidenceError::new(field, format!("at least {floor}"), found));
        }
    }
    Ok(())
}

/// How the guest was launched and what the machine is set up to do.
fn check_launch(machine: &Machine<'_>, report: &Report) -> Result<(), EvidenceError> {
    let policy = report.policy();
    for bit in machine.policy_required {
        require_equal(Field::PolicyRequired, format!("{bit} on"), state(bit, policy.has(*bit)))?;
    }
    for bit in machine.policy_forbidden {
        require_equal(Field::PolicyForbidden, format!("{bit} off"), state(bit, policy.has(*bit)))?;
    }
    let platform = report.platform_info();
    for bit in machine.platform_required {
        let found = state(bit, platform.has(*bit));
        require_equal(Field::PlatformRequired, format!("{bit} on"), found)?;
    }
    for bit in machine.platform_forbidden {
        let found = state(bit, platform.has(*bit));
        require_equal(Field::PlatformForbidden, format!("{bit} off"), found)?;
    }
    Ok(())
}

/// Who signed the ID block, where the statement says who must have.
fn check_keys(workload: &SnpDirect, report: &Report) -> Result<(), EvidenceError> {
    if let Some(digest) = workload.id_key_digest {
        require_equal(Field::IdKeyDigest, digest, report.id_key_digest())?;
    }
    if let Some(digest) = workload.author_key_digest {
        require_equal(Field::AuthorKeyDigest, digest, report.author_key_digest())?;
    }
    Ok(())
}

fn channel_key(bytes: &[u8]) -> Result<Box<[u8; CHANNEL_KEY_LENGTH]>, EvidenceError> {
    <[u8; CHANNEL_KEY_LENGTH]>::try_from(bytes).map(Box::new).map_err(|_| {
        EvidenceError::new(
            Field::ChannelKeyLength,
            format!("{CHANNEL_KEY_LENGTH} bytes"),
            format!("{} bytes", bytes.len()),
        )
    })
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn state(bit: impl std::fmt::Display, is_on: bool) -> String {
    format!("{bit} {}", on_or_off(is_on))
}

#[cfg(test)]
mod tests;
