//! Two tools that were written apart agree on what a machine measures as, and so do published digests.
//!
//! Needs python3 with venv and a package index; without them it fails, it is never skipped.

mod firmware;
mod second_opinion;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use keyfold_image::measure::{Features, Launch, MeasureError, VcpuType, measure, measure_firmware};

fn amd_sev() -> PathBuf {
    firmware::of_crate("ovmf_AmdSev_suffix.bin")
}

/// As the published digests' machine is.
fn launch() -> Launch {
    Launch {
        firmware: amd_sev(),
        kernel: "/dev/null".into(),
        initrd: Some("/dev/null".into()),
        command_line: "console=ttyS0 loglevel=7".into(),
        vcpu_type: VcpuType::EpycV4,
        vcpus: NonZeroU32::MIN,
        features: Features::Snp,
    }
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-measure");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Digests that the sev crate's authors published for their 4096-byte firmware.
#[test]
fn published_digests() {
    let hash = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74";
    assert_eq!(measure_firmware(&amd_sev()).unwrap().to_string(), hash);
    let golden = [
        (
            Features::Snp,
            "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
        ),
        (
            Features::SnpDebugSwap,
            "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977",
        ),
    ];
    let launches = golden.map(|(features, _)| Launch { features, ..launch() });
    for ((launch, theirs), (_, digest)) in
        launches.iter().zip(second_opinion::ask(&launches)).zip(golden)
    {
        assert_eq!(measure(launch).unwrap().to_string(), digest);
        assert_eq!(theirs, digest);
    }
}

#[test]
fn two_tools_agree_and_every_input_counts() {
    let kernel = file("kernel", &[0x4d; 70_001]);
    let initrd = file("initrd", &[0x1f; 12_345]);
    let mut launches = Vec::new();
    for vcpu_type in VcpuType::ALL {
        for vcpus in [1, 2, 4] {
            let vcpus = NonZeroU32::new(vcpus).unwrap();
            launches.push(Launch { vcpu_type, vcpus, ..launch() });
        }
    }
    for features in [Features::Snp, Features::SnpDebugSwap] {
        for (kernel, initrd, command_line) in [
            (&kernel, Some(&initrd), "console=ttyS0 root=/dev/dm-0"),
            (&kernel, Some(&initrd), ""),
            (&kernel, Some(&kernel), "console=ttyS0"),
            (&initrd, None, "console=ttyS0"),
        ] {
            let (kernel, initrd) = (kernel.clone(), initrd.cloned());
            let command_line = command_line.to_owned();
            launches.push(Launch { kernel, initrd, command_line, features, ..launch() });
        }
    }
    // Another firmware: its measured page differs in one byte that no table covers.
    let mut other = std::fs::read(amd_sev()).unwrap();
    other[0] ^= 1;
    launches.push(Launch { firmware: file("firmware", &other), ..launch() });

    let mut seen = std::collections::BTreeMap::new();
    for (launch, theirs) in launches.iter().zip(second_opinion::ask(&launches)) {
        let ours = measure(launch).unwrap().to_string();
        assert_eq!(ours, theirs, "{launch:?}");
        if let Some(same) = seen.insert(ours, launch) {
            panic!("{launch:?} measures as {same:?}");
        }
    }
    assert_eq!(seen.len(), launches.len());
}

#[test]
fn firmware_that_measures_no_kernel_is_refused_and_so_is_what_is_not_there() {
    let without = Launch { firmware: firmware::of_crate("ovmf_OvmfX64_suffix.bin"), ..launch() };
    let error = measure(&without).unwrap_err().to_string();
    assert!(error.contains("SNP_KERNEL_HASHES"), "{error}");
    let nothing = Launch { firmware: file("zeros", &[0; 4096]), ..launch() };
    assert!(matches!(measure(&nothing), Err(MeasureError::Firmware { .. })));
    for launch in [
        Launch { firmware: "missing-firmware".into(), ..launch() },
        Launch { kernel: "missing-kernel".into(), ..launch() },
        Launch { initrd: Some("missing-initrd".into()), ..launch() },
    ] {
        let error = measure(&launch).unwrap_err();
        assert!(matches!(error, MeasureError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("missing-"), "{error}");
    }
}

#[test]
fn vcpu_types_are_qemus() {
    for vcpu_type in VcpuType::ALL {
        assert_eq!(vcpu_type.qemu_name().parse(), Ok(vcpu_type));
    }
    let error = "host".parse::<VcpuType>().unwrap_err();
    assert!(error.to_string().contains("\"host\""));
}
