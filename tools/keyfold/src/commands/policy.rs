//! The offline keys' side of a deployment, as far as it takes files only.

use std::fs;
use std::path::Path;

use keyfold_attestation_policy::deployment::Deployment;
use keyfold_attestation_policy::signing::{SigningKey, assemble_statement};
use keyfold_attestation_policy::statement::Statement;
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::values::SignerKey;
use serde_json::json;

use crate::args::PolicyCommand;
use crate::context::Context;
use crate::failure::{Exit, Failure};

pub(super) fn run(context: &Context, command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Key { out } => key(context, &out),
        PolicyCommand::TrustRoot { keys, threshold, out } => {
            trust_root(context, &keys, threshold, &out)
        }
        PolicyCommand::Statement { deployment, keys, trust_root, out } => {
            let texts = (read(&deployment)?, read(&trust_root)?);
            let keys = keys.iter().map(|file| SigningKey::read(file).map_err(wrong));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            let (signed, statement) = statement(&texts.0, &keys, &texts.1)?;
            write(&out, &signed)?;
            let (name, serial, expires) =
                (statement.name(), statement.serial(), statement.expires().to_string());
            let object = json!({"name": name, "serial": serial, "expires": expires});
            let text = format!("Signed: {name}, serial {serial}, expires {expires}");
            context.out.result(object, &text);
            Ok(())
        }
    }
}

fn key(context: &Context, out: &Path) -> Result<(), Failure> {
    let key = SigningKey::create(out).map_err(wrong)?.public_key().to_string();
    context.out.result(json!({"key": key}), &key);
    Ok(())
}

fn trust_root(
    context: &Context, keys: &[String], threshold: usize, out: &Path,
) -> Result<(), Failure> {
    let keys = keys.iter().map(|key| SignerKey::from_hex(key).map_err(wrong));
    let root = TrustRoot::new(1, threshold, keys.collect::<Result<_, _>>()?).map_err(wrong)?;
    write(out, &root.to_json())?;
    let count = root.keys().len();
    let object = json!({"version": 1, "threshold": threshold, "keys": count});
    context.out.result(object, &format!("Trust root: {threshold} of {count} keys must sign."));
    Ok(())
}

/// The signed statement, and what it says.
fn statement(
    deployment: &[u8], keys: &[SigningKey], trust_root: &[u8],
) -> Result<(Vec<u8>, Statement), Failure> {
    let text = std::str::from_utf8(deployment).map_err(wrong)?;
    let deployment = Deployment::from_toml(text).map_err(wrong)?;
    let root = TrustRoot::from_json(trust_root).map_err(wrong)?;
    let payload = deployment.statement_payload();
    let signatures = keys.iter().map(|key| key.sign_statement(&payload).map_err(wrong));
    let signatures = signatures.collect::<Result<_, _>>()?;
    let signed = assemble_statement(&payload, signatures, &root).map_err(wrong)?;
    Ok((signed, deployment.statement().clone()))
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, "policy", error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::file(path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|error| Failure::file(path, &error))
}
