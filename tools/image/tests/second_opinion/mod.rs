//! What PyPI's sev-snp-measure says of a launch: a tool that was written apart.

#[path = "../../../dev-cloud/tests/common/python.rs"]
#[allow(unreachable_pub)]
mod python;

use keyfold_image::measure::Launch;
use serde_json::json;

const SEV_SNP_MEASURE: python::Environment =
    python::Environment { name: "sev-snp-measure-0.0.13", packages: &["sev-snp-measure==0.0.13"] };

/// What PyPI's tool says of the same machines.
pub(crate) fn ask(launches: &[Launch]) -> Vec<String> {
    let launches: Vec<_> = launches
        .iter()
        .map(|launch| {
            json!({
                "firmware": launch.firmware,
                "kernel": launch.kernel,
                "initrd": launch.initrd,
                "command_line": launch.command_line,
                "vcpu_type": launch.vcpu_type.qemu_name(),
                "vcpus": launch.vcpus,
                "features": launch.features.bits(),
            })
        })
        .collect();
    let digests =
        python::ask(&SEV_SNP_MEASURE, "sev_snp_measure.py", &json!({"launches": launches}));
    serde_json::from_value(digests).unwrap()
}
