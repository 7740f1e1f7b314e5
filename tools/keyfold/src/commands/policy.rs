//! What a deployment accepts and who signs for it. Files in, files out: nothing here talks to
//! anybody.

mod documents;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use keyfold_attestation_policy::deployment::{
    Change, Deployment, PolicyVerdict, Profile, Reason, compare_statements, statement_summary,
    template,
};
use keyfold_attestation_policy::signing::{SigningError, SigningKey, gather_statement};
use keyfold_attestation_policy::statement::{SerialFloor, Statement, verify_statement};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::values::{Sha256, SignerKey, Timestamp};
use serde_json::{Value, json};

use crate::args::{PolicyCommand, ProfileName};
use crate::config::read_trust_root;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::counted;

use documents::{Document, in_file, read, read_deployment, write, wrong};

pub(super) fn run(context: &Context, command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Init { profile, out } => init(context, profile, &out),
        PolicyCommand::Show { file, trust_root } => show(context, &file, trust_root.as_deref()),
        PolicyCommand::Key { out } => key(context, &out),
        PolicyCommand::TrustRoot { keys, threshold, out } => {
            trust_root(context, &keys, threshold, &out)
        }
        PolicyCommand::Sign { deployment, keys, trust_root, signed, partial, out } => {
            let root = read_trust_root(&trust_root)?;
            let keys = keys.iter().map(|file| listed_key(file, &root, &trust_root));
            let signing = Signing {
                deployment: read_deployment(&deployment)?,
                keys: keys.collect::<Result<_, _>>()?,
                root,
                earlier: signed.map(|file| read(&file).map(|bytes| (file, bytes))).transpose()?,
                partial,
            };
            signing.sign(context, &out)
        }
        PolicyCommand::Emit { deployment, out } => emit(context, &deployment, &out),
        PolicyCommand::Check { deployment, policy, accept_a_policy_that_can_be_replaced } => {
            let deployment = read_deployment(&deployment)?;
            say_if_simulated(context, deployment.statement());
            let verdict = deployment.check_release_policy(&read(&policy)?);
            let mut verdict = verdict.map_err(in_file(&policy))?;
            if accept_a_policy_that_can_be_replaced {
                verdict.findings.retain(|finding| finding.reason != Reason::Mutable);
            }
            check(context, &verdict)
        }
        PolicyCommand::Diff { older, newer } => diff(context, &older, &newer),
    }
}

fn init(context: &Context, profile: ProfileName, out: &Path) -> Result<(), Failure> {
    let text = template(match profile {
        ProfileName::SnpDirect => Profile::SnpDirect,
        ProfileName::Aci => Profile::Aci,
    });
    // What somebody has filled in is not written over.
    let file = fs::OpenOptions::new().write(true).create_new(true).open(out);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::file(out, &error))?;
    let shown = out.display().to_string();
    let next =
        format!("{shown}: fill in what stands in angle brackets; keyfold policy show {shown}");
    context.out.result(json!({"file": shown}), &next);
    Ok(())
}

fn show(context: &Context, file: &Path, trust_root: Option<&Path>) -> Result<(), Failure> {
    let bytes = read(file)?;
    let document = Document::parse(file, &bytes)?;
    say_if_simulated(context, document.statement());
    let statement: Value =
        serde_json::from_slice(&document.statement().to_payload()).map_err(wrong)?;
    let mut object = json!({"statement": statement});
    let text = match &document {
        Document::Deployment(deployment) => {
            let (authority, pinned) = deployment.key_release();
            let digests = deployment.texts().map(|(name, _, text)| (name, Sha256::of(&text)));
            object["key_release"] =
                json!({"authority": authority, "pin_attestation_policy": pinned});
            object["sha256"] =
                digests.iter().map(|(name, sha256)| (name.to_string(), json!(sha256))).collect();
            deployment.summary()
        }
        Document::Statement { statement, signers } => {
            let checked = trust_root.map(|root| verified(&bytes, root)).transpose()?;
            object["signers"] = json!(signers);
            object["signatures_checked"] = checked.is_some().into();
            let word = match (checked, signers) {
                (Some(()), _) => "the trust root's keys signed it, and its time has not passed",
                (None, Some(_)) => "NOT CHECKED: give the trust root with --trust-root",
                (None, None) => "none: this is what is to be signed",
            };
            format!("{}Signatures: {word}\n", statement_summary(statement))
        }
    };
    context.out.result(object, &text);
    Ok(())
}

fn verified(signed: &[u8], trust_root: &Path) -> Result<(), Failure> {
    let root = read_trust_root(trust_root)?;
    let now = Timestamp::now().map_err(wrong)?;
    let verified = verify_statement(signed, &root, &SerialFloor::default(), now);
    let refused =
        |error: _| Failure::new(Exit::Deployment, "statement-refused", format!("{error}"));
    verified.map(drop).map_err(refused)
}

