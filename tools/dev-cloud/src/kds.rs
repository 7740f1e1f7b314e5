//! AMD's key distribution service: certificates of the simulated chip, by its id and firmware.
//!
//! GET /vcek/v1/{product}/{hwid}?blSPL=&teeSPL=&snpSPL=&ucodeSPL= (DER), GET /vcek/v1/{product}/cert_chain (PEM).
//! The real one signs a certificate for whatever firmware is asked for; this one has three, made with the chip.

use crate::chip::{Chip, PRODUCT};
use crate::snp::Tcb;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use std::sync::Arc;

/// The service's routes.
pub(crate) fn router(chip: Arc<Chip>) -> Router {
    Router::new()
        .route("/vcek/v1/{product}/cert_chain", get(chain))
        .route("/vcek/v1/{product}/{hwid}", get(vcek))
        .with_state(chip)
}

/// Its errors are text.
type Refusal = (StatusCode, String);

fn check_product(product: &str) -> Result<(), Refusal> {
    match product == PRODUCT {
        true => Ok(()),
        false => Err((StatusCode::NOT_FOUND, format!("no chip of product {product}"))),
    }
}

async fn chain(
    State(chip): State<Arc<Chip>>, Path(product): Path<String>,
) -> Result<Response, Refusal> {
    check_product(&product)?;
    let pem = chip.chain_pem.clone();
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response())
}

/// Milan's four; Turin's fmcSPL does not belong here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Firmware {
    #[serde(rename = "blSPL")]
    boot_loader: u8,
    #[serde(rename = "teeSPL")]
    tee: u8,
    #[serde(rename = "snpSPL")]
    snp: u8,
    #[serde(rename = "ucodeSPL")]
    microcode: u8,
}

async fn vcek(
    State(chip): State<Arc<Chip>>, Path((product, hwid)): Path<(String, String)>,
    query: Result<Query<Firmware>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    check_product(&product)?;
    let Query(firmware) =
        query.map_err(|rejection| (StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let hwid = hex::decode(&hwid)
        .ok()
        .filter(|hwid| hwid.len() == 64)
        .ok_or_else(|| (StatusCode::BAD_REQUEST, "a chip's id is 128 hex digits".to_owned()))?;
    let Firmware { boot_loader, tee, snp, microcode } = firmware;
    let tcb = Tcb { fmc: None, boot_loader, tee, snp, microcode };
    let found = chip.vceks().into_iter().find(|vcek| hwid == chip.hardware_id && vcek.tcb == tcb);
    let found = found.ok_or_else(|| (StatusCode::NOT_FOUND, "no such certificate".to_owned()))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], found.der.clone()).into_response())
}
