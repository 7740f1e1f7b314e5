//! The image of the confidential VM.
//!
//! [`build`] makes it from this source and pinned packages of Debian's, the same bytes wherever it is done;
//! [`verify`] does it twice and compares.
//! [`measure`] says which launch measurement the hardware reports for a machine that is started with given files:
//! the number that a deployment statement accepts and that anyone can compute again from the same files.

pub mod build;
pub mod command_line;
pub mod compile;
pub mod cpio;
pub mod debian;
pub mod hash;
pub mod initrd;
pub mod kernel;
pub mod measure;
pub mod measurements;
pub mod oci;
pub mod pins;
pub mod policy;
pub mod provenance;
mod run;
pub mod sbom;
pub mod verify;
mod workspace;

pub use workspace::{Builder, Revision, Workspace};

/// Which of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What is deployed: attests with the processor, and does not serve without SEV-SNP.
    Release,
    /// Attests with a software chip: protects nothing, is measured differently, and says both.
    Development,
}

impl Kind {
    /// The folder under `target/image` that it is built into.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Development => "development",
        }
    }
}
