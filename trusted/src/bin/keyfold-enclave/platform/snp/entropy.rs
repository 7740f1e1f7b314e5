//! Whether the machine has randomness that its host does not choose.
//!
//! The host of a confidential VM times its interrupts and emulates its devices; of the kernel's
//! sources only the processor's own instructions are out of its reach. Without them every key of this
//! boot could be the host's guess, so there is no boot. That the kernel's generator has been seeded
//! from them is what every draw waits for: ring calls getrandom(2), which blocks until then.

/// Fails, with the cause, unless every processor in this `/proc/cpuinfo` has RDSEED, which feeds the
/// kernel's generator, and RDRAND, which it falls back to. The kernel strikes out an instruction that
/// fails its self-test, so its list says more than CPUID.
pub(crate) fn require_hardware_source(cpuinfo: &str) -> Result<(), String> {
    let flags = cpuinfo.lines().filter_map(|line| line.strip_prefix("flags"));
    let mut processors = flags.map(|flags| flags.split_whitespace()).peekable();
    let mut missing = processors.peek().is_none().then_some("flags of any processor");
    for flags in processors {
        let lacks = |wanted: &&str| !flags.clone().any(|flag| flag == *wanted);
        missing = missing.or(["rdrand", "rdseed"].into_iter().find(lacks));
    }
    missing.map_or(Ok(()), |what| Err(format!("no hardware random source: no {what}")))
}
