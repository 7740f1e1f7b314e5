//! Where a chip's certificates come from, with real reports and certificates, and what happens when
//! each source is away, slow to learn of new firmware, or wrong.

use super::*;
use crate::azure::testing::{serve, text, vector};
use axum::Router;
use axum::extract::{Path as Segments, RawQuery};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A chip of the published vectors: its report and certificates.
struct Chip {
    report: Vec<u8>,
    vcek: String,
    chain: String,
}

fn chip(product: &str) -> Chip {
    let file = |name: &str| format!("ms-tee-attestation-verification/{product}_{name}");
    Chip {
        report: vector(&file("attestation_report.bin")),
        vcek: text(&file("vcek.pem")),
        chain: text(&file("ask.pem")) + &text(&file("ark.pem")),
    }
}

/// Both services on loopback, and what they were asked.
struct Services {
    url: BaseUrl,
    asked: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl Services {
    /// THIM answers with `thim`, AMD with `kds`; who has nothing says 400.
    async fn start(thim: Option<Chip>, kds: Option<Chip>) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let note = |what: String, asked: &Arc<Mutex<Vec<String>>>| asked.lock().unwrap().push(what);
        let thim = thim.map(|chip| {
            json!({"vcekCert": chip.vcek, "tcbm": "", "cacheControl": "86400", "certificateChain": chip.chain})
        });
        let thim_asked = asked.clone();
        let thim = get(move || async move {
            note("thim".into(), &thim_asked);
            match thim {
                Some(answer) => answer.to_string().into_response(),
                None => StatusCode::BAD_REQUEST.into_response(),
            }
        });
        let der = |pem: &str| x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
        let kds = kds.map(|chip| (der(&chip.vcek), chip.chain));
        let kds_asked = asked.clone();
        let kds =
            get(move |Segments(path): Segments<String>, RawQuery(query): RawQuery| async move {
                note(format!("{path}?{}", query.unwrap_or_default()), &kds_asked);
                match kds {
                    Some((_, chain)) if path.ends_with("cert_chain") => chain.into_response(),
                    Some((vcek, _)) => vcek.into_response(),
                    None => StatusCode::NOT_FOUND.into_response(),
                }
            });
        let router = Router::new().route(THIM, thim).route("/vcek/v1/{*path}", kds);
        let url = serve(router).await;
        Self { url, asked, folder: tempfile::tempdir().unwrap() }
    }

    /// Other services beside the certificates that these left on disk.
    async fn then(self, thim: Option<Chip>, kds: Option<Chip>) -> Self {
        Self { folder: self.folder, ..Self::start(thim, kds).await }
    }

    async fn find(&self, report: &[u8], refresh: bool) -> (Found, Vec<String>) {
        let (found, asked) = self.try_find(report, refresh).await;
        (found.expect("endorsements"), asked)
    }

    async fn try_find(
        &self, report: &[u8], refresh: bool,
    ) -> (Result<Found, AzureError>, Vec<String>) {
        let (http, journal) = (reqwest::Client::new(), Journal::default());
        let source = Source {
            imds: self.url.clone(),
            kds: self.url.clone(),
            cache: self.folder.path().join("endorsements"),
            security_context: None,
        };
        let found = source.find(&http, &http, report, refresh, &journal).await;
        let found = found.map(|found| Found {
            chain: found.vcek_chain,
            machine: journal.facts().machine.expect("what the machine is"),
        });
        (found, std::mem::take(&mut self.asked.lock().unwrap()))
    }
}

#[tokio::test]
async fn the_machine_is_asked_first_and_the_chain_comes_in_order() {
    let milan = chip("milan");
    // However it is served: ARK before ASK.
    let chain = text("ms-tee-attestation-verification/milan_ark.pem")
        + &text("ms-tee-attestation-verification/milan_ask.pem");
    let services = Services::start(Some(Chip { chain, ..chip("milan") }), None).await;
    let (found, asked) = services.find(&milan.report, false).await;
    assert_eq!((found.machine.source, found.machine.mismatch()), ("THIM", None));
    assert_eq!(found.machine.report_tcb, "bootloader 4, tee 0, snp 24, microcode 219");
    assert_eq!(asked, ["thim"]);
    let squeezed = |pem: &str| pem.split_whitespace().collect::<String>();
    assert_eq!(squeezed(&found.chain), squeezed(&(milan.vcek + &milan.chain)));
}

#[tokio::test]
async fn amd_is_asked_where_the_machine_has_nothing_and_once_only() {
    for (product, report, query) in [
        ("Milan", chip("milan").report, "blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"),
        ("Turin", chip("turin").report, "blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81&fmcSPL=1"),
    ] {
        let name = product.to_lowercase();
        let services = Services::start(None, Some(chip(&name))).await;
        let (found, asked) = services.find(&report, false).await;
        assert_eq!((found.machine.source, found.machine.mismatch()), ("AMD KDS", None));
        let digits = if product == "Turin" { 16 } else { 128 };
        let id = &hex::encode(Report::parse(&report).unwrap().chip_id().as_bytes())[..digits];
        let chain = format!("{product}/cert_chain?");
        assert_eq!(asked, ["thim".into(), format!("{product}/{id}?{query}"), chain], "{product}");

        // From then on it is on disk: AMD is not asked again, whether it is there or not.
        let services = services.then(None, None).await;
        let (found, asked) = services.find(&report, false).await;
        assert_eq!((found.machine.source, found.machine.mismatch()), ("the cache on disk", None));
        assert_eq!(asked, ["thim"]);
        // A refresh asks everybody, and goes back to what there is.
        let (found, asked) = services.find(&report, true).await;
        assert_eq!((found.machine.source, asked.len()), ("the cache on disk", 2));
    }
}

