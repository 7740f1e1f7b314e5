//! An image of the pinned packages: what is in it, that it is the same twice, and what two tools measure it as.
//!
//! Needs apt, Debian's mirror and a Python package index; without them it fails, it is never skipped.

mod firmware;
mod second_opinion;

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use keyfold_image::command_line::command_line;
use keyfold_image::kernel::Kernel;
use keyfold_image::measure::{Features, Launch, VcpuType, measure};
use keyfold_image::pins::{Package, Pins};
use keyfold_image::{Kind, Workspace, debian, initrd, measurements};

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image").join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn pins() -> Pins {
    Pins::read(&Workspace::own().root).unwrap()
}

fn fetch(package: &Package) -> PathBuf {
    debian::fetch(package, &folder("packages")).unwrap()
}

#[test]
fn the_kernel_has_what_the_guest_needs_in_order() {
    let kernel = Kernel::read(&fetch(&pins().kernel)).unwrap();
    let names: Vec<_> = kernel.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "vsock",
            "vmw_vsock_virtio_transport_common",
            "vmw_vsock_virtio_transport",
            "configfs",
            "tsm",
            "sev-guest",
        ]
    );
    for module in &kernel.modules {
        // The command line demands signatures.
        assert!(module.content.ends_with(b"~Module signature appended~\n"), "{}", module.name);
    }
    assert_eq!(kernel.image[0x202..0x206], *b"HdrS");
}

/// Everything but the compiled program, whose double build takes minutes and is `cargo xtask image verify`'s.
#[test]
fn two_tools_agree_on_a_whole_image_and_development_is_another() {
    let pins = pins();
    let firmware = firmware::of_crate("ovmf_AmdSev_suffix.bin");
    let make = || {
        let kernel = Kernel::read(&fetch(&pins.kernel)).unwrap();
        let initrd = initrd::archive(b"the same program".to_vec(), &kernel.modules);
        (kernel.image, initrd.to_bytes().unwrap())
    };
    let ((kernel, initrd), again) = (make(), make());
    assert!(kernel == again.0 && initrd == again.1, "two archives differ");
    let mut measured = Vec::new();
    for kind in [Kind::Release, Kind::Development] {
        let image = folder(kind.folder());
        let write = |name: &str, content: &[u8]| fs::write(image.join(name), content).unwrap();
        write("vmlinuz", &kernel);
        write("initrd", &initrd);
        write("cmdline", command_line(kind).as_bytes());
        let vcpus = NonZeroU32::new(2).unwrap();
        let launch = Launch {
            firmware: firmware.clone(),
            kernel: image.join("vmlinuz"),
            initrd: Some(image.join("initrd")),
            command_line: command_line(kind),
            vcpu_type: VcpuType::Milan,
            vcpus,
            features: Features::Snp,
        };
        let ours = measure(&launch).unwrap().to_string();
        assert_eq!(second_opinion::ask(&[launch]), std::slice::from_ref(&ours));
        let published = measurements::of(&image, &firmware, &[vcpus]).unwrap();
        let listed = published["measurements"].as_array().unwrap();
        assert_eq!(listed.len(), VcpuType::ALL.len() * 2);
        let named = listed.iter().find(|one| {
            one["vcpu_type"] == "EPYC-Milan" && one["sev_features"] == Features::Snp.bits()
        });
        assert_eq!(named.unwrap()["measurement"], ours);
        measured.push(ours);
    }
    assert_ne!(measured[0], measured[1]);
}

#[test]
fn a_package_of_other_bytes_is_refused_and_an_unknown_version_says_what_there_is() {
    let pinned = pins().kernel;
    let folder = folder("refused");
    let path = folder.join(pinned.file_name());
    fs::write(&path, "something else").unwrap();
    let error = format!("{:#}", debian::fetch(&pinned, &folder).unwrap_err());
    assert!(
        error.contains("is not the pinned package") && error.contains(&pinned.sha256),
        "{error}"
    );
    fs::remove_file(&path).unwrap();

    let forged = Package { sha256: "00".repeat(32), ..pinned.clone() };
    let error = format!("{:#}", debian::fetch(&forged, &folder).unwrap_err());
    assert!(error.contains("do not use them") && !path.exists(), "{error}");

    let gone = Package { version: "0.1-1".into(), ..pinned.clone() };
    let error = format!("{:#}", debian::fetch(&gone, &folder).unwrap_err());
    assert!(
        error.contains("bookworm-backports has of it: ") && error.contains(&pinned.version),
        "{error}"
    );
    assert!(error.contains("pin a version that the mirror has"), "{error}");
}

#[test]
fn the_development_image_says_what_it_is() {
    let (release, development) = (command_line(Kind::Release), command_line(Kind::Development));
    assert!(development.contains("DEVELOPMENT-PROTECTS-NOTHING"));
    for word in ["DEVELOPMENT", "SIMULATED"] {
        assert!(development.contains(word) && !release.contains(word));
    }
    for line in [&release, &development] {
        assert!(line.ends_with(" -- machine 5000"), "{line}");
        // The kernel's limit on x86.
        assert!(line.len() < 2048 && line.is_ascii() && !line.contains("  "), "{line}");
    }
}
