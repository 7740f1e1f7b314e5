//! The enclave as a container image: an OCI image layout (image-spec 1.1) of one layer with one program.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::hash;
use crate::initrd::ENCLAVE;

/// Where the containers of a group share a volume.
pub const SHARED: &str = "/run/keyfold";
/// What the program is told: to serve a Unix socket there.
pub const SERVE: [&str; 2] = ["socket", "/run/keyfold/enclave"];

/// Writes the layout into a folder, which is made anew.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, enclave: &[u8]) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| blobs.display().to_string())?;
    let blob = |media_type: &str, content: &[u8]| -> Result<Value> {
        let digest = hash::of(content);
        fs::write(blobs.join(&digest), content).with_context(|| blobs.display().to_string())?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{media_type}"),
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        }))
    };
    let layer = layer(enclave)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [format!("/{ENCLAVE}")], "Cmd": SERVE, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hash::of(&layer))]},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes())?,
        "layers": [blob("layer.v1.tar", &layer)?],
    });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(folder.join("index.json"), index.to_string())?;
    fs::write(folder.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    Ok(())
}

/// Root's, from the epoch, not compressed: nothing in it depends on who packs it.
fn layer(enclave: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o555);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(enclave.len())?);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, ENCLAVE, enclave)?;
    Ok(layer.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the digests from the index down to the program, as whoever pulls the image does.
    #[test]
    fn every_digest_leads_to_its_blob_and_the_last_to_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let content = fs::read(folder.path().join("blobs/sha256").join(digest)).unwrap();
            assert_eq!(hash::of(&content), digest);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = || fs::read(folder.path().join("index.json")).unwrap();
        write(folder.path(), b"another program").unwrap();
        let another = index();
        write(folder.path(), b"program").unwrap();
        assert_ne!(index(), another);
        let manifest = json(&blob(&json(&index())["manifests"][0]));
        let layer = blob(&manifest["layers"][0]);
        let config = json(&blob(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/keyfold-enclave"]));
        let mut files = tar::Archive::new(&layer[..]);
        let mut files = files.entries().unwrap().map(Result::unwrap);
        let mut only = files.next().unwrap();
        assert_eq!(only.path().unwrap().to_str(), Some("keyfold-enclave"));
        let header = only.header();
        let times = (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        assert_eq!((times, header.mode().unwrap()), ((0, 0, 0), 0o555));
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut only, &mut content).unwrap();
        assert_eq!(content, b"program");
        assert!(files.next().is_none());
        // Nothing of the other program is left.
        assert_eq!(fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 3);
    }
}