#[tokio::test]
async fn what_the_machine_says_is_kept_for_a_day_when_it_says_nothing() {
    let milan = chip("milan");
    let services = Services::start(Some(chip("milan")), None).await;
    services.find(&milan.report, false).await;
    let services = services.then(None, None).await;
    let (found, _) = services.find(&milan.report, false).await;
    assert_eq!(found.machine.source, "the cache on disk");
    // Half a file is no certificate.
    let kept = std::fs::read_dir(services.folder.path().join("endorsements")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "nothing half-written beside it: {kept:?}");
    let half = std::fs::read(&kept[0]).unwrap();
    std::fs::write(&kept[0], &half[..half.len() / 2]).unwrap();
    assert!(services.try_find(&milan.report, false).await.0.is_err());
}

#[tokio::test]
async fn a_certificate_of_other_firmware_or_another_chip_is_passed_over_and_told() {
    // A real report whose reported TCB moved on: the certificate is for the one before.
    let mut ahead = chip("milan").report;
    ahead[0x180 + 6] += 1;
    let services = Services::start(Some(chip("milan")), Some(chip("milan"))).await;
    let (found, asked) = services.find(&ahead, false).await;
    assert_eq!(asked.len(), 3, "AMD is asked for the new firmware's: {asked:?}");
    let told = found.machine.mismatch().expect("a mismatch");
    for part in ["snp 25, microcode 219", "snp 24, microcode 219", "AMD KDS"] {
        assert!(told.contains(part), "{told}");
    }
    let cache = services.folder.path().join("endorsements");
    assert!(!cache.exists(), "what does not fit is not kept");
    let services = services.then(Some(chip("milan")), None).await;
    let (found, _) = services.find(&ahead, true).await;
    assert!(found.machine.mismatch().is_some_and(|told| told.contains("of THIM is for")));

    let mut elsewhere = chip("milan").report;
    elsewhere[0x1a0] ^= 1;
    let (found, _) = services.find(&elsewhere, false).await;
    let told = found.machine.mismatch().expect("a mismatch");
    assert!(told.contains("another chip's"), "{told}");
}

#[tokio::test]
async fn when_nobody_has_certificates_both_are_named() {
    let services = Services::start(None, None).await;
    let (found, _) = services.try_find(&chip("milan").report, false).await;
    let error = found.err().expect("nothing");
    assert_eq!(error.step, Step::Thim);
    for part in ["status 400", "AMD KDS", "status 404"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // A platform that hides the chip's id cannot be asked about it.
    let mut hidden = chip("milan").report;
    hidden[0x1a0..0x1e0].fill(0);
    let (found, asked) = services.try_find(&hidden, false).await;
    assert!(found.err().expect("nothing").to_string().contains("hides its chip id"));
    assert_eq!(asked, ["thim"]);
    // What is no report is not asked about.
    let (found, asked) = services.try_find(&[0; 1184], false).await;
    assert_eq!((found.err().map(|error| error.step), asked.len()), (Some(Step::ReleaseClaims), 0));
}

#[tokio::test]
async fn a_confidential_container_reads_what_its_platform_mounted() {
    const FOLDER: &str = "confidential-sidecar-containers";
    let report = vector(&format!("{FOLDER}/attest/snp_report.bin"));
    let certificate = vector(&format!("{FOLDER}/attest/uvm_host_amd_certificate.json"));
    let endorsement = vector(&format!("{FOLDER}/attest/body.uvm_reference_info.bin"));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), STANDARD.encode(bytes) + "\n").unwrap();
    };
    let find = |environment: Vec<(&str, String)>| {
        let environment: Environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let report = report.clone();
        async move {
            let nowhere = BaseUrl::parse("http://127.0.0.1:9").unwrap();
            let source = Source {
                imds: nowhere.clone(),
                kds: nowhere,
                cache: "/nonexistent".into(),
                security_context: SecurityContext::of(&environment),
            };
            let (http, journal) = (reqwest::Client::new(), Journal::default());
            source.find(&http, &http, &report, false, &journal).await
        }
    };
    let mounted = || vec![("UVM_SECURITY_CONTEXT_DIR", folder.path().display().to_string())];
    let error = find(mounted()).await.unwrap_err();
    assert!(error.to_string().contains("host-amd-cert-base64"), "{error}");
    write("host-amd-cert-base64", &certificate);
    let error = find(mounted()).await.unwrap_err();
    assert!(error.to_string().contains("reference-info-base64"), "{error}");
    write("reference-info-base64", b"");
    assert!(find(mounted()).await.unwrap_err().to_string().contains("is empty"));
    write("reference-info-base64", &endorsement);
    let variables = vec![
        ("UVM_HOST_AMD_CERTIFICATE", STANDARD.encode(&certificate)),
        ("UVM_REFERENCE_INFO", STANDARD.encode(&endorsement)),
    ];
    for environment in [mounted(), variables] {
        let found = find(environment).await.expect("endorsements");
        assert_eq!(found.mismatch, None);
        assert_eq!(found.uvm_endorsement.as_deref(), Some(&endorsement[..]));
        assert_eq!(found.vcek_chain.matches("BEGIN CERTIFICATE").count(), 3);
    }
    // Certificates of another machine: told, and not waited for.
    write(
        "host-amd-cert-base64",
        &vector(&format!("{FOLDER}/security-context-test/host-amd-cert-base64")),
    );
    let other = find(mounted()).await;
    assert!(!matches!(other, Ok(Endorsements { mismatch: None, .. })));
}
