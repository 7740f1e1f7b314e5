//! Decides whether an enclave's evidence is acceptable, and makes the texts that say so.
//!
//! Two questions, two types that only this crate can construct:
//!
//! 1. *What does this deployment promise to run?* A [`statement::Statement`] signed by k of n
//!    offline keys. [`statement::verify_statement`] turns signed bytes into a
//!    [`statement::VerifiedStatement`].
//! 2. *Does the machine that answered run exactly that?* [`evidence::verify_evidence`] turns an
//!    AMD SEV-SNP report, its certificate chain and the runtime claims into a
//!    [`evidence::VerifiedChannel`]: the only source of a channel key that a client may use.
//!
//! ```no_run
//! use keyfold_attestation_policy::chain::ChainBytes;
//! use keyfold_attestation_policy::evidence::{Evidence, VerifiedChannel, verify_evidence};
//! use keyfold_attestation_policy::statement::{SerialFloor, verify_statement};
//! use keyfold_attestation_policy::trust_root::TrustRoot;
//! use keyfold_attestation_policy::values::Timestamp;
//!
//! # struct Served { statement: Vec<u8>, claims: Vec<u8>, report: Vec<u8>, chain: Vec<u8>, uvm_endorsement: Option<Vec<u8>>, channel_key: Vec<u8> }
//! /// `served` is whatever the host answered; `pinned` and `floor` are the client's own.
//! fn channel(
//!     served: &Served,
//!     pinned: &TrustRoot,
//!     floor: &mut SerialFloor,
//! ) -> Result<VerifiedChannel, Box<dyn std::error::Error>> {
//!     let now = Timestamp::now()?;
//!     let statement = verify_statement(&served.statement, pinned, floor, now)?;
//!     floor.seen = Some(statement.seen()); // to be stored: older statements are refused from now on
//!
//!     let evidence = Evidence {
//!         claims: &served.claims,
//!         report: &served.report,
//!         chain: ChainBytes::Pem(&served.chain),
//!         uvm_endorsement: served.uvm_endorsement.as_deref(),
//!     };
//!     Ok(verify_evidence(&statement, &evidence, &served.channel_key, now)?)
//! }
//! ```
//!
//! What the crate promises: nothing the host sends is trusted before it is checked; AMD's roots
//! are pinned by digest in [`chain`]; signatures are verified over the bytes as they came, never
//! over a re-serialisation; every refusal names the field, what was expected and what came; there
//! is no switch that skips a check. It opens no socket and reads no clock: the caller brings bytes
//! and the time.
//!
//! What it does not do: it fetches no revocation list, so a revoked chip is kept out by the
//! minimum TCB of the statement; and it says nothing about the code behind a measurement, which is
//! what an auditor of the image says.
//!
//! The feature `development` accepts simulated chips, which protect nothing. Without it a
//! statement that lists one is refused as a whole.
//!
//! [`uvm`] verifies what Microsoft endorses about the machine around a confidential container.
//!
//! [`deployment`] is the operator's half: one `deployment.toml` becomes the statement, the Managed
//! HSM release policy, the Azure Attestation policy and the page that an auditor signs off;
//! [`signing`] holds the offline keys' side of it.

mod cbor;
mod certificate;
pub mod chain;
pub mod claims;
pub mod deployment;
mod envelope;
pub mod evidence;
pub mod field;
pub mod report;
pub mod signing;
pub mod statement;
pub mod tcb;
#[cfg(test)]
mod test_chip;
#[cfg(test)]
mod test_uvm;
pub mod trust_root;
pub mod uvm;
pub mod values;
