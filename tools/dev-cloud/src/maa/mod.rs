//! The attestation service: judges SEV-SNP evidence and says in a signed token what it saw.
//!
//! POST /attest/SevSnpVm, GET /certs, GET /.well-known/openid-configuration, and policies; api-versions 2022-08-01
//! and 2020-10-01. Evidence of AMD's own chips is judged as the simulated chip's is.

mod claim_rules;
mod policies;
mod uvm;

use crate::clock;
use crate::digest::sha256;
use crate::fail::{Failures, Mode, Service};
use crate::http::{ApiError, parse};
use crate::keyring::{Keyring, KidStyle, signing_input};
use crate::oidc::Oidc;
use crate::rsa_keys::RsaKeys;
use crate::snp::{AMD_ROOTS, Report};
use crate::strict_json;
use anyhow::{Context, Result, bail, ensure};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use claim_rules::{Claim, Issuer};
use policies::{Policies, PolicyText};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::Path as FilePath;
use std::sync::Arc;

const TOKEN_SECONDS: u64 = 28_800;
/// Clients pad, or do not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The attestation service.
pub(crate) struct Maa {
    url: String,
    pub(crate) keys: Keyring,
    /// Of the same subject; no token is signed with it.
    idle_keys: Keyring,
    /// Who may change policies.
    oidc: Arc<Oidc>,
    policies: Policies,
    failures: Arc<Failures>,
    /// SHA-256 of the DER of each trusted ARK, in hex.
    roots: Vec<String>,
}

impl Maa {
    /// Opens the service in `dir`; beside AMD's roots it trusts the simulated chip's.
    pub(crate) fn open(
        dir: &FilePath, rsa: &RsaKeys, url: String, simulated_root: &str, oidc: Arc<Oidc>,
        failures: Arc<Failures>,
    ) -> Result<Self> {
        let keys = |purpose| Keyring::open(dir, purpose, rsa.clone(), &url, KidStyle::Standard);
        Ok(Self {
            keys: keys("maa")?,
            idle_keys: keys("maa-idle")?,
            oidc,
            policies: Policies::open(&dir.join("maa"))?,
            failures,
            roots: AMD_ROOTS.into_iter().chain([simulated_root]).map(str::to_owned).collect(),
            url,
        })
    }

    /// A token with these claims.
    fn sign(&self, claims: &Value) -> Result<String> {
        let key = self.keys.current()?;
        let jku = format!("{}/certs", self.url);
        key.sign(&json!({"alg": "RS256", "jku": jku, "kid": key.kid, "typ": "JWT"}), claims)
    }
}

/// The service's routes.
pub(crate) fn router(maa: Arc<Maa>) -> Router {
    Router::new()
        .route("/attest/{tee}", post(attest))
        .route("/policies/{tee}", get(policies::show).put(policies::set).post(policies::reset))
        .route("/certs", get(certs))
        .route("/.well-known/openid-configuration", get(discovery))
        .with_state(maa)
}

