//! What changed between two deployments, and whether it accepts more.

use keyfold_attestation_policy::deployment::{Change, Deployment, Effect};

use super::{CONTAINER, TOML, container, deployment};

/// The changes that replacing a text makes.
fn changes(before: &str, from: &str, to: &str) -> Vec<Change> {
    let after = before.replacen(from, to, 1);
    assert_ne!(before, after, "{from}");
    let read = |text| Deployment::from_toml(text).unwrap();
    read(before).compare(&read(&after))
}

#[test]
fn the_same_is_the_same() {
    assert_eq!(deployment().compare(&deployment()), []);
    assert_eq!(container().compare(&container()), []);
}

#[test]
fn every_entry_is_compared() {
    use Effect::{Other, Stricter, Weaker};
    let key = "1".repeat(96);
    let without_key = format!("id_key_digest = \"{key}\"\n");
    let product = "    { product = \"Turin\", tcb = { fmc = 1, bootloader = 1, tee = 1, snp = 4, microcode = 81 } },\n";
    for (toml, from, to, entry, effect) in [
        (TOML, "keyfold-eu", "keyfold-us", "statement.name", Other),
        (TOML, "serial = 12", "serial = 13", "statement.serial", Other),
        (TOML, "2026-11-22", "2026-11-23", "statement.issued", Other),
        (TOML, "2027-02-20", "2027-02-19", "statement.expires", Other),
        (TOML, "https://keyfold.example", "https://keyfold.test", "statement.url", Other),
        (TOML, "v2.0", "v3.0", "statement.identity.issuer", Other),
        (TOML, "00000000-", "00000001-", "statement.identity.client_id", Other),
        (TOML, "api://keyfold", "api://other", "statement.identity.audience", Other),
        (TOML, "c0c0", "c1c0", "statement.config", Other),
        (TOML, "1010", "1110", "statement.root", Other),
        (TOML, "weu", "neu", "key_release.authority", Other),
        (
            CONTAINER,
            "policy = true",
            "policy = false",
            "key_release.pin_attestation_policy",
            Weaker,
        ),
        (TOML, "[\"single-socket\"]", "[]", "policy_required single-socket", Weaker),
        (TOML, "\"cxl-allowed\"", "\"rapl-disabled\"", "policy_forbidden cxl-allowed", Weaker),
        (TOML, "\"cxl-allowed\"", "\"rapl-disabled\"", "policy_forbidden rapl-disabled", Stricter),
        (TOML, "\"ecc-enabled\", ", "", "platform_required ecc-enabled", Weaker),
        (
            TOML,
            "platform_forbidden = []",
            "platform_forbidden = [\"smt-enabled\"]",
            "platform_forbidden smt-enabled",
            Stricter,
        ),
        (TOML, "snp = 24", "snp = 23", "minimum_tcb Milan", Weaker),
        (TOML, "snp = 24", "snp = 25", "minimum_tcb Milan", Stricter),
        // Higher in one part, lower in another.
        (
            TOML,
            "bootloader = 4, tee = 0, snp = 24",
            "bootloader = 3, tee = 0, snp = 25",
            "minimum_tcb Milan",
            Weaker,
        ),
        (TOML, product, "", "minimum_tcb Turin", Stricter),
        (TOML, &without_key, "", "id_key_digest", Weaker),
        (CONTAINER, "minimum_svn = 104", "minimum_svn = 105", "uvm.minimum_svn", Stricter),
        (CONTAINER, "minimum_svn = 104", "minimum_svn = 103", "uvm.minimum_svn", Weaker),
        (CONTAINER, "ContainerPlat", "Other", "uvm.feed", Other),
        (CONTAINER, "59.1.2", "59.1.3", "uvm.issuer", Other),
    ] {
        let changes = changes(toml, from, to);
        let change = changes.iter().find(|change| change.entry.ends_with(entry));
        let change = change.unwrap_or_else(|| panic!("{entry}: {changes:?}"));
        assert_eq!(change.effect, effect, "{change}");
        assert!(change.to_string().contains(entry) && !change.meaning.is_empty());
        assert!(changes.len() <= 2, "{changes:?}");
    }
}

#[test]
fn another_product_or_workload_is_more_and_one_less_is_not() {
    let turin = "    { product = \"Turin\", tcb = { fmc = 1, bootloader = 1, tee = 1, snp = 4, microcode = 81 } },\n";
    let fewer = Deployment::from_toml(&TOML.replacen(turin, "", 1)).unwrap();
    let [change] = &fewer.compare(&deployment())[..] else { panic!("one change") };
    assert_eq!((change.effect, change.before.as_deref()), (Effect::Weaker, None));

    let other = changes(TOML, "acacac", "adadac");
    let effects: Vec<Effect> = other.iter().map(|change| change.effect).collect();
    assert_eq!(effects, [Effect::Stricter, Effect::Weaker]);
    assert!(
        other[1].to_string().starts_with("WEAKER: workload measurement adadac"),
        "{}",
        other[1]
    );

    // From images to a container: both images go, one container comes.
    let moved = deployment().compare(&container());
    assert_eq!(moved.iter().filter(|it| it.effect == Effect::Weaker).count(), 1);
    assert_eq!(moved.iter().filter(|it| it.after.is_none()).count(), 2);
}

#[test]
fn a_serial_that_does_not_rise_is_said_to_be_none() {
    let [change] = &changes(TOML, "serial = 12", "serial = 11")[..] else { panic!("one change") };
    assert!(change.meaning.contains("NOT higher"), "{change}");
}

/// Nothing that is signed changes unseen.
#[test]
fn another_order_is_another_statement() {
    let forbidden = "[\"smt-allowed\", \"cxl-allowed\"]";
    let turned = "[\"cxl-allowed\", \"smt-allowed\"]";
    let [change] = &changes(TOML, forbidden, turned)[..] else { panic!("one change") };
    assert!(change.entry.contains("SHA-256") && change.before != change.after, "{change}");
}
