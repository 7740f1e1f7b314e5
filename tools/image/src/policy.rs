//! The policy of a confidential container on Azure (ACI): which containers may run in the machine, in Rego.
//!
//! The machine's host_data is SHA-256 of the policy's exact bytes; with the `aci` profile of a deployment statement,
//! that and not the measurement is what names this image. The form is that of the agent's framework 0.2.3.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::initrd::ENCLAVE;
use crate::oci::{SERVE, SHARED};

/// Whether the agent does each of these is for its own framework to say, from the containers listed here.
const DELEGATED: [&str; 18] = [
    "create_container",
    "dump_stacks",
    "exec_external",
    "exec_in_container",
    "get_properties",
    "load_fragment",
    "mount_device",
    "mount_overlay",
    "plan9_mount",
    "plan9_unmount",
    "runtime_logging",
    "rw_mount_device",
    "scratch_mount",
    "scratch_unmount",
    "shutdown_container",
    "signal_container_process",
    "unmount_device",
    "unmount_overlay",
];

/// What holds for all containers. Azure asks the machine whether it still runs; the environment and the capabilities
/// that it adds to those listed here are taken away, where refusing them would refuse the container.
const FOR_ALL: [(&str, bool); 6] = [
    ("allow_capability_dropping", true),
    ("allow_dump_stacks", false),
    ("allow_environment_variable_dropping", true),
    ("allow_properties_access", true),
    ("allow_runtime_logging", false),
    ("allow_unencrypted_scratch", false),
];

/// The layer of Azure's container that keeps a group's namespaces.
const PAUSE_LAYER: &str = "16b514057a06ad665f92c02863aca074fd5976c755d26bff16365299169e8415";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The policy that lets the enclave run, with nothing else but what Azure itself adds to every group.
///
/// `layer` is the dm-verity root hash, in hex, of the image's one layer as Azure mounts it.
///
/// # Errors
/// The hash is not 64 lowercase hexadecimal digits.
pub fn policy(layer: &str) -> Result<String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    ensure!(
        layer.len() == 64 && layer.bytes().all(is_digit),
        "{layer:?} is not a dm-verity root hash: 64 lowercase hexadecimal digits are"
    );
    let fragments = json!([{
        "feed": "mcr.microsoft.com/aci/aci-cc-infra-fragment",
        "includes": ["containers", "fragments"],
        "issuer": "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.3",
        "minimum_svn": "1",
    }]);
    // Azure mounts the first into every container; the enclave looks up no names.
    let mounts = [("/etc/resolv.conf", "resolvconf"), (SHARED, "emptydir")];
    let mounts = mounts.map(|(destination, source)| {
        json!({
            "destination": destination,
            "options": ["rbind", "rshared", "rw"],
            "source": format!("sandbox:///tmp/atlas/{source}/.+"),
            "type": "bind",
        })
    });
    let program = format!("/{ENCLAVE}");
    let containers = json!([
        container(ENCLAVE, &[&program, SERVE[0], SERVE[1]], layer, &json!(mounts)),
        container("pause-container", &["/pause"], PAUSE_LAYER, &json!([])),
    ]);
    let mut text = String::from(
        "package policy\n\nimport future.keywords.every\nimport future.keywords.in\n\n\
         api_version := \"0.10.0\"\nframework_version := \"0.2.3\"\n\n",
    );
    text += &format!("fragments := {fragments:#}\n\ncontainers := {containers:#}\n\n");
    FOR_ALL.iter().for_each(|(name, allowed)| text += &format!("{name} := {allowed}\n"));
    text.push('\n');
    DELEGATED.iter().for_each(|name| text += &format!("{name} := data.framework.{name}\n"));
    text += "\nreason := {\"errors\": data.framework.errors}\n";
    Ok(text)
}

/// One program with no right beyond running: no capabilities, no other processes, no signals.
fn container(name: &str, command: &[&str], layer: &str, mounts: &Value) -> Value {
    json!({
        "name": name,
        "command": command,
        "layers": [layer],
        "env_rules": [
            {"pattern": PATH, "strategy": "string", "required": false},
            {"pattern": "TERM=xterm", "strategy": "string", "required": false},
        ],
        "mounts": mounts,
        "exec_processes": [],
        "signals": [],
        "allow_elevated": false,
        "allow_stdio_access": true,
        "no_new_privileges": false,
        "capabilities": {
            "ambient": [], "bounding": [], "effective": [], "inheritable": [], "permitted": [],
        },
        "seccomp_profile_sha256": "",
        "user": {
            "user_idname": {"pattern": "", "strategy": "any"},
            "group_idnames": [{"pattern": "", "strategy": "any"}],
            "umask": "0022",
        },
        "working_dir": "/",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_counts_and_has_to_be_a_hash() {
        let (one, other) = (policy(&"0a".repeat(32)).unwrap(), policy(&"0b".repeat(32)).unwrap());
        assert_ne!(one, other);
        assert_eq!(one, policy(&"0a".repeat(32)).unwrap());
        assert!(one.contains(&"0a".repeat(32)));
        for bad in ["", "0a", &"0A".repeat(32), &"0a".repeat(33), &"\"x".repeat(32)] {
            policy(bad).unwrap_err();
        }
    }
}
