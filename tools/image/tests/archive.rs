//! The initial file system is the same bytes whenever it is made, and the kernel's own reader would understand it.

use std::collections::BTreeMap;

use keyfold_image::cpio::{Archive, Device};
use keyfold_image::initrd;
use keyfold_image::kernel::Module;

/// What a reader of the newc form finds: path, then fields and content; written apart from the writer.
fn read(mut bytes: &[u8]) -> BTreeMap<String, (Vec<u32>, Vec<u8>)> {
    let whole = bytes.len();
    let mut found = BTreeMap::new();
    loop {
        assert_eq!(&bytes[..6], b"070701", "at {}", whole - bytes.len());
        let field = |number: usize| {
            let at = 6 + number * 8;
            u32::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap()
        };
        let fields: Vec<u32> = (0..13).map(field).collect();
        let (size, name_size) = (fields[6] as usize, fields[11] as usize);
        let name = std::str::from_utf8(&bytes[110..110 + name_size]).unwrap();
        let name = name.strip_suffix('\0').unwrap().to_owned();
        let start = (110 + name_size).next_multiple_of(4);
        let content = bytes[start..start + size].to_vec();
        bytes = &bytes[(start + size).next_multiple_of(4)..];
        if name == "TRAILER!!!" {
            assert!(bytes.iter().all(|byte| *byte == 0));
            return found;
        }
        assert!(found.insert(name, (fields, content)).is_none());
    }
}

fn modules() -> Vec<Module> {
    let module = |name: &str| Module { name: name.to_owned(), content: name.as_bytes().to_vec() };
    ["vsock", "a-transport", "tsm"].map(module).into()
}

#[test]
fn the_guest_has_these_files_and_no_others() {
    let bytes = initrd::archive(b"program".to_vec(), &modules()).to_bytes().unwrap();
    assert_eq!(bytes.len() % 512, 0);
    let found = read(&bytes);
    let modes: Vec<_> = found.iter().map(|(path, (f, _))| (path.as_str(), f[1])).collect();
    assert_eq!(
        modes,
        [
            ("dev", 0o040_755),
            ("dev/console", 0o020_600),
            ("keyfold-enclave", 0o100_500),
            ("modules", 0o040_755),
            ("modules/00-vsock.ko", 0o100_400),
            ("modules/01-a-transport.ko", 0o100_400),
            ("modules/02-tsm.ko", 0o100_400),
            ("proc", 0o040_755),
            ("sys", 0o040_755),
        ]
    );
    assert_eq!(found["keyfold-enclave"].1, b"program");
    assert_eq!(found["modules/01-a-transport.ko"].1, b"a-transport");
    assert_eq!(found["dev/console"].0[9..11], [5, 1]);
    // Nobody's time, user, group or disk is in it.
    for (path, (fields, _)) in &found {
        assert_eq!([fields[2], fields[3], fields[5], fields[7], fields[8]], [0; 5], "{path}");
    }
}

#[test]
fn neither_order_nor_time_changes_a_byte() {
    let console = Device { major: 5, minor: 1 };
    let one = Archive::new()
        .file("b/c/d", 0o400, b"content".to_vec())
        .folder("a")
        .character_device("dev/console", 0o600, console);
    let other = Archive::new()
        .character_device("dev/console", 0o600, console)
        .folder("b")
        .folder("a")
        .file("b/c/d", 0o400, b"content".to_vec());
    let bytes = one.to_bytes().unwrap();
    assert_eq!(bytes, other.to_bytes().unwrap());
    let paths: Vec<_> = read(&bytes).into_keys().collect();
    assert_eq!(paths, ["a", "b", "b/c", "b/c/d", "dev", "dev/console"]);
    let inodes: Vec<_> = read(&bytes).into_values().map(|(fields, _)| fields[0]).collect();
    assert_eq!(inodes, [1, 2, 3, 4, 5, 6]);
    for different in [
        one.clone().file("b/c/d", 0o500, b"content".to_vec()),
        one.clone().file("b/c/d", 0o400, b"contenu".to_vec()),
        one.clone().file("b/c/e", 0o400, Vec::new()),
    ] {
        assert_ne!(different.to_bytes().unwrap(), bytes);
    }
}

#[test]
fn a_chip_is_an_archive_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let error = initrd::chip_archive(folder.path()).unwrap_err();
    assert!(format!("{error:#}").contains("vcek.pem"), "{error:#}");
    for name in ["vcek.pem", "vcek.key.pk8", "something-else"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let found = read(&initrd::chip_archive(folder.path()).unwrap());
    let paths: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(paths, ["chip", "chip/vcek.key.pk8", "chip/vcek.pem"]);
    assert_eq!(found["chip/vcek.pem"].1, b"vcek.pem");
}