fn key(context: &Context, out: &Path) -> Result<(), Failure> {
    let key = SigningKey::create(out).map_err(key_failure(out))?.public_key().to_string();
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

/// A signing key that clients will count.
fn listed_key(file: &Path, root: &TrustRoot, trust_root: &Path) -> Result<SigningKey, Failure> {
    let key = SigningKey::read(file).map_err(key_failure(file))?;
    let public = key.public_key();
    if root.keys().contains(&public) {
        return Ok(key);
    }
    let message = format!(
        "its public half, {public}, is not in {}; clients would not count it",
        trust_root.display()
    );
    Err(in_file(file)(message))
}

/// Why a key file cannot be made or used; what is in it is never lost.
fn key_failure(file: &Path) -> impl FnOnce(SigningError) -> Failure {
    move |error| match error {
        SigningError::File { source, .. } => Failure::file(file, &source),
        other => in_file(file)(other),
    }
}

/// What goes into a signed statement.
struct Signing {
    deployment: Deployment,
    keys: Vec<SigningKey>,
    root: TrustRoot,
    /// The file that other holders have signed.
    earlier: Option<(PathBuf, Vec<u8>)>,
    partial: bool,
}

impl Signing {
    fn sign(self, context: &Context, out: &Path) -> Result<(), Failure> {
        let statement = self.deployment.statement();
        say_if_simulated(context, statement);
        let payload = self.deployment.statement_payload();
        // Before anything is signed: the others' file holds the same statement, signed by them.
        if let Some((file, earlier)) = &self.earlier {
            let earlier = gather_statement(&payload, Some(earlier), vec![], &self.root);
            earlier.map_err(in_file(file))?;
        }
        let signatures = self.keys.iter().map(|key| key.sign_statement(&payload).map_err(wrong));
        let signatures = signatures.collect::<Result<_, _>>()?;
        let earlier = self.earlier.as_ref().map(|(_, bytes)| &bytes[..]);
        let gathered =
            gather_statement(&payload, earlier, signatures, &self.root).map_err(wrong)?;
        let (have, need) = (gathered.signatures, gathered.threshold);
        if !gathered.is_complete() && !self.partial {
            let message = format!(
                "signatures: expected {need} keys of the trust root, found {have}; nothing was \
                 written. With --partial, the file is written for the next holder to sign"
            );
            return Err(wrong(message));
        }
        write(out, &gathered.file)?;
        let (name, serial, expires) =
            (statement.name(), statement.serial(), statement.expires().to_string());
        let object = json!({
            "name": name,
            "serial": serial,
            "expires": expires,
            "payload_sha256": Sha256::of(&payload),
            "signatures": have,
            "threshold": need,
            "complete": gathered.is_complete(),
        });
        let word = match gathered.is_complete() {
            true => "Signed".to_owned(),
            false => format!("Signed by {have} of {need}, NOT YET VALID"),
        };
        context.out.result(object, &format!("{word}: {name}, serial {serial}, expires {expires}"));
        Ok(())
    }
}

fn emit(context: &Context, deployment: &Path, out: &Path) -> Result<(), Failure> {
    let deployment = read_deployment(deployment)?;
    say_if_simulated(context, deployment.statement());
    fs::create_dir_all(out).map_err(|error| Failure::file(out, &error))?;
    let [statement, release, attestation] = deployment.texts().map(|(_, file, text)| (file, text));
    let files = [statement, release, attestation, ("summary.md", deployment.summary().into())];
    let mut lines = Vec::new();
    let mut object = json!({"folder": out.display().to_string(), "sha256": {}});
    for (name, text) in files {
        write(&out.join(name), &text)?;
        let sha256 = Sha256::of(&text).to_string();
        lines.push(format!("{sha256}  {}", out.join(name).display()));
        object["sha256"][name] = sha256.into();
    }
    context.out.result(object, &lines.join("\n"));
    Ok(())
}

fn check(context: &Context, verdict: &PolicyVerdict) -> Result<(), Failure> {
    let PolicyVerdict { findings, immutable, unserved } = verdict;
    let object = json!({
        "passes": findings.is_empty(),
        "findings": findings,
        "immutable": immutable,
        "unserved": unserved.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    let mut lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if findings.is_empty() {
        lines.push("Releases the key to nothing but what the deployment accepts.".into());
    }
    lines.push(match immutable {
        Some(true) => "It cannot be replaced.".into(),
        Some(false) => "IT CAN BE REPLACED by whoever manages the key.".into(),
        None => "Whether the key holds it immutably is not in this file: check what Managed HSM \
                 answers for the key."
            .into(),
    });
    let never = |workload: &_| format!("Never gets the key: {workload}, which is accepted.");
    lines.extend(unserved.iter().map(never));
    context.out.result(object, &lines.join("\n"));
    if findings.is_empty() {
        return Ok(());
    }
    let found = counted(findings.len(), "finding", "findings");
    let message = format!("the release policy must not guard this key: {found}");
    Err(Failure::new(Exit::ReleasePolicy, "release-policy-refused", message))
}

fn diff(context: &Context, older: &Path, newer: &Path) -> Result<(), Failure> {
    let [older, newer] = [older, newer].map(|file| Document::parse(file, &read(file)?));
    let (older, newer) = (older?, newer?);
    say_if_simulated(context, newer.statement());
    let (changes, covers_release) = match (&older, &newer) {
        (Document::Deployment(older), Document::Deployment(newer)) => (older.compare(newer), true),
        _ => (compare_statements(older.statement(), newer.statement()), false),
    };
    let object = json!({
        "changes": changes,
        "key_release_compared": covers_release,
    });
    let mut lines: Vec<String> = changes.iter().map(Change::to_string).collect();
    if changes.is_empty() {
        lines.push("The same.".into());
    }
    if !covers_release {
        lines.push("Statements say nothing about the release of the key; not compared.".into());
    }
    context.out.result(object, &lines.join("\n"));
    if changes.is_empty() {
        return Ok(());
    }
    let message = match changes.len() {
        1 => "one entry differs".to_owned(),
        several => format!("{several} entries differ"),
    };
    Err(Failure::new(Exit::Different, "different", message))
}

/// A statement that accepts a simulated chip protects nothing: every line says so.
fn say_if_simulated(context: &Context, statement: &Statement) {
    let simulated = statement.workloads().iter().any(|one| one.profile() == "simulated");
    context.out.simulated(simulated);
}
