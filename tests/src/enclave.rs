//! The real core in this process, on a platform whose every answer a test can choose.

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::host::{
    Config, FreshRead, HostRefusal, HostReply, HostRequest, KeyWrap, Unlock,
};
use keyfold_protocol::ids::{ChannelKeyId, Digest, Label};
use keyfold_protocol::limits::{FRAME, REPORT};
use keyfold_protocol::wire;
use keyfold_trusted::{Core, Platform, PlatformError, RELEASE_MODULUS, RootKey};

use crate::crypto::{random, sha256};
use crate::ledger::Ledger;

/// The deployment's name in every test.
pub const DEPLOYMENT: &str = "test";

/// A platform without hardware. Its "wrapped" root key is the root key itself.
pub struct TestPlatform {
    seed: Option<[u8; 32]>,
    channel: Option<[u8; 96]>,
    drawn: u64,
    unwrapped: bool,
}

impl TestPlatform {
    /// Draws from the operating system.
    pub const fn new() -> Self {
        Self { seed: None, channel: None, drawn: 0, unwrapped: false }
    }

    /// Draws the same bytes every time: for golden files. Signatures stay random, ring's own.
    pub const fn seeded(seed: [u8; 32]) -> Self {
        Self { seed: Some(seed), channel: None, drawn: 0, unwrapped: false }
    }

    /// Gives the channel key this seed, as the X-Wing draft expands it.
    pub const fn with_channel(mut self, expanded: [u8; 96]) -> Self {
        self.channel = Some(expanded);
        self
    }
}

impl Default for TestPlatform {
    fn default() -> Self {
        Self::new()
    }
}

impl Platform for TestPlatform {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), PlatformError> {
        // Nothing else draws 96 bytes at once.
        if let (Some(expanded), 96) = (&self.channel, bytes.len()) {
            bytes.copy_from_slice(expanded);
            return Ok(());
        }
        for chunk in bytes.chunks_mut(32) {
            let drawn = match &self.seed {
                Some(seed) => sha256(&[seed, &self.drawn.to_be_bytes()]),
                None => random(),
            };
            self.drawn += 1;
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], PlatformError> {
        let mut report = [0; REPORT];
        report[0x50..0x90].copy_from_slice(report_data);
        Ok(report)
    }

    fn release_key(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError> {
        if self.unwrapped { Err(PlatformError) } else { Ok([0xa5; RELEASE_MODULUS]) }
    }

    fn unwrap_root(&mut self, _: KeyWrap, wrapped: &[u8]) -> Result<RootKey, PlatformError> {
        let was_unwrapped = std::mem::replace(&mut self.unwrapped, true);
        match wrapped.try_into() {
            Ok(root) if !was_unwrapped => Ok(RootKey::new(root)),
            _ => Err(PlatformError),
        }
    }
}

/// A running core.
pub struct Enclave {
    core: Box<Core<TestPlatform>>,
    out: Box<[u8; FRAME]>,
    /// Hash of its configuration.
    pub config_hash: Digest,
    /// Commitment of its root key.
    pub commitment: Digest,
    /// Its channel's public key.
    pub channel_key: Vec<u8>,
    /// When present: every frame it was given.
    pub log: Option<Vec<Vec<u8>>>,
}

/// A configuration that trusts this ledger.
pub fn config(ledger: &Ledger, fresh_read: FreshRead) -> Config {
    Config {
        deployment: label(DEPLOYMENT),
        ledger_key: ledger.public_key(),
        ledger_issuer: label(crate::ledger::ISSUER),
        fresh_read,
    }
}

/// A label of the protocol.
pub fn label(text: &str) -> Label {
    Label::try_from(text).expect("at most 128 bytes")
}

impl Enclave {
    /// A core that was never spoken to.
    pub fn unconfigured(platform: TestPlatform) -> Self {
        Self {
            core: Box::new(Core::new(platform)),
            out: Box::new([0; FRAME]),
            config_hash: Digest([0; 32]),
            commitment: Digest([0; 32]),
            channel_key: Vec::new(),
            log: None,
        }
    }

    /// A core that serves, with this root key.
    pub fn boot(config: &Config, root: &[u8; 32]) -> Self {
        Self::boot_on(TestPlatform::new(), config, root)
    }

    /// As [`Self::boot`], on this platform.
    pub fn boot_on(platform: TestPlatform, config: &Config, root: &[u8; 32]) -> Self {
        let mut enclave = Self::unconfigured(platform);
        let reply = enclave.call(&HostRequest::Configure(config.clone()));
        let HostReply::Configured(config_hash) = decode(&reply) else { panic!("not configured") };
        let unlock = Unlock { algorithm: KeyWrap::Sha1, wrapped: root };
        let reply = enclave.call(&HostRequest::Unlock(unlock));
        let HostReply::Unlocked(commitment) = decode(&reply) else { panic!("not unlocked") };
        let reply = enclave.call(&HostRequest::Evidence);
        let HostReply::Evidence(evidence) = decode(&reply) else { panic!("no evidence") };
        let channel_key = evidence.channel_key.to_vec();
        Self { config_hash, commitment, channel_key, ..enclave }
    }

    /// The id of the channel's key.
    pub fn channel_key_id(&self) -> ChannelKeyId {
        ChannelKeyId(sha256(&[&self.channel_key]))
    }

    /// One frame through the core: the encoded reply.
    pub fn call(&mut self, request: &HostRequest) -> Vec<u8> {
        self.call_raw(&encode(request))
    }

    /// Any bytes through the core.
    pub fn call_raw(&mut self, frame: &[u8]) -> Vec<u8> {
        if let Some(log) = &mut self.log {
            log.push(frame.to_vec());
        }
        let written = self.core.handle(frame, &mut self.out);
        self.out[..written].to_vec()
    }

    /// An encoded frame through the core, its reply left where it is: for benchmarks.
    pub fn run(&mut self, frame: &[u8]) -> usize {
        self.core.handle(frame, &mut self.out)
    }

    /// The reply that [`Self::run`] left.
    pub fn reply(&self, written: usize) -> &[u8] {
        &self.out[..written]
    }

    /// One frame through the core that must be refused.
    pub fn refusal(&mut self, request: &HostRequest) -> HostRefusal {
        match decode(&self.call(request)) {
            HostReply::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// Encodes a frame for the core.
pub fn encode(request: &HostRequest) -> Vec<u8> {
    let mut frame = vec![0; FRAME];
    let used = wire::encode(request, &mut frame).expect("a request that fits a frame");
    frame.truncate(used);
    frame
}

/// Decodes what the core wrote.
pub fn decode(reply: &[u8]) -> HostReply<'_> {
    wire::decode(reply).expect("the core writes valid replies")
}

/// A root key that is somebody's.
pub const ROOT: [u8; 32] = [0x4b; 32];

/// Fixed-size bytes from a slice.
pub fn bytes<const N: usize>(slice: &[u8]) -> Bytes<N> {
    Bytes(slice.try_into().expect("the length the type says"))
}
