//! The file to begin with: not accepted as it is, and a deployment once it is filled in.

use keyfold_attestation_policy::deployment::{Deployment, Profile, template};

/// What stands in angle brackets, with what to put there.
const VALUES: [(&str, &str); 11] = [
    ("<name>", "keyfold-eu"),
    ("<2026-01-01T00:00:00Z>", "2026-01-01T00:00:00Z"),
    ("<2026-04-01T00:00:00Z>", "2026-04-01T00:00:00Z"),
    ("<https://keyfold.example>", "https://keyfold.example"),
    ("<https://login.example/v2.0>", "https://login.example/v2.0"),
    ("<client id>", "client"),
    ("<audience>", "api://keyfold"),
    ("<64 hex digits>", "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0"),
    (
        "<96 hex digits>",
        "abababababababababababababababababababababababababababababababababababababababababababababababab",
    ),
    ("<0>", "4"),
    ("<https://instance.region.attest.azure.net>", "https://keyfold.weu.attest.azure.net"),
];

#[test]
fn template_is_a_deployment_once_it_is_filled_in() {
    for profile in [Profile::SnpDirect, Profile::Aci] {
        let empty = template(profile);
        for left in VALUES.map(|(place, _)| place).into_iter().filter(|it| empty.contains(it)) {
            let fill = |text: String, (place, value): &(&str, &str)| match *place == left {
                true => text,
                false => text.replace(place, value),
            };
            let unfinished = VALUES.iter().fold(empty.clone(), fill);
            assert!(Deployment::from_toml(&unfinished).is_err(), "{profile:?}: {left}");
        }
        let full = VALUES.iter().fold(empty, |text, (place, value)| text.replace(place, value));
        let deployment = Deployment::from_toml(&full).unwrap();
        let expected = if profile == Profile::Aci { "aci" } else { "snp-direct" };
        assert_eq!(deployment.statement().workloads()[0].profile(), expected);
        // The safe choice is the one that is written there.
        assert!(deployment.key_release().1);
    }
}
