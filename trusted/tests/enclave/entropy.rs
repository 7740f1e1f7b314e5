//! What /proc/cpuinfo has to say before an enclave boots.

#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]

use crate::entropy::require_hardware_source;

#[test]
fn every_processor_has_both_instructions() {
    let processor = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu {flags} sev_snp\n\n");
    let good = processor("rdrand rdseed");
    let two = |second: &str| good.clone() + &processor(second);
    for (cpuinfo, missing) in [
        (good.clone(), None),
        (two("rdseed rdrand"), None),
        (processor("rdseed"), Some("no rdrand")),
        (processor("rdrand"), Some("no rdseed")),
        (processor("rdrand2 rdseed"), Some("no rdrand")),
        (two("rdrand"), Some("no rdseed")),
        (String::new(), Some("no flags of any processor")),
        ("bugs\t: rdrand rdseed\n".into(), Some("no flags of any processor")),
    ] {
        let verdict = require_hardware_source(&cpuinfo);
        let Some(missing) = missing else {
            assert_eq!(verdict, Ok(()), "{cpuinfo}");
            continue;
        };
        let cause = verdict.expect_err(missing);
        assert!(cause.starts_with("no hardware random source"), "{cause}");
        assert!(cause.contains(missing), "{cpuinfo}: {cause}");
    }
}
