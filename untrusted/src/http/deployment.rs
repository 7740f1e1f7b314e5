//! What clients verify before they trust anything: the signed statement and each enclave's evidence.

use crate::enclave::{Booted, Links};
use crate::problem::{Kind, Problem};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use keyfold_protocol::ids::ChannelKeyId;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a document is served before the statement's file is looked at again.
const AGE: Duration = Duration::from_secs(2);

/// Builds and remembers the document.
pub struct Deployment {
    statement: PathBuf,
    built: Mutex<Option<Built>>,
}

struct Built {
    at: Instant,
    boots: Vec<ChannelKeyId>,
    document: Bytes,
}

impl Deployment {
    /// Serves the statement in this file.
    pub fn new(statement: PathBuf) -> Self {
        Self { statement, built: Mutex::default() }
    }

    /// `{"statement", "enclaves"}`.
    pub async fn document(&self, links: &Links) -> Result<Bytes, Problem> {
        let live: Vec<_> = links.live().collect();
        let boots: Vec<_> = live.iter().map(|live| live.booted().channel_key_id).collect();
        if boots.is_empty() {
            return Err(Kind::EnclaveStarting.into());
        }
        if let Some(built) = &*self.built.lock().unwrap_or_else(PoisonError::into_inner)
            && built.at.elapsed() < AGE
            && built.boots == boots
        {
            return Ok(built.document.clone());
        }
        let statement = self.statement().await?;
        let enclaves: Vec<_> = live.iter().map(|live| enclave(&live.booted())).collect();
        let document = json!({"statement": statement, "enclaves": enclaves}).to_string();
        let document = Bytes::from(document);
        let built = Built { at: Instant::now(), boots, document: document.clone() };
        *self.built.lock().unwrap_or_else(PoisonError::into_inner) = Some(built);
        Ok(document)
    }

    /// The statement's exact text.
    pub async fn statement(&self) -> Result<String, Problem> {
        tokio::fs::read_to_string(&self.statement).await.map_err(|error| {
            tracing::error!("deployment.statement {}: {error}", self.statement.display());
            Kind::StatementMissing.into()
        })
    }
}

fn enclave(booted: &Booted) -> Value {
    let mut enclave = json!({
        "channel_key": URL_SAFE_NO_PAD.encode(&booted.channel_key),
        "claims": URL_SAFE_NO_PAD.encode(&booted.claims),
        "report": URL_SAFE_NO_PAD.encode(&booted.report),
        "vcek_chain": booted.vcek_chain,
    });
    if let Some(endorsement) = &booted.uvm_endorsement {
        enclave["uvm_endorsement"] = URL_SAFE_NO_PAD.encode(endorsement).into();
    }
    enclave
}