async fn discovery(State(maa): State<Arc<Maa>>) -> Json<Value> {
    Json(json!({
        "issuer": maa.url,
        "jwks_uri": format!("{}/certs", maa.url),
        "response_types_supported": ["token"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
}

/// kid, kty and x5c, and nothing else: whoever verifies takes the key from the certificate.
async fn certs(State(maa): State<Arc<Maa>>) -> Json<Value> {
    let (mut listed, idle) = (maa.keys.all(), maa.idle_keys.all());
    let signing = listed.len().saturating_sub(1);
    if maa.failures.take(Service::Maa, &Mode::KidMissing) {
        listed.splice(signing.., idle);
    } else if maa.failures.take(Service::Maa, &Mode::TwoCertificates) {
        listed.splice(..signing, idle);
    }
    let keys: Vec<_> = listed
        .iter()
        .map(
            |key| json!({"kid": key.kid, "kty": "RSA", "x5c": [STANDARD.encode(&key.certificate)]}),
        )
        .collect();
    Json(json!({"keys": keys}))
}

#[derive(Deserialize)]
struct ApiVersion {
    #[serde(rename = "api-version")]
    api_version: Option<String>,
}

impl ApiVersion {
    fn check(&self) -> Result<(), ApiError> {
        match self.api_version.as_deref() {
            Some("2022-08-01" | "2020-10-01") => Ok(()),
            _ => {
                let why = "api-version must be 2022-08-01 or 2020-10-01";
                Err(ApiError::bad_request("InvalidParameter", why))
            }
        }
    }
}

/// Clients spell it in several ways.
fn check_tee(tee: &str) -> Result<(), ApiError> {
    if tee.eq_ignore_ascii_case("SevSnpVm") {
        return Ok(());
    }
    let message = format!("{tee:?} is not attested here; SevSnpVm is");
    Err(ApiError::new(StatusCode::NOT_FOUND, "NotFound", message))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AttestRequest {
    report: String,
    runtime_data: Option<Data>,
    init_time_data: Option<Data>,
    nonce: Option<Nonce>,
    draft_policy_for_attestation: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Data {
    data: String,
    data_type: String,
}

/// Go's client sends a number; the REST specification says text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Nonce {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Evidence {
    snp_report: String,
    vcek_cert_chain: String,
    endorsements: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Endorsements {
    uvm: Vec<String>,
}

async fn attest(
    State(maa): State<Arc<Maa>>, Path(tee): Path<String>, Query(query): Query<ApiVersion>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    check_tee(&tee)?;
    query.check()?;
    let request: AttestRequest = parse(&body, "InvalidParameter")?;
    let draft = request.draft_policy_for_attestation.as_deref();
    let policy = match draft {
        Some(text) => Arc::new(PolicyText::parse(text)?),
        None => maa.policies.current(),
    };
    let Judged { mut claims, said } = judge(&maa, &request)
        .map_err(|why| ApiError::bad_request("InvalidParameter", format!("{why:#}")))?;
    // Whatever the machine says of itself, whatever it is named, is a claim as well: of another issuer.
    let custom = said.values().filter_map(Value::as_object).flatten();
    let custom = custom.map(Claim::by(Issuer::CustomClaim));
    let shown = claims.iter().map(Claim::by(Issuer::AttestationService));
    let all: Vec<_> = shown.chain(custom).collect();
    let permitted = policy.rules.permits(&all);
    permitted.map_err(|why| ApiError::bad_request("PolicyEvaluationError", why))?;

    let token = token_claims(&maa, &request, &policy).and_then(|own| {
        claims.extend(said);
        claims.extend(own);
        let claims = Value::Object(claims);
        // A token issued under a draft policy is not secured, so that nobody relies on it.
        if draft.is_some() || maa.failures.take(Service::Maa, &Mode::UnsecuredToken) {
            let header = json!({"alg": "none", "typ": "JWT"});
            return Ok(format!("{}.", signing_input(&header, &claims)?));
        }
        maa.sign(&claims)
    });
    Ok(Json(json!({"token": token.map_err(|error| ApiError::internal(&error))?})))
}

/// What is known of a machine.
struct Judged {
    /// What its evidence shows.
    claims: Map<String, Value>,
    /// What it says itself, bound by its evidence: x-ms-runtime and x-ms-inittime.
    said: Map<String, Value>,
}

/// What evidence shows, or why it shows nothing.
fn judge(maa: &Maa, request: &AttestRequest) -> Result<Judged> {
    // 1. The evidence.
    let evidence: Evidence = nested("report", &request.report)?;
    let report = decode("SnpReport", &evidence.snp_report)?;
    let chain = decode("VcekCertChain", &evidence.vcek_cert_chain)?;
    let report = Report::verify(&report, &chain, &maa.roots)?;
    let mut claims = report_claims(&report);
    claims.insert("x-ms-attestation-type".into(), json!("sevsnpvm"));
    if let Some(text) = evidence.endorsements.as_ref().filter(|text| !text.is_empty()) {
        let endorsements: Endorsements = nested("Endorsements", text)?;
        let [endorsement] = endorsements.uvm.as_slice() else {
            bail!("Endorsements: {} of the UVM; there is one", endorsements.uvm.len());
        };
        let endorsed = uvm::claims(&decode("Uvm", endorsement)?, &report.measurement(), uvm::ROOT);
        claims.extend(endorsed.context("Endorsements")?);
    }

    // 2. What it is bound to.
    let mut said = Map::new();
    if let Some(data) = &request.runtime_data {
        let bytes = decode("runtimeData", &data.data)?;
        ensure!(!bytes.is_empty(), "runtimeData is empty");
        let mut bound = [0; 64];
        bound[..32].copy_from_slice(&sha256(&bytes));
        ensure!(
            report.report_data() == bound,
            "report_data is not SHA-256 of runtimeData and zeros"
        );
        said.extend(data_claim("x-ms-runtime", data, &bytes).context("runtimeData")?);
    }
    if let Some(data) = request.init_time_data.as_ref().filter(|data| !data.data.is_empty()) {
        let bytes = decode("initTimeData", &data.data)?;
        ensure!(report.host_data() == sha256(&bytes), "host_data is not SHA-256 of initTimeData");
        said.extend(data_claim("x-ms-inittime", data, &bytes).context("initTimeData")?);
    }
    Ok(Judged { claims, said })
}

/// JSON in base64url.
fn nested<T: DeserializeOwned>(name: &'static str, text: &str) -> Result<T> {
    let value = strict_json::parse(&decode(name, text)?).context(name)?;
    serde_json::from_value(value).context(name)
}

/// What a token says of itself.
fn token_claims(
    maa: &Maa, request: &AttestRequest, policy: &PolicyText,
) -> Result<Map<String, Value>> {
    let offset = maa.failures.take_some(Service::Maa, |mode| match mode {
        Mode::ClockOffset(seconds) => Some(*seconds),
        _ => None,
    });
    let now = clock::now().saturating_add_signed(offset.unwrap_or_default());
    let mut token_id = [0; 32];
    aws_lc_rs::rand::fill(&mut token_id)?;
    let nonce = match &request.nonce {
        Some(Nonce::Number(number)) => Some(("nonce", json!(number.to_string()))),
        Some(Nonce::Text(text)) => Some(("nonce", json!(text))),
        None => None,
    };
    let own = [
        ("iss", json!(maa.url)),
        ("iat", json!(now)),
        ("nbf", json!(now)),
        ("exp", json!(now + TOKEN_SECONDS)),
        ("jti", json!(hex::encode(token_id))),
        ("x-ms-ver", json!("1.0")),
        ("x-ms-policy-hash", json!(policy.hash())),
    ];
    let own = own.into_iter().chain(nonce);
    Ok(own.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn report_claims(report: &Report) -> Map<String, Value> {
    let tcb = report.tcb();
    [
        ("authorkeydigest", json!(hex::encode(report.author_key_digest()))),
        ("bootloader-svn", json!(tcb.boot_loader)),
        ("familyId", json!(hex::encode(report.family_id()))),
        ("guestsvn", json!(report.guest_svn())),
        ("hostdata", json!(hex::encode(report.host_data()))),
        ("idkeydigest", json!(hex::encode(report.id_key_digest()))),
        ("imageId", json!(hex::encode(report.image_id()))),
        ("is-debuggable", json!(report.debuggable())),
        ("launchmeasurement", json!(hex::encode(report.measurement()))),
        ("microcode-svn", json!(tcb.microcode)),
        ("migration-allowed", json!(report.migration_allowed())),
        ("reportdata", json!(hex::encode(report.report_data()))),
        ("reportid", json!(hex::encode(report.report_id()))),
        ("smt-allowed", json!(report.smt_allowed())),
        ("snpfw-svn", json!(tcb.snp)),
        ("tee-svn", json!(tcb.tee)),
        ("vmpl", json!(report.vmpl())),
    ]
    .into_iter()
    .map(|(name, value)| (format!("x-ms-sevsnpvm-{name}"), value))
    .collect()
}

/// JSON becomes a claim; binary data is bound by its digest alone.
fn data_claim(name: &str, data: &Data, bytes: &[u8]) -> Result<Option<(String, Value)>> {
    match data.data_type.as_str() {
        "JSON" => {
            let value = strict_json::parse(bytes)?;
            ensure!(value.is_object(), "not a JSON object");
            Ok(Some((name.to_owned(), value)))
        }
        "Binary" => Ok(None),
        other => bail!("dataType {other:?} is neither JSON nor Binary"),
    }
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>> {
    LENIENT.decode(text).with_context(|| format!("{name} is not base64url"))
}
