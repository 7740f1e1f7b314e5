//! The kernel's command line, word by word, each with its reason. It is measured: the host can change none of it.

use crate::Kind;

/// The vsock port of the first link; each further vCPU serves one more.
pub const PORT: u32 = 5000;

/// A word, and why it is there.
pub type Word = (&'static str, &'static str);

const WORDS: [Word; 22] = [
    (
        "console=ttyS0",
        "what kernel and enclave say; the host reads it, and nothing secret is ever said",
    ),
    (
        "loglevel=0",
        "the kernel says nothing, not even as it dies: it would print registers, and the host may \
         inject an exception at any instruction of the enclave's; what the enclave says is not held back",
    ),
    ("panic=-1", "a machine that failed ends at once, with all its secrets"),
    ("oops=panic", "a kernel that stumbled is not trusted any further"),
    (
        "reboot=t",
        "by triple fault: ends the machine without asking firmware or devices, which are the host's",
    ),
    ("mitigations=auto", "against leaks through the processor, as the kernel knows them"),
    ("init_on_alloc=1", "no program or driver finds what another left in memory"),
    ("init_on_free=1", "what an ended link's process held is gone when it has ended"),
    (
        "random.trust_cpu=on",
        "the processor's generator seeds the kernel's: the only source the host does not see",
    ),
    (
        "random.trust_bootloader=off",
        "seeds handed over at boot come from the host: mixed in, not counted",
    ),
    ("lockdown=confidentiality", "not even the only program reads or changes the kernel's memory"),
    ("module.sig_enforce=1", "only modules that Debian signed"),
    (
        "ia32_emulation=off",
        "an interrupt that the host injects is not taken for a 32-bit system call",
    ),
    (
        "initcall_blacklist=acpi_init,erst_init,bert_init,nvme_init,virtio_fs_init,virtio_console_init,\
         init_tis,crb_acpi_driver_init,i8042_init,atkbd_init,cxl_core_init,pcie_portdrv_init,\
         efifb_driver_init,pstore_init",
        "ACPI's tables hold programs of the host's, which would run with the kernel's rights: none is \
         run. Of what a host may attach, no disk, shared folder, TPM, keyboard or screen is looked at",
    ),
    (
        "pci=lastbus=1",
        "without ACPI the kernel has to be told where devices are: on the first buses",
    ),
    (
        "xen_nopv",
        "a host that calls itself Xen is not believed: it would be handed pages of memory",
    ),
    ("ipv6.disable=1", "no network is configured; less of it is there to be attacked"),
    ("debugfs=off", "no program needs it"),
    ("sysctl.kernel.sysrq=0", "the host types on the console: keys there do nothing"),
    ("sysctl.kernel.kexec_load_disabled=1", "what was measured is what runs"),
    ("swiotlb=force", "whatever the machine, devices reach bounce buffers and no other memory"),
    ("rdinit=/keyfold-enclave", "the enclave is the first program; there is no other"),
];

/// Words of a development image alone: they change the measurement, and anyone who reads them knows.
const DEVELOPMENT: [Word; 2] = [
    ("keyfold.image=DEVELOPMENT-PROTECTS-NOTHING", "a name; the kernel ignores it"),
    (
        "KEYFOLD_SIMULATED_CHIP=/chip",
        "becomes the enclave's environment: where its software chip is",
    ),
];

/// What follows: the enclave's arguments, the last of which is [`PORT`].
const ARGUMENTS: [Word; 3] = [
    ("--", "what follows is the enclave's, not the kernel's"),
    ("machine", "serves one link for each vCPU, each from a process of its own"),
    ("5000", "the vsock port of the first link; the next ones follow"),
];

/// The command line.
pub fn command_line(kind: Kind) -> String {
    words(kind).iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
}

/// Its words, in order.
pub fn words(kind: Kind) -> Vec<Word> {
    let development: &[Word] = match kind {
        Kind::Release => &[],
        Kind::Development => &DEVELOPMENT,
    };
    [&WORDS, development, &ARGUMENTS].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_the_port() {
        assert!(command_line(Kind::Release).ends_with(&format!(" -- machine {PORT}")));
    }
}
