//! The chip's certificates: from the machine's own cache (THIM), else from AMD (KDS), else from disk;
//! in a confidential container from the files that the platform mounted.
//!
//! AMD's service answers seldom and is at times away for hours, and a VCEK of one chip and one TCB
//! never changes: what was found once is kept on disk under product, chip and TCB.

use super::vcek::{self, Vcek};
use super::{AzureError, Environment, call::Call};
use crate::config::{Azure, BaseUrl};
use crate::journal::{Entry, Journal, Machine, Step};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyfold_attestation_policy::report::Report;
use keyfold_attestation_policy::tcb::Product;
use serde::Deserialize;
use std::io::Write;
use std::path::{Path, PathBuf};

const THIM: &str = "/metadata/THIM/amd/certification";

/// What stands behind a report.
#[derive(Clone, Debug)]
pub struct Endorsements {
    /// VCEK, ASK and ARK, PEM.
    pub vcek_chain: String,
    /// The platform's statement about the utility VM of a confidential container, COSE_Sign1.
    pub uvm_endorsement: Option<Vec<u8>>,
    /// Why they are not this report's, if they are not.
    pub mismatch: Option<String>,
}

/// Where they come from.
pub(super) struct Source {
    imds: BaseUrl,
    kds: BaseUrl,
    cache: PathBuf,
    security_context: Option<SecurityContext>,
}

/// What a confidential container is given by its platform, base64 in each.
enum SecurityContext {
    /// Files of `$UVM_SECURITY_CONTEXT_DIR`.
    Folder(PathBuf),
    /// Older platforms: UVM_HOST_AMD_CERTIFICATE and UVM_REFERENCE_INFO.
    Variables { host_amd_cert: String, reference_info: String },
}

impl SecurityContext {
    fn of(environment: &Environment) -> Option<Self> {
        if let Some(folder) = environment.get("UVM_SECURITY_CONTEXT_DIR") {
            return Some(Self::Folder(folder.into()));
        }
        let host_amd_cert = environment.get("UVM_HOST_AMD_CERTIFICATE")?.clone();
        let reference_info = environment.get("UVM_REFERENCE_INFO").cloned().unwrap_or_default();
        Some(Self::Variables { host_amd_cert, reference_info })
    }

    fn describe(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Variables { .. } => "UVM_HOST_AMD_CERTIFICATE, UVM_REFERENCE_INFO".into(),
        }
    }

    fn host_amd_cert(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Folder(folder) => base64_file(&folder.join("host-amd-cert-base64")),
            Self::Variables { host_amd_cert, .. } => base64(host_amd_cert),
        }
    }

    fn reference_info(&self) -> Result<Vec<u8>, String> {
        let bytes = match self {
            Self::Folder(folder) => base64_file(&folder.join("reference-info-base64")),
            Self::Variables { reference_info, .. } => base64(reference_info),
        }?;
        match bytes.is_empty() {
            true => Err("the endorsement of the utility VM (reference info) is empty".into()),
            false => Ok(bytes),
        }
    }
}

fn base64_file(path: &Path) -> Result<Vec<u8>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| base64(&text)).map_err(|why| format!("{}: {why}", path.display()))
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    let text: String = text.split_whitespace().collect();
    STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

/// THIM's answer, and the file of a confidential container.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certification {
    vcek_cert: String,
    certificate_chain: String,
}

/// A chain that was found, and how it fits.
struct Found {
    chain: String,
    machine: Machine,
}

impl Found {
    fn new(pem: &str, report: &Report, source: &'static str) -> Result<Self, String> {
        let (chain, vcek) = vcek::in_order(pem)?;
        Ok(Self { chain, machine: vcek.beside(report, source) })
    }

    fn fits(&self) -> bool {
        self.machine.mismatch().is_none()
    }
}

impl Source {
    pub(super) fn new(config: &Azure, environment: &Environment) -> Self {
        Self {
            imds: config.imds_url.clone(),
            kds: config.kds_url.clone(),
            cache: config.endorsement_cache.clone(),
            security_context: SecurityContext::of(environment),
        }
    }

    /// Certificates for this report. `refresh` passes over what is on disk, as after an update of
    /// the firmware.
    pub(super) async fn find(
        &self, metadata: &reqwest::Client, http: &reqwest::Client, report: &[u8], refresh: bool,
        journal: &Journal,
    ) -> Result<Endorsements, AzureError> {
        let report = Report::parse(report).map_err(|error| AzureError {
            step: Step::ReleaseClaims,
            endpoint: "enclave".into(),
            what: error.to_string(),
        })?;
        let (found, uvm_endorsement) = match &self.security_context {
            Some(context) => mounted(context, &report, journal)?,
            None => (self.asked(metadata, http, &report, refresh, journal).await?, None),
        };
        let Found { chain: vcek_chain, machine } = found;
        let mismatch = machine.mismatch();
        let outcome = match &mismatch {
            None => Ok(format!("{}, {}", machine.product, machine.vcek_tcb)),
            Some(why) => Err(why.clone()),
        };
        journal.note(Entry::local(Step::Tcb, machine.source, outcome));
        journal.learn(|facts| facts.machine = Some(machine));
        Ok(Endorsements { vcek_chain, uvm_endorsement, mismatch })
    }

