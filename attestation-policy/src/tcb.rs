//! Processor families and their TCB versions: which byte of the eight means what.
//!
//! Sources: SEV-SNP firmware ABI (TCB_VERSION), AMD's VCEK certificate and KDS interface
//! specification (the extension per part).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A processor family with its own AMD root and TCB layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Product {
    /// Third generation EPYC (Zen 3).
    Milan,
    /// Fourth generation EPYC (Zen 4), with Bergamo and Siena.
    Genoa,
    /// Fifth generation EPYC (Zen 5).
    Turin,
}

impl Product {
    /// The name that AMD's certificates use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product of a CPUID family and model, as reports carry them from version 3 on.
    pub const fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0F) => Some(Self::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Self::Genoa),
            (0x1A, 0x00..=0x1F) => Some(Self::Turin),
            _ => None,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// TCB_VERSION as a report carries it: eight bytes whose meaning depends on the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTcb(pub [u8; 8]);

impl RawTcb {
    /// Reads the bytes in the product's layout; `None` when a reserved byte is not zero, since the
    /// meaning is then unknown to this crate.
    pub const fn decode(self, product: Product) -> Option<Tcb> {
        match (product, self.0) {
            (Product::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => {
                Some(Tcb { fmc: Some(fmc), bootloader, tee, snp, microcode })
            }
            (Product::Milan | Product::Genoa, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Some(Tcb { fmc: None, bootloader, tee, snp, microcode })
            }
            _ => None,
        }
    }
}

impl fmt::Display for RawTcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}", hex::encode(self.0))
    }
}

/// The security patch levels of a platform's firmware parts.
///
/// `fmc` exists on Turin and later only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// Firmware management controller (Turin).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Secure processor boot loader.
    pub bootloader: u8,
    /// Secure processor operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Tcb {
    /// Whether every part is at least `minimum`'s. Parts do not make up for each other.
    pub fn is_at_least(&self, minimum: &Self) -> bool {
        self.fmc >= minimum.fmc
            && self.bootloader >= minimum.bootloader
            && self.tee >= minimum.tee
            && self.snp >= minimum.snp
            && self.microcode >= minimum.microcode
    }

    /// Whether the parts are those that the product has.
    pub fn fits(&self, product: Product) -> bool {
        self.fmc.is_some() == (product == Product::Turin)
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc}, ")?;
        }
        let Self { bootloader, tee, snp, microcode, .. } = self;
        write!(f, "bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_differ_between_products() {
        let bytes = RawTcb([1, 2, 0, 0, 0, 0, 3, 4]);
        let milan = Tcb { fmc: None, bootloader: 1, tee: 2, snp: 3, microcode: 4 };
        assert_eq!(bytes.decode(Product::Milan), Some(milan));
        assert_eq!(bytes.decode(Product::Genoa), Some(milan));
        // Byte 6 is reserved on Turin.
        assert_eq!(bytes.decode(Product::Turin), None);

        let bytes = RawTcb([1, 2, 3, 4, 0, 0, 0, 5]);
        let turin = Tcb { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 5 };
        assert_eq!(bytes.decode(Product::Turin), Some(turin));
        assert_eq!(bytes.decode(Product::Milan), None);
    }

    #[test]
    fn every_part_counts() {
        let floor = Tcb { fmc: Some(2), bootloader: 2, tee: 2, snp: 2, microcode: 2 };
        assert!(floor.is_at_least(&floor));
        let high = 9;
        for low in [
            Tcb { fmc: Some(1), bootloader: high, tee: high, snp: high, microcode: high },
            Tcb { fmc: Some(high), bootloader: 1, tee: high, snp: high, microcode: high },
            Tcb { fmc: Some(high), bootloader: high, tee: 1, snp: high, microcode: high },
            Tcb { fmc: Some(high), bootloader: high, tee: high, snp: 1, microcode: high },
            Tcb { fmc: Some(high), bootloader: high, tee: high, snp: high, microcode: 1 },
        ] {
            assert!(!low.is_at_least(&floor), "{low}");
        }
    }

    #[test]
    fn cpuid_names_the_product() {
        assert_eq!(Product::from_cpuid(0x19, 0x01), Some(Product::Milan));
        assert_eq!(Product::from_cpuid(0x19, 0x11), Some(Product::Genoa));
        assert_eq!(Product::from_cpuid(0x19, 0xA0), Some(Product::Genoa));
        assert_eq!(Product::from_cpuid(0x1A, 0x02), Some(Product::Turin));
        assert_eq!(Product::from_cpuid(0x19, 0x44), None);
        assert_eq!(Product::from_cpuid(0x1A, 0x50), None);
    }
}
