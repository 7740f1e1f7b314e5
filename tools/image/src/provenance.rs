//! How the image was made: an in-toto statement with SLSA's provenance (version 1) as its predicate.
//!
//! Without times and places: who builds the same source with the same tools states the same.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::pins::{Package, Pins};
use crate::{Workspace, compile, hash};

/// What is stated to be made so. The container's index names the rest of the container by hash.
const SUBJECTS: [&str; 7] = [
    "vmlinuz",
    "initrd",
    "cmdline",
    "firmware.fd",
    "measurements.json",
    "sbom.cdx.json",
    "oci/index.json",
];

/// The statement about an image that was built into a folder.
///
/// # Errors
/// A file or a tool is missing.
pub fn statement(workspace: &Workspace, pins: &Pins, image: &Path) -> Result<Value> {
    let subject = SUBJECTS.iter().map(|name| {
        Ok(json!({"name": name, "digest": {"sha256": hash::of_file(&image.join(name))?}}))
    });
    let tools = compile::tools(workspace)?;
    let revision = workspace.revision.as_ref().context("the source is not in git: no revision")?;
    let mut inputs = vec![
        json!({
            "name": "source",
            "digest": {"gitCommit": revision.commit},
            "annotations": {"uncommitted_changes": !revision.clean},
        }),
        json!({"name": "rustc", "digest": {"gitCommit": tools.rustc_commit}}),
        debian(&pins.kernel),
        match &workspace.firmware {
            Some(path) => {
                json!({"name": "firmware.fd", "digest": {"sha256": hash::of_file(path)?}})
            }
            None => debian(&pins.firmware),
        },
        json!({
            "name": "Cargo.lock",
            "digest": {"sha256": hash::of_file(&workspace.root.join("Cargo.lock"))?},
        }),
    ];
    inputs.extend(
        compile::c_libraries(workspace)?
            .into_iter()
            .map(|(name, hash)| json!({"name": name, "digest": {"sha256": hash}})),
    );
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject.collect::<Result<Vec<_>>>()?,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:keyfold:image:1",
                "externalParameters": {"command": "cargo xtask image build"},
                "internalParameters": {"rustc": tools.rustc, "cc": tools.cc},
                "resolvedDependencies": inputs,
            },
            "runDetails": {"builder": {"id": "urn:keyfold:image:anyone"}},
        },
    }))
}

fn debian(package: &Package) -> Value {
    json!({
        "name": package.file_name(),
        "digest": {"sha256": package.sha256},
        "annotations": {"suite": package.suite},
    })
}