    async fn asked(
        &self, metadata: &reqwest::Client, http: &reqwest::Client, report: &Report, refresh: bool,
        journal: &Journal,
    ) -> Result<Found, AzureError> {
        // 1. The machine's own: quick, never throttled, and on most days right.
        let thim = self.thim(metadata, report, journal).await;
        let products = match (&thim, report.product()) {
            (Ok(found), _) if found.fits() => return Ok(self.keep(report, thim?)),
            (_, Some(product)) => vec![product],
            // A report of version 2 does not say; its bytes mean the same on both.
            (_, None) => vec![Product::Milan, Product::Genoa],
        };
        // 2. What was found before.
        let kept = |product: &Product| self.kept(*product, report);
        if !refresh && let Some(found) = products.iter().find_map(kept) {
            return Ok(found);
        }
        // 3. AMD.
        let mut last = None;
        for product in &products {
            match self.kds(http, *product, report, journal).await {
                Ok(found) if found.fits() => return Ok(self.keep(report, found)),
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            }
        }
        // 4. Nobody has better: what was found before, or what does not fit, or both complaints.
        if let Some(found) = products.iter().find_map(kept) {
            return Ok(found);
        }
        match (thim, last) {
            (Ok(found), _) => Ok(found),
            (Err(thim), Some(kds)) => {
                Err(AzureError { what: format!("{}; and {kds}", thim.what), ..thim })
            }
            (Err(thim), None) => Err(thim),
        }
    }

    async fn thim(
        &self, metadata: &reqwest::Client, report: &Report, journal: &Journal,
    ) -> Result<Found, AzureError> {
        let url = format!("{}{THIM}", self.imds.as_str());
        let call = Call::new(Step::Thim, &url, journal);
        let request = metadata.get(&url).header("Metadata", "true");
        let certification: Certification = call.json(request).await?;
        Found::new(&certification.pem(), report, "THIM").map_err(|what| call.refuse(what))
    }

    async fn kds(
        &self, http: &reqwest::Client, product: Product, report: &Report, journal: &Journal,
    ) -> Result<Found, AzureError> {
        let base = format!("{}/vcek/v1/{product}", self.kds.as_str());
        let call = Call::new(Step::Kds, &base, journal);
        let reported = report.reported_tcb();
        let tcb = reported
            .decode(product)
            .ok_or_else(|| call.refuse(format!("{reported} is no TCB of {product}")))?;
        let chip = report.chip_id();
        if chip.as_bytes().iter().all(|byte| *byte == 0) {
            return Err(call.refuse("the platform hides its chip id: AMD cannot be asked"));
        }
        let mut query = vec![
            ("blSPL", tcb.bootloader),
            ("teeSPL", tcb.tee),
            ("snpSPL", tcb.snp),
            ("ucodeSPL", tcb.microcode),
        ];
        query.extend(tcb.fmc.map(|fmc| ("fmcSPL", fmc)));
        let (id, _) = chip.as_bytes().split_at(vcek::chip_id_length(product));
        let url = format!("{base}/{}", hex::encode(id));
        let vcek = Call::new(Step::Kds, &url, journal).bytes(http.get(&url).query(&query)).await?;
        let url = format!("{base}/cert_chain");
        let chain = Call::new(Step::Kds, &url, journal).bytes(http.get(&url)).await?;
        let pem = vcek::to_pem(&vcek) + &String::from_utf8_lossy(&chain);
        Found::new(&pem, report, "AMD KDS").map_err(|what| call.refuse(what))
    }

    /// One chip, one TCB: one file.
    fn path(&self, product: Product, report: &Report) -> PathBuf {
        let (chip, tcb) = (report.chip_id(), report.reported_tcb());
        let name = format!("{product}-{}-{}.pem", hex::encode(chip.as_bytes()), hex::encode(tcb.0));
        self.cache.join(name)
    }

    fn kept(&self, product: Product, report: &Report) -> Option<Found> {
        let pem = std::fs::read_to_string(self.path(product, report)).ok()?;
        Found::new(&pem, report, "the cache on disk").ok().filter(Found::fits)
    }

    /// Writes a chain that fits to disk. That it cannot is said and no more: it was found anyway.
    fn keep(&self, report: &Report, found: Found) -> Found {
        let product = vcek::in_order(&found.chain).map(|(_, Vcek { product, .. })| product);
        let Ok(product) = product else { return found };
        let path = self.path(product, report);
        if std::fs::read_to_string(&path).is_ok_and(|kept| kept == found.chain) {
            return found;
        }
        if let Err(error) = write_whole(&path, found.chain.as_bytes()) {
            tracing::warn!("azure.endorsement_cache: {}: {error}", path.display());
        }
        found
    }
}

/// Certificates and endorsement that the platform gave.
fn mounted(
    context: &SecurityContext, report: &Report, journal: &Journal,
) -> Result<(Found, Option<Vec<u8>>), AzureError> {
    let open = || -> Result<_, String> {
        let certification: Certification = serde_json::from_slice(&context.host_amd_cert()?)
            .map_err(|error| format!("the host's AMD certificate: {error}"))?;
        let found = Found::new(&certification.pem(), report, "the security context")?;
        Ok((found, Some(context.reference_info()?)))
    };
    let (step, endpoint) = (Step::SecurityContext, context.describe());
    let outcome = open().map(|found| (found, "certificates and endorsement".to_owned()));
    let outcome = journal.check(step, &endpoint, outcome);
    outcome.map_err(|what| AzureError { step, endpoint, what })
}

impl Certification {
    fn pem(&self) -> String {
        format!("{}\n{}\n", self.vcek_cert.trim_end(), self.certificate_chain.trim_end())
    }
}

/// All of it or nothing, whenever the machine stops.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let new = path.with_extension(format!("{:016x}", fastrand::u64(..)));
    let written = std::fs::File::create_new(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| std::fs::File::open(folder)?.sync_all());
    if written.is_err() {
        // It is only in the way.
        let _ = std::fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests;
