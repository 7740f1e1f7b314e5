//! From a fresh enclave to one that serves: configure, release claims, endorsements, release, unlock,
//! evidence. `doctor` runs the same, and the journal says how far it came.

use super::frame::Frame;
use super::wire::Wire;
use crate::azure::{AzureError, Endorsements, KeyRelease};
use crate::identity::sha256;
use crate::journal::{Entry, Journal, Step};
use bytes::Bytes;
use keyfold_protocol::host::{Config, HostRefusal, HostReply, HostRequest, Unlock};
use keyfold_protocol::ids::{ChannelKeyId, Digest};
use keyfold_protocol::{limits, wire as encoding};
use std::time::Instant;

/// What a boot brought: everything clients check before they trust it.
#[derive(Clone, Debug)]
pub struct Booted {
    /// Hash of the configuration the enclave runs under.
    pub config_hash: Digest,
    /// Public commitment to the root key.
    pub root: Digest,
    /// X-Wing public key of this boot.
    pub channel_key: Vec<u8>,
    /// Its id.
    pub channel_key_id: ChannelKeyId,
    /// Runtime claims of role `channel`, exact text.
    pub claims: Vec<u8>,
    /// SNP report that binds them.
    pub report: Vec<u8>,
    /// VCEK, ASK and ARK, PEM.
    pub vcek_chain: String,
    /// COSE_Sign1 about the utility VM, in a confidential container.
    pub uvm_endorsement: Option<Vec<u8>>,
}

/// Why an enclave does not serve.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// It cannot be reached.
    #[error("it cannot be reached: {0}")]
    Connect(std::io::Error),
    /// It went away.
    #[error("it went away during {0}; its own log says why")]
    Gone(Step),
    /// It refused.
    #[error("it refused {0}: {1:?}")]
    Refused(Step, HostRefusal),
    /// Not of one release.
    #[error("its answer to {0} does not fit: are host and enclave of one release?")]
    Answer(Step),
    /// No key for it.
    #[error("no root key: {0}")]
    Release(#[from] AzureError),
    /// A key, but not the one from before.
    #[error(
        "it was given another root key than the enclave before it: azure.key_name or the Managed HSM changed"
    )]
    OtherRoot,
}

impl BootError {
    /// The step that failed.
    pub fn step(&self) -> Step {
        match self {
            Self::Connect(_) => Step::Connect,
            Self::Gone(step) | Self::Refused(step, _) | Self::Answer(step) => *step,
            Self::Release(error) => error.step,
            Self::OtherRoot => Step::Root,
        }
    }
}

/// An enclave being booted: its link, what it is given, and what is told of it.
pub(crate) struct Boot<'a> {
    pub(crate) wire: &'a Wire,
    pub(crate) link: &'a str,
    pub(crate) release: &'a dyn KeyRelease,
    pub(crate) journal: &'a Journal,
}

/// What an enclave says of itself: runtime claims, the report that binds them, and in the role
/// `channel` the key that they are about.
struct Evidence {
    channel_key: Vec<u8>,
    claims: Vec<u8>,
    report: Vec<u8>,
}

impl Boot<'_> {
    /// All of it.
    pub(crate) async fn run(&self, config: &Config) -> Result<Booted, BootError> {
        // 1. Configure.
        let reply = self.ask(Step::Configure, &HostRequest::Configure(config.clone()), 0).await?;
        let HostReply::Configured(config_hash) = answer(Step::Configure, &reply)? else {
            return Err(BootError::Answer(Step::Configure));
        };
        // 2. Evidence for the key, and what stands behind it.
        let (evidence, endorsements) = self.endorsed(Step::ReleaseClaims).await?;
        // 3. The key.
        let Evidence { claims, report, .. } = evidence;
        let released = self.release.release(&claims, &report, &endorsements, self.journal).await?;
        // 4. Unlock.
        let unlock = Unlock { algorithm: released.algorithm, wrapped: &released.wrapped };
        let request = HostRequest::Unlock(unlock);
        let reply = self.ask(Step::Unlock, &request, released.wrapped.len()).await?;
        let HostReply::Unlocked(root) = answer(Step::Unlock, &reply)? else {
            return Err(BootError::Answer(Step::Unlock));
        };
        // 5. Evidence for clients.
        self.evidence(config_hash, root).await
    }

    /// A fresh report of an enclave that serves, with what stands behind it now.
    pub(crate) async fn evidence(
        &self, config_hash: Digest, root: Digest,
    ) -> Result<Booted, BootError> {
        let (evidence, endorsements) = self.endorsed(Step::Evidence).await?;
        Ok(Booted {
            config_hash,
            root,
            channel_key_id: ChannelKeyId(sha256(&[&evidence.channel_key])),
            channel_key: evidence.channel_key,
            claims: evidence.claims,
            report: evidence.report,
            vcek_chain: endorsements.vcek_chain,
            uvm_endorsement: endorsements.uvm_endorsement,
        })
    }

    /// Evidence, and endorsements that fit it. When they do not, as after an update of the firmware,
    /// both are fetched once more; then it is said what is on either side.
    async fn endorsed(&self, step: Step) -> Result<(Evidence, Endorsements), BootError> {
        let mut what = String::new();
        for refresh in [false, true] {
            let made = self.attested(step).await?;
            let found = self.release.endorse(&made.report, refresh, self.journal).await?;
            match &found.mismatch {
                None => return Ok((made, found)),
                Some(why) => what.clone_from(why),
            }
        }
        Err(AzureError { step: Step::Tcb, endpoint: self.link.to_owned(), what }.into())
    }

    /// A fresh report, for the key's release or for clients.
    async fn attested(&self, step: Step) -> Result<Evidence, BootError> {
        let request = match step {
            Step::ReleaseClaims => HostRequest::ReleaseClaims,
            _ => HostRequest::Evidence,
        };
        let reply = self.ask(step, &request, 0).await?;
        let (channel_key, evidence) = match (step, answer(step, &reply)?) {
            (Step::ReleaseClaims, HostReply::ReleaseClaims(evidence)) => (&[][..], evidence),
            (Step::Evidence, HostReply::Evidence(found))
                if found.channel_key.len() == limits::CHANNEL_KEY =>
            {
                (found.channel_key, found.evidence)
            }
            _ => return Err(BootError::Answer(step)),
        };
        let (claims, report) = (evidence.claims.to_vec(), evidence.report.to_vec());
        Ok(Evidence { channel_key: channel_key.to_vec(), claims, report })
    }

    /// Sends a frame and notes how it went.
    async fn ask(
        &self, step: Step, request: &HostRequest<'_>, size: usize,
    ) -> Result<Bytes, BootError> {
        let started = Instant::now();
        let frame = Frame::encode(request, size).map_err(|_| BootError::Answer(step))?;
        let reply = self.wire.call(frame).await.map_err(|_| BootError::Gone(step));
        let outcome = match &reply {
            Ok(reply) => answer(step, reply).map(|_| String::new()),
            Err(_) => Err(BootError::Gone(step)),
        };
        let outcome = outcome.map_err(|error| error.to_string());
        let took = started.elapsed();
        self.journal.note(Entry { took, ..Entry::local(step, self.link, outcome) });
        reply
    }
}

fn answer(step: Step, reply: &Bytes) -> Result<HostReply<'_>, BootError> {
    match encoding::decode(reply) {
        Ok(HostReply::Refused(refusal)) => Err(BootError::Refused(step, refusal)),
        Ok(reply) => Ok(reply),
        Err(_) => Err(BootError::Answer(step)),
    }
}
