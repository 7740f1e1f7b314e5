//! From a fresh enclave to one that serves: configure, release claims, unlock, evidence.

use super::frame::Frame;
use super::wire::Wire;
use crate::azure::{AzureError, KeyRelease};
use crate::identity::sha256;
use bytes::Bytes;
use keyfold_protocol::host::{Config, HostRefusal, HostReply, HostRequest, Unlock};
use keyfold_protocol::ids::{ChannelKeyId, Digest};
use keyfold_protocol::{limits, wire as encoding};

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
}

/// Why an enclave does not serve.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// It cannot be reached.
    #[error("it cannot be reached: {0}")]
    Connect(std::io::Error),
    /// It went away.
    #[error("it went away during {0}; its own log says why")]
    Gone(&'static str),
    /// It refused.
    #[error("it refused {0}: {1:?}")]
    Refused(&'static str, HostRefusal),
    /// Not of one release.
    #[error("its answer to {0} does not fit: are host and enclave of one release?")]
    Answer(&'static str),
    /// No key for it.
    #[error("no root key: {0}")]
    Release(#[from] AzureError),
    /// A key, but not the one from before.
    #[error(
        "it was given another root key than the enclave before it: azure.key_name or the Managed HSM changed"
    )]
    OtherRoot,
}

/// Boots the enclave at the other end of `wire`.
pub(super) async fn boot(
    wire: &Wire, config: &Config, release: &dyn KeyRelease,
) -> Result<Booted, BootError> {
    // 1. Configure.
    let reply = ask(wire, "Configure", &HostRequest::Configure(config.clone()), 0).await?;
    let HostReply::Configured(config_hash) = answer("Configure", &reply)? else {
        return Err(BootError::Answer("Configure"));
    };
    // 2. Evidence for the key.
    let reply = ask(wire, "ReleaseClaims", &HostRequest::ReleaseClaims, 0).await?;
    let HostReply::ReleaseClaims(evidence) = answer("ReleaseClaims", &reply)? else {
        return Err(BootError::Answer("ReleaseClaims"));
    };
    // 3. The key.
    let released = release.release(evidence.claims, evidence.report).await?;
    // 4. Unlock.
    let unlock = Unlock { algorithm: released.algorithm, wrapped: &released.wrapped };
    let request = HostRequest::Unlock(unlock);
    let reply = ask(wire, "Unlock", &request, released.wrapped.len()).await?;
    let HostReply::Unlocked(root) = answer("Unlock", &reply)? else {
        return Err(BootError::Answer("Unlock"));
    };
    // 5. Evidence for clients.
    let reply = ask(wire, "Evidence", &HostRequest::Evidence, 0).await?;
    let HostReply::Evidence(found) = answer("Evidence", &reply)? else {
        return Err(BootError::Answer("Evidence"));
    };
    if found.channel_key.len() != limits::CHANNEL_KEY {
        return Err(BootError::Answer("Evidence"));
    }
    Ok(Booted {
        config_hash,
        root,
        channel_key: found.channel_key.to_vec(),
        channel_key_id: ChannelKeyId(sha256(&[found.channel_key])),
        claims: found.evidence.claims.to_vec(),
        report: found.evidence.report.to_vec(),
        vcek_chain: released.vcek_chain,
    })
}

async fn ask(
    wire: &Wire, step: &'static str, request: &HostRequest<'_>, size: usize,
) -> Result<Bytes, BootError> {
    let frame = Frame::encode(request, size).map_err(|_| BootError::Answer(step))?;
    wire.call(frame).await.map_err(|_| BootError::Gone(step))
}

fn answer<'a>(step: &'static str, reply: &'a Bytes) -> Result<HostReply<'a>, BootError> {
    match encoding::decode(reply) {
        Ok(HostReply::Refused(refusal)) => Err(BootError::Refused(step, refusal)),
        Ok(reply) => Ok(reply),
        Err(_) => Err(BootError::Answer(step)),
    }
}
