//! The files that the policy commands read and write.

use std::fs;
use std::path::Path;

use keyfold_attestation_policy::deployment::Deployment;
use keyfold_attestation_policy::signing::read_without_checking_signatures;
use keyfold_attestation_policy::statement::Statement;
use keyfold_attestation_policy::values::SignerKey;

use crate::failure::{Exit, Failure};

/// A file that says what a deployment accepts.
pub(super) enum Document {
    /// A description.
    Deployment(Deployment),
    /// A statement: what is signed and, where it has been, by whom; no signature has been checked.
    Statement { statement: Statement, signers: Option<Vec<SignerKey>> },
}

impl Document {
    /// Statements are JSON objects, descriptions TOML, which never begins with a brace.
    /// `file` is where the bytes come from.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Failure> {
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return parse_deployment(file, bytes).map(Self::Deployment);
        }
        let object: serde_json::Value = serde_json::from_slice(bytes).map_err(in_file(file))?;
        if object.get("payloadType").is_none() {
            let statement = Statement::from_payload(bytes).map_err(in_file(file))?;
            return Ok(Self::Statement { statement, signers: None });
        }
        let signed = read_without_checking_signatures(bytes);
        let (statement, signers) = signed.map_err(in_file(file))?;
        Ok(Self::Statement { statement, signers: Some(signers) })
    }

    pub(super) fn statement(&self) -> &Statement {
        match self {
            Self::Deployment(deployment) => deployment.statement(),
            Self::Statement { statement, .. } => statement,
        }
    }
}

pub(super) fn read_deployment(path: &Path) -> Result<Deployment, Failure> {
    parse_deployment(path, &read(path)?)
}

fn parse_deployment(file: &Path, bytes: &[u8]) -> Result<Deployment, Failure> {
    let text = std::str::from_utf8(bytes).map_err(in_file(file))?;
    Deployment::from_toml(text).map_err(in_file(file))
}

/// What is wrong with a file.
pub(super) fn in_file<E: std::fmt::Display>(file: &Path) -> impl FnOnce(E) -> Failure {
    move |error| Failure::content("policy", file, error)
}

/// What is wrong with inputs together.
pub(super) fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, "policy", error.to_string())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::file(path, &error))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|error| Failure::file(path, &error))
}
