//! The `deployment.toml` to begin with: every entry, what it means, and where its value comes from.

/// A workload profile to write a description for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Our image, booted directly.
    SnpDirect,
    /// A confidential container on Azure.
    Aci,
}

/// A commented `deployment.toml` for one workload. Every value in angle brackets is to be filled in;
/// as long as one is left, the file is not accepted.
pub fn template(profile: Profile) -> String {
    let workload = match profile {
        Profile::SnpDirect => SNP_DIRECT,
        Profile::Aci => ACI,
    };
    [HEAD, workload, MACHINE, TAIL].concat()
}

const HEAD: &str = r#"# What this deployment promises, in one file. From it are made: the statement that its clients
# check, the release policy of its root key, the policy of the attestation service between the
# two, and the page that an auditor signs off.
#
#   keyfold policy show deployment.toml          the page
#   keyfold policy emit deployment.toml --out .  all four texts
#   keyfold policy sign --deployment deployment.toml ...
#
# Fill in what stands in angle brackets.

[statement]
# 1 to 64 of A-Z a-z 0-9 - . _
name = "<name>"
# Counts up with each statement. Clients refuse one that is lower than one they have seen.
serial = 1
# At most 90 days. A client refuses an expired statement, so sign the next in time.
issued = "<2026-01-01T00:00:00Z>"
expires = "<2026-04-01T00:00:00Z>"
# Where the host answers. Clients refuse to talk to any other place under this statement.
url = "<https://keyfold.example>"
# Hash of the enclave's configuration: deployment name, ledger key and issuer, fresh_read. The
# enclave claims it in every report; a genuine image with another ledger has another hash.
config = "<64 hex digits>"
# Commitment to the root key: 64 zeros until the first key ceremony, at which `keyfold-host doctor`
# prints it. No policy contains it; a statement for clients has to.
root = "<64 hex digits>"

# Where users sign in (OpenID Connect).
[statement.identity]
issuer = "<https://login.example/v2.0>"
client_id = "<client id>"
audience = "<audience>"

# Accepted code. Repeat the table for a second image while a fleet moves from one to the other.
[[statement.workloads]]
"#;

const SNP_DIRECT: &str = r#"profile = "snp-direct"
# Launch measurement (SHA-384) of the image: firmware, kernel, initial RAM disk, command line and
# initial registers. Rebuild the image and measure it yourself.
measurement = "<96 hex digits>"
# If the image is started with a signed ID block, whose keys must have signed it:
# id_key_digest = "<96 hex digits>"
# author_key_digest = "<96 hex digits>"
"#;

const ACI: &str = r#"profile = "aci"
# SHA-256 of the exact container policy, which `az confcom acipolicygen` makes. This is what
# identifies the workload: the launch measurement is Microsoft's utility VM, the same for everybody.
host_data = "<64 hex digits>"
# Which utility VMs may enforce the policy. The issuer is Microsoft's, and stands for a root
# certificate and a purpose. The minimum is what Microsoft names as free of known weaknesses.
uvm = { issuer = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2", feed = "ContainerPlat-AMD-UVM", minimum_svn = 104 }
"#;

const MACHINE: &str = r#"# Bits of the guest policy that must be set, and that must not be: smt-allowed, single-socket,
# cxl-allowed, memory-aes-256-xts, rapl-disabled, ciphertext-hiding, page-swap-disabled.
# Debugging and migration are always refused. Clients check all of them. Of these only smt-allowed
# guards the root key too, unless an ID key is named: the ID block carries the whole guest policy.
policy_required = []
policy_forbidden = []
# The same for the machine: smt-enabled, tsme-enabled, ecc-enabled, rapl-disabled,
# ciphertext-hiding, alias-check-complete, tio-enabled. Clients check them; none guards the root key.
platform_required = []
platform_forbidden = []
# Each processor family it may run on, with the lowest firmware accepted there: what AMD's newest
# security bulletins ask for. Turin has one part more, fmc.
minimum_tcb = [
    { product = "Milan", tcb = { bootloader = <0>, tee = <0>, snp = <0>, microcode = <0> } },
]

"#;

const TAIL: &str = r#"[key_release]
# The attestation service whose tokens the Managed HSM believes. An instance of your own, with the
# policy that `keyfold policy emit` writes: shared instances have no policy of yours.
authority = "<https://instance.region.attest.azure.net>"
# Release the key only under exactly that policy, so that a minimum firmware (of several products, any
# one's) holds for the key as well and nobody can lower it at the service. The price: a new minimum
# needs a new key version.
pin_attestation_policy = true
"#;
