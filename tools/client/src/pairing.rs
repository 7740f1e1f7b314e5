//! Approving a device: a secret that people carry across, and two messages that only its holders
//! can make or read.
//!
//! ```text
//! trusted device                    host                       new device
//!   shows a secret (90 bits)  ----- never through the host ----->  enters it
//!                             <-- offer: account, name, keys ---
//!   shows name and fingerprint; the person compares and agrees
//!   ApproveDevice, committed
//!                             --- answer: account, versions, heads, statement -->
//!                                                      checks, then lists the devices
//!   or the person does not agree
//!                             --- answer: declined -->
//! ```
//!
//! Both messages are sealed under keys derived from the secret, one key for each direction; the
//! answer is bound to the very offer it answers, and as long whatever it says. The host relays them:
//! it can lose them, not read, forge, swap, reflect or replay them. The new device compares the
//! account with the one it signed in to itself, so nobody can talk it into somebody else's account, and the statement's serial with
//! the one it was served, so the host cannot show it an older deployment than its sibling's.

mod client;
mod code;
#[cfg(test)]
mod tests;

use keyfold_attestation_policy::statement::SeenStatement;
use keyfold_protocol::client::Device;
use keyfold_protocol::ids::{Account, AccountId, ChainPoint, DeviceId, Digest};
use keyfold_protocol::{transcript, wire};
use serde::{Deserialize, Serialize};

use crate::crypto::{self, Key, sha256};

pub use code::PairingSecret;

/// The longest message a mailbox takes, in bytes.
const MESSAGE: usize = 4096;
/// What the messages' plaintexts are padded to: neither length says anything.
const PLAINTEXT: usize = 512;

/// Why a device was not approved or did not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// What was typed is no code.
    #[error(
        "this is no pairing code: it has twenty letters and digits; check it and type it again"
    )]
    NotACode,
    /// A character was mistyped.
    #[error("the pairing code has a typing error; check it and type it again")]
    Mistyped,
    /// Nobody came within ten minutes.
    #[error(
        "the other device did not answer within ten minutes: see that both are signed in as the same \
         person, then start again with a new code"
    )]
    TimedOut,
    /// The trusted device did not approve the new one.
    #[error("the other device did not approve this one; if it should, start again with a new code")]
    Declined,
    /// What came was not made by a holder of the secret, for this pairing.
    #[error(
        "the message of the other device is forged or was made for another pairing; do not \
         approve anything, and start again with a new code"
    )]
    Forged,
    /// The other device is signed in as somebody else.
    #[error(
        "the other device is signed in to account {theirs}, this one to {ours}; sign in as the \
         same person on both"
    )]
    OtherAccount {
        /// This device's account.
        ours: AccountId,
        /// The other device's.
        theirs: AccountId,
    },
    /// The answer is for another device.
    #[error("the answer was made for another device; start again with a new code")]
    OtherDevice,
    /// The host serves the two devices different deployment statements.
    #[error(
        "this device is served statement {ours} of the deployment, the other one has seen \
         {theirs}, or another one under the same number; report this deployment"
    )]
    OtherStatement {
        /// Serial that this device was served.
        ours: u64,
        /// Serial that the other device has seen.
        theirs: u64,
    },
    /// The mailbox was taken.
    #[error("this pairing code was used already; start again with a new code")]
    Used,
}

/// What a new device tells: its own account and keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    account: AccountId,
    device: Device,
}

/// What a trusted device tells: where the account stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    account: Account,
    device: DeviceId,
    guard: u64,
    audit_head: Digest,
    vault: ChainPoint,
    statement_serial: u64,
    statement: [u8; 32],
}

impl Answer {
    fn seen(&self) -> SeenStatement {
        let payload = keyfold_attestation_policy::values::Sha256::new(self.statement);
        SeenStatement { serial: self.statement_serial, payload }
    }
}

/// A device that asks to be approved: show this to the person, who compares the fingerprint with
/// what the new device shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    offer: Offer,
    sealed: Vec<u8>,
}

impl Candidate {
    /// The name it gives itself.
    pub fn name(&self) -> &str {
        &self.offer.device.name
    }

    /// Its id.
    pub fn id(&self) -> DeviceId {
        let Device { device_key, uv_key, .. } = &self.offer.device;
        transcript::device_id(sha256, device_key, uv_key)
    }

    /// Its id as people compare it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.id())
    }
}

/// A device id in groups of four, for people to compare.
pub fn fingerprint(device: &DeviceId) -> String {
    let text = hex::encode(device.0);
    let groups: Vec<&str> = (0..text.len()).step_by(4).map(|at| &text[at..at + 4]).collect();
    groups.join(" ")
}

/// What a secret stands for: the mailboxes and the keys.
pub(crate) struct Keys {
    pub(crate) mailbox: [u8; 16],
    offer: Key,
    answer: Key,
}

impl Keys {
    pub(crate) fn new(secret: &PairingSecret) -> Self {
        let derive = |label: &[u8]| crypto::hkdf(b"keyfold/pairing/1", secret.symbols(), &[label]);
        let mut mailbox = [0; 16];
        mailbox.copy_from_slice(&derive(b"mailbox")[..16]);
        Self { mailbox, offer: derive(b"offer"), answer: derive(b"answer") }
    }

    pub(crate) fn seal_offer(&self, offer: &Offer) -> Vec<u8> {
        crypto::seal(&self.offer, OFFER, &self.mailbox, &padded(offer))
    }

    pub(crate) fn open_offer(&self, sealed: Vec<u8>) -> Result<Candidate, PairingError> {
        let plaintext = crypto::open(&self.offer, OFFER, &self.mailbox, &sealed);
        let plaintext = plaintext.ok_or(PairingError::Forged)?;
        let offer = wire::decode_padded(&plaintext).map_err(|_| PairingError::Forged)?;
        Ok(Candidate { offer, sealed })
    }

    pub(crate) fn seal_answer(&self, answer: &Answer, offer: &[u8]) -> Vec<u8> {
        crypto::seal(&self.answer, ANSWER, &self.answer_aad(offer), &padded(answer))
    }

    /// The answer of a device whose person did not agree; nobody else can tell it from another.
    pub(crate) fn seal_decline(&self, offer: &[u8]) -> Vec<u8> {
        crypto::seal(&self.answer, DECLINE, &self.answer_aad(offer), &[0; PLAINTEXT])
    }

    pub(crate) fn open_answer(&self, sealed: &[u8], offer: &[u8]) -> Result<Answer, PairingError> {
        let open = |label| crypto::open(&self.answer, label, &self.answer_aad(offer), sealed);
        let Some(plaintext) = open(ANSWER) else {
            return Err(open(DECLINE).map_or(PairingError::Forged, |_| PairingError::Declined));
        };
        wire::decode_padded(&plaintext).map_err(|_| PairingError::Forged)
    }

    /// An answer holds for one offer.
    fn answer_aad(&self, offer: &[u8]) -> [u8; 48] {
        let mut aad = [0; 48];
        aad[..16].copy_from_slice(&self.mailbox);
        aad[16..].copy_from_slice(&sha256(&[offer]));
        aad
    }
}

const OFFER: &[u8] = b"keyfold/pairing/offer/1";
const ANSWER: &[u8] = b"keyfold/pairing/answer/1";
const DECLINE: &[u8] = b"keyfold/pairing/decline/1";

fn padded<T: Serialize>(message: &T) -> Vec<u8> {
    let mut plaintext = vec![0; PLAINTEXT];
    wire::encode_padded(message, &mut plaintext).expect("every field has a limit that fits");
    plaintext
}
