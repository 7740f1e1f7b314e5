//! What is in the image: a bill of materials in CycloneDX 1.6.
//!
//! Without a serial number and a time, which that format leaves optional: the same image has the same bill.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::pins::{Package, Pins};
use crate::{Workspace, compile, hash, run};

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// A crate by name and version.
type Crate = (String, String);

/// The bill of the release image.
///
/// # Errors
/// cargo does not say what the enclave is linked of.
pub fn bill(workspace: &Workspace, pins: &Pins) -> Result<Value> {
    let path = workspace.root.join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lock: Lock = toml::from_str(&lock).with_context(|| path.display().to_string())?;
    let checksums: BTreeMap<Crate, Option<String>> =
        lock.package.into_iter().map(|one| ((one.name, one.version), one.checksum)).collect();
    let linked = crates(workspace, "normal,no-proc-macro")?;
    let built_with = crates(workspace, "normal,build")?;
    let firmware = match &workspace.firmware {
        Some(path) => json!({
            "type": "firmware",
            "bom-ref": "file:firmware.fd",
            "name": "firmware.fd",
            "hashes": sha256(&hash::of_file(path)?),
        }),
        None => debian(&pins.firmware, "firmware"),
    };
    let mut components = vec![debian(&pins.kernel, "operating-system"), firmware];
    for one in &built_with {
        let (name, version) = one;
        let mut component = json!({
            "type": "library",
            "bom-ref": format!("pkg:cargo/{name}@{version}"),
            "purl": format!("pkg:cargo/{name}@{version}"),
            "name": name,
            "version": version,
            // Build scripts and procedural macros run when the image is built and are not in it.
            "scope": if linked.contains(one) { "required" } else { "excluded" },
        });
        if let Some(Some(checksum)) = checksums.get(one) {
            component["hashes"] = sha256(checksum);
        }
        components.push(component);
    }
    let rustc = compile::tools(workspace)?.rustc;
    components.push(json!({
        "type": "library",
        "bom-ref": "rust-std",
        "name": "Rust's standard library",
        "version": rustc.split(' ').nth(1),
    }));
    let libraries = compile::c_libraries(workspace)?;
    components.extend(libraries.into_iter().map(|(name, hash)| {
        json!({"type": "library", "bom-ref": format!("file:{name}"), "name": name, "hashes": sha256(&hash)})
    }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "bom-ref": "keyfold-image",
            "name": "keyfold-image",
            "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": components,
    }))
}

/// Crates of the enclave along these edges.
fn crates(workspace: &Workspace, edges: &str) -> Result<BTreeSet<Crate>> {
    let mut cargo = compile::cargo(workspace)?;
    cargo.args(["tree", "--locked", "--package", "keyfold-trusted", "--prefix", "none"]);
    cargo.args(["--edges", edges, "--target", compile::TARGET]);
    let text = run::read(&mut cargo)?;
    let package = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    };
    Ok(text.lines().filter_map(package).collect())
}

fn debian(package: &Package, kind: &str) -> Value {
    let Package { package: name, version, architecture, sha256: hash, .. } = package;
    let version_in_url = version.replace('+', "%2B").replace('~', "%7E");
    let name_in_url = name.replace('+', "%2B");
    let url = format!("pkg:deb/debian/{name_in_url}@{version_in_url}?arch={architecture}");
    json!({
        "type": kind,
        "bom-ref": url,
        "purl": url,
        "name": name,
        "version": version,
        "hashes": sha256(hash),
    })
}

fn sha256(hash: &str) -> Value {
    json!([{"alg": "SHA-256", "content": hash}])
}
