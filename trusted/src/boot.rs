//! From boot to serving: configuration, evidence, and the root key's one arrival.

use core::fmt::{self, Write};

use heapless::String;

use crate::channel::{ChannelKey, Session, SessionTable};
use crate::core::reply;
use crate::crypto::sha256;
use crate::keys::RootKeys;
use crate::platform::{Platform, RELEASE_MODULUS, random};
use crate::protocol::*;

/// Longest claims text, in bytes.
const CLAIMS: usize = 1024;
type Claims = String<CLAIMS>;

/// A core that knows its deployment and has no root key yet.
#[derive(Clone)]
pub(crate) struct Configured {
    config: Config,
    pub(crate) config_hash: Digest,
}

/// A core that serves.
pub(crate) struct Keyed {
    pub(crate) config: Config,
    pub(crate) roots: RootKeys,
    pub(crate) channel: ChannelKey,
    /// Deployment, ledger and root key in one value; every guard carries its own.
    pub(crate) home: Digest,
    config_hash: Digest,
}

impl Configured {
    pub(crate) fn new(config: Config) -> Result<Self, HostRefusal> {
        let config_hash = config_hash(sha256, &config).map_err(|_| HostRefusal::Malformed)?;
        Ok(Self { config, config_hash })
    }

    /// Takes the root key, makes the channel key, and forgets everything but what is derived.
    pub(crate) fn unlock(
        &self, platform: &mut impl Platform, sessions: &mut SessionTable, unlock: &Unlock,
    ) -> Result<Keyed, HostRefusal> {
        let root = platform.unwrap_root(unlock.algorithm, unlock.wrapped);
        let roots = RootKeys::derive(root.map_err(|_| HostRefusal::Unwrap)?);
        let channel = ChannelKey::generate(platform, &self.config_hash)?;
        sessions.set_hash_key(random(platform)?);
        let home = home(&self.config, &roots.commitment);
        let Self { config, config_hash } = self.clone();
        Ok(Keyed { config, roots, channel, home, config_hash })
    }
}

fn home(config: &Config, commitment: &Digest) -> Digest {
    // Two labels of at most 128 bytes; a length in front of the first tells them apart.
    let length = [u8::try_from(config.deployment.len()).unwrap_or(u8::MAX)];
    Digest(sha256(&[
        b"keyfold/home/1",
        &config.ledger_key.0,
        &commitment.0,
        &length,
        config.deployment.as_bytes(),
        config.ledger_issuer.as_bytes(),
    ]))
}

impl Keyed {
    pub(crate) fn open_session(&self, open: &OpenSession) -> Result<Session, HostRefusal> {
        if open.channel_key != self.channel.id {
            return Err(HostRefusal::ChannelKey);
        }
        let enc = open.encapsulated_key.try_into().map_err(|_| HostRefusal::Malformed)?;
        self.channel.open_session(enc).map_err(|_| HostRefusal::ChannelKey)
    }

    /// The account's name on the ledger.
    pub(crate) fn tag(&self, account: &Account) -> LedgerTag {
        self.roots.ledger_tag(&self.config.deployment, account)
    }
}

/// Evidence that earns the root key: this boot's RSA key and the configuration, in a report.
pub(crate) fn release_claims(
    platform: &mut impl Platform, configured: &Configured, out: &mut [u8; FRAME],
) -> Result<usize, HostRefusal> {
    let modulus = platform.release_key().map_err(|_| HostRefusal::Platform)?;
    let mut claims = Claims::new();
    write_release_claims(&mut claims, &configured.config_hash, &modulus)
        .map_err(|_| HostRefusal::Platform)?;
    let report = report_over(platform, &claims)?;
    let evidence = Evidence { claims: claims.as_bytes(), report: &report };
    reply(out, &HostReply::ReleaseClaims(evidence))
}

/// Evidence that clients check: this boot's channel key, the configuration, the root key's
/// commitment, in a fresh report.
pub(crate) fn evidence(
    platform: &mut impl Platform, keyed: &Keyed, out: &mut [u8; FRAME],
) -> Result<usize, HostRefusal> {
    let mut claims = Claims::new();
    write!(
        claims,
        r#"{{"keyfold":{{"version":1,"role":"channel","config":"{}","root":"{}","channel_key":"{}"}}}}"#,
        keyed.config_hash, keyed.roots.commitment, keyed.channel.id,
    )
    .map_err(|_| HostRefusal::Platform)?;
    let report = report_over(platform, &claims)?;
    let evidence = Evidence { claims: claims.as_bytes(), report: &report };
    let channel_key = keyed.channel.public();
    reply(out, &HostReply::Evidence(ChannelEvidence { channel_key, evidence }))
}

/// A report whose report data is SHA-256 of the claims, then zeros.
fn report_over(platform: &mut impl Platform, claims: &str) -> Result<[u8; REPORT], HostRefusal> {
    let mut report_data = [0; 64];
    let digest = sha256(&[claims.as_bytes()]);
    report_data.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    platform.report(&report_data).map_err(|_| HostRefusal::Platform)
}

fn write_release_claims(
    claims: &mut Claims, config: &Digest, modulus: &[u8; RELEASE_MODULUS],
) -> fmt::Result {
    // RFC 7638: the required members, sorted, without spaces.
    let n = Base64Url(modulus);
    let mut thumbprint = Claims::new();
    write!(thumbprint, r#"{{"e":"AQAB","kty":"RSA","n":"{n}"}}"#)?;
    let digest = sha256(&[thumbprint.as_bytes()]);
    let kid = Base64Url(&digest);
    write!(claims, r#"{{"keyfold":{{"version":1,"role":"release","config":"{config}"}},"#)?;
    write!(claims, r#""keys":[{{"kty":"RSA","kid":"{kid}","use":"enc","n":"{n}","e":"AQAB"}}]}}"#)
}

/// RFC 4648 section 5, unpadded.
struct Base64Url<'a>(&'a [u8]);

impl fmt::Display for Base64Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for chunk in self.0.chunks(3) {
            let mut group = [0; 4];
            group.iter_mut().skip(1).zip(chunk).for_each(|(to, from)| *to = *from);
            let group = u32::from_be_bytes(group);
            for shift in [18, 12, 6, 0].into_iter().take(chunk.len().saturating_add(1)) {
                let index = usize::try_from((group >> shift) & 63).map_err(|_| fmt::Error)?;
                f.write_char(ALPHABET.get(index).copied().map_or('=', char::from))?;
            }
        }
        Ok(())
    }
}
