//! The attestation service: judges SEV-SNP evidence and says in a signed token what it saw.
//!
//! POST /attest/SevSnpVm, GET /certs, GET /.well-known/openid-configuration, api-versions 2022-08-01 and 2020-10-01.

use crate::clock;
use crate::digest::sha256;
use crate::http::{ApiError, parse};
use crate::keyring::{Keyring, signing_input};
use crate::snp::Report;
use crate::strict_json;
use anyhow::{Context, Result, bail, ensure};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};
use std::sync::Arc;

const TOKEN_SECONDS: u64 = 28_800;
/// The policy the tokens name: whatever is genuine gets a token; who relies on it decides.
const POLICY: &str =
    "version= 1.0;\nauthorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};\n";
/// Clients pad, or do not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The attestation service.
pub(crate) struct Maa {
    pub(crate) url: String,
    pub(crate) keys: Keyring,
    /// SHA-256 of the DER of each trusted ARK.
    pub(crate) roots: Vec<[u8; 32]>,
}

/// The service's routes.
pub(crate) fn router(maa: Arc<Maa>) -> Router {
    Router::new()
        .route("/attest/{tee}", post(attest))
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
    let keys: Vec<_> = maa
        .keys
        .all()
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
    Number(Number),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Evidence {
    snp_report: String,
    vcek_cert_chain: String,
    endorsements: Option<String>,
}

async fn attest(
    State(maa): State<Arc<Maa>>, Path(tee): Path<String>, Query(query): Query<ApiVersion>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    if !tee.eq_ignore_ascii_case("SevSnpVm") {
        let message = format!("{tee:?} is not attested here; SevSnpVm is");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NotFound", message));
    }
    if !matches!(query.api_version.as_deref(), Some("2022-08-01" | "2020-10-01")) {
        return Err(ApiError::bad_request(
            "InvalidParameter",
            "api-version must be 2022-08-01 or 2020-10-01",
        ));
    }
    let request: AttestRequest = parse(&body, "InvalidParameter")?;
    let claims = judge(&maa, &request)
        .map_err(|why| ApiError::bad_request("InvalidParameter", format!("{why:#}")))?;
    let token = sign(&maa, &claims, request.draft_policy_for_attestation.is_some())
        .map_err(|error| ApiError::internal(&error))?;
    Ok(Json(json!({"token": token})))
}

/// A token issued under a draft policy is not secured, so that nobody relies on it.
fn sign(maa: &Maa, claims: &Value, draft: bool) -> Result<String> {
    if draft {
        return Ok(format!("{}.", signing_input(&json!({"alg": "none", "typ": "JWT"}), claims)?));
    }
    let key = maa.keys.current()?;
    let header =
        json!({"alg": "RS256", "jku": format!("{}/certs", maa.url), "kid": key.kid, "typ": "JWT"});
    key.sign(&header, claims)
}

/// The token's claims, or why there are none.
fn judge(maa: &Maa, request: &AttestRequest) -> Result<Value> {
    // 1. The evidence.
    let evidence = strict_json::parse(&decode("report", &request.report)?).context("report")?;
    let evidence: Evidence = serde_json::from_value(evidence).context("report")?;
    ensure!(
        evidence.endorsements.as_deref().unwrap_or_default().is_empty(),
        "Endorsements: this service judges machines started directly, which have none"
    );
    let report = decode("SnpReport", &evidence.snp_report)?;
    let chain = decode("VcekCertChain", &evidence.vcek_cert_chain)?;
    let report = Report::verify(&report, &chain, &maa.roots)?;

    // 2. What it is bound to.
    let mut claims = report_claims(&report);
    if let Some(data) = &request.runtime_data {
        let bytes = decode("runtimeData", &data.data)?;
        ensure!(!bytes.is_empty(), "runtimeData is empty");
        let mut bound = [0; 64];
        bound[..32].copy_from_slice(&sha256(&bytes));
        ensure!(
            report.report_data() == bound,
            "report_data is not SHA-256 of runtimeData and zeros"
        );
        claims.extend(data_claim("x-ms-runtime", data, &bytes).context("runtimeData")?);
    }
    if let Some(data) = request.init_time_data.as_ref().filter(|data| !data.data.is_empty()) {
        let bytes = decode("initTimeData", &data.data)?;
        ensure!(report.host_data() == sha256(&bytes), "host_data is not SHA-256 of initTimeData");
        claims.extend(data_claim("x-ms-inittime", data, &bytes).context("initTimeData")?);
    }

    // 3. The token's own claims.
    let now = clock::now();
    let mut token_id = [0; 32];
    aws_lc_rs::rand::fill(&mut token_id)?;
    let policy_hash = sha256(URL_SAFE_NO_PAD.encode(POLICY).as_bytes());
    for (name, value) in [
        ("iss", json!(maa.url)),
        ("iat", json!(now)),
        ("nbf", json!(now)),
        ("exp", json!(now + TOKEN_SECONDS)),
        ("jti", json!(hex::encode(token_id))),
        ("x-ms-ver", json!("1.0")),
        ("x-ms-attestation-type", json!("sevsnpvm")),
        ("x-ms-policy-hash", json!(URL_SAFE_NO_PAD.encode(policy_hash))),
    ] {
        claims.insert(name.to_owned(), value);
    }
    match &request.nonce {
        Some(Nonce::Number(number)) => claims.insert("nonce".into(), json!(number.to_string())),
        Some(Nonce::Text(text)) => claims.insert("nonce".into(), json!(text)),
        None => None,
    };
    Ok(Value::Object(claims))
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
