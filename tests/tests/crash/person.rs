//! A person with devices: the client library as others embed it, keys in memory.

mod tries;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_client::account::Overview;
use keyfold_client::deployment::Settings;
use keyfold_client::device::{DeviceKeys, SoftwareKeys};
use keyfold_client::identity::DevSignIn;
use keyfold_client::pairing::PairingError;
use keyfold_client::pin::Pin;
use keyfold_client::requests::{NewPasskey, user_names};
use keyfold_client::store::{Passkey, Store};
use keyfold_client::{Client, Error, sha256};
use keyfold_local::Deployment;
use keyfold_protocol::client::{AuditKind, KeyKind, Refusal};
use keyfold_protocol::ids::{ChainPoint, DeviceId};
use keyfold_protocol::limits;
use keyfold_protocol::transcript::Chain;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};

use crate::known::{Known, Memory};

const RP_ID: &str = "shop.example";
/// A pairing whose mailbox died with the host is given up after this.
const PAIRING: Duration = Duration::from_secs(4);
/// How long the service may take to serve again after it said that it is ready.
const RECOVERY: Duration = Duration::from_secs(20);
/// The recovery PIN, of everybody and for ever.
const PIN: &str = "correct horse 7391";
/// Further devices at a time, and passkeys.
const DEVICES: usize = 4;
const PASSKEYS: usize = 24;

/// One person, their devices, and what they were told.
pub(crate) struct Person {
    name: String,
    folder: PathBuf,
    settings: Settings,
    first: Joined,
    others: Vec<Joined>,
    memory: Memory,
    random: Rng,
    made: u64,
}

/// A registered device.
struct Joined {
    id: DeviceId,
    keys: Arc<SoftwareKeys>,
    client: Client,
}

impl Person {
    /// Opens an account.
    pub(crate) async fn enroll(name: &str, deployment: &Deployment, random: Rng) -> Self {
        let trust_root = std::fs::read(&deployment.trust_root).expect("the trust root");
        let trust_root = TrustRoot::from_json(&trust_root).expect("the trust root");
        let settings = Settings { url: deployment.url.clone(), trust_root, minimum_serial: 0 };
        let folder = deployment.folder.join(name);
        let first = device(&settings, &folder.join("first"), name, SoftwareKeys::generate());
        let pin = Pin::new(PIN).expect("a PIN");
        let overview = first.client.enroll(pin, "first").await.expect("enrolled");
        let mut memory = Memory::default();
        memory.guard_is(overview.guard);
        let (name, others) = (name.to_owned(), Vec::new());
        Self { name, folder, settings, first, others, memory, random, made: 0 }
    }

    /// Changes that were acknowledged, and tries that were answered.
    pub(crate) fn acknowledged(&self) -> (u64, u64) {
        (self.memory.changes, self.memory.tries.answered)
    }

    /// Makes one change, chosen at random, from a device chosen at random.
    pub(crate) async fn change_something(&mut self) {
        match self.random.u64(..100) {
            0..35 => self.create().await,
            35..55 => self.rename().await,
            55..67 => self.delete().await,
            67..74 => self.anchor().await,
            74..80 if self.others.len() < DEVICES => self.approve().await,
            80..86 if self.others.len() < DEVICES => self.recover().await,
            86..95 => self.try_wrong_pin().await,
            _ => self.revoke().await,
        }
    }

    fn any_device(&mut self) -> Client {
        let all: Vec<_> = [&self.first].into_iter().chain(&self.others).collect();
        self.random.choice(&all).map(|device| device.client.clone()).expect("the first, at least")
    }

    async fn create(&mut self) {
        let certain = self.memory.certain();
        // Sometimes for a user who has one, which is replaced.
        let again = certain.len() >= PASSKEYS || self.random.u64(..8) == 0;
        let handle = match self.random.choice(&certain).filter(|_| again) {
            Some((handle, _)) => handle.clone(),
            None => format!("user-{}", self.number()).into_bytes(),
        };
        let name = format!("name-{}", self.number());
        let algorithms = if self.random.u64(..2) == 0 { vec![-7] } else { vec![-8] };
        let new = NewPasskey {
            rp_id: RP_ID.try_into().expect("an rp id"),
            user_handle: handle.as_slice().try_into().expect("a user handle"),
            names: user_names(&name, &name),
            algorithms,
            prf: None,
        };
        // Presence alone replaces nothing.
        let key = match !again && self.random.u64(..2) == 0 {
            true => KeyKind::Presence,
            false => KeyKind::UserVerification,
        };
        match self.any_device().create_passkey(&new, key).await {
            Ok(created) => {
                let (credential, public_key) = (created.credential, created.public_key.to_vec());
                let (credential, public_key) = (Some(credential), Some(public_key));
                self.memory.is(&handle, Some(Known { credential, name, public_key }));
            }
            Err(error) => {
                tolerate("create", &error);
                let (credential, public_key) = (None, None);
                self.memory.may_be(&handle, Some(Known { credential, name, public_key }));
            }
        }
    }

    async fn rename(&mut self) {
        let certain = self.memory.certain();
        let Some((handle, known)) = self.random.choice(&certain).cloned() else { return };
        let client = self.any_device();
        if let Err(error) = client.sync().await {
            return tolerate("sync", &error);
        }
        let name = format!("name-{}", self.number());
        let credential = known.credential.expect("certain");
        let done = client.update_passkey(&credential, &user_names(&name, &name)).await;
        let renamed = Some(Known { name, ..known });
        match done {
            Ok(()) => self.memory.is(&handle, renamed),
            Err(error) => {
                tolerate("rename", &error);
                self.memory.may_be(&handle, renamed);
            }
        }
    }

    async fn delete(&mut self) {
        let certain = self.memory.certain();
        let Some((handle, known)) = self.random.choice(&certain).cloned() else { return };
        let client = self.any_device();
        if let Err(error) = client.sync().await {
            return tolerate("sync", &error);
        }
        match client.delete_passkey(&known.credential.expect("certain")).await {
            Ok(()) => self.memory.is(&handle, None),
            // It was there; an attempt whose answer was lost has deleted it.
            Err(Error::NoSuchPasskey) => self.memory.may_be(&handle, None),
            Err(error) => {
                tolerate("delete", &error);
                self.memory.may_be(&handle, None);
            }
        }
    }

    async fn anchor(&mut self) {
        match self.any_device().anchor().await {
            Ok(guard) => self.memory.guard_is(guard),
            Err(error) => tolerate("anchor", &error),
        }
    }

    async fn approve(&mut self) {
        let name = format!("device-{}", self.number());
        let folder = self.folder.join(&name);
        let new = device(&self.settings, &folder, &self.name, SoftwareKeys::generate());
        let trusted = &self.first.client;
        let secret = trusted.invite().expect("registered");
        let both = async {
            let approving = async {
                let candidate = trusted.await_candidate(&secret).await?;
                trusted.approve(&secret, &candidate).await
            };
            tokio::try_join!(approving, new.client.join(&secret, &name))
        };
        match tokio::time::timeout(PAIRING, both).await {
            Ok(Ok((_, overview))) => {
                self.memory.guard_is(overview.guard);
                self.memory.devices.insert(new.id);
                self.others.push(new);
            }
            Ok(Err(error)) => {
                tolerate("approve", &error);
                self.memory.device_may_be(new.id);
            }
            Err(_) => self.memory.device_may_be(new.id),
        }
    }

    async fn revoke(&mut self) {
        let ids: Vec<_> = self.others.iter().map(|device| device.id).collect();
        let Some(id) = self.random.choice(&ids).copied() else { return };
        if !self.revoke_device(id).await {
            return;
        }
        let at = self.others.iter().position(|device| device.id == id).expect("one of them");
        match self.others.swap_remove(at).client.sync().await {
            Err(Error::Refused(Refusal::Unauthorised)) => {}
            Ok(_) => panic!("{id} was revoked and reads the vault"),
            Err(error) => tolerate("sync of a revoked device", &error),
        }
    }

    /// Whether the revocation was acknowledged.
    async fn revoke_device(&mut self, id: DeviceId) -> bool {
        match self.first.client.revoke_device(id).await {
            Ok(revoked) => {
                self.memory.guard_is(revoked.guard);
                self.memory.vault_events += u64::from(revoked.vault_touched);
                self.memory.device_is_gone(&id);
                true
            }
            Err(error) => {
                tolerate("revoke", &error);
                self.memory.device_may_be(id);
                self.others.retain(|device| device.id != id);
                false
            }
        }
    }

    /// Compares all there is with all that was told, reading both chains from their beginning.
    /// Vault events, passkeys and devices.
    pub(crate) async fn verify(&mut self, thoroughly: bool) -> [u64; 3] {
        let before = self.first.client.clone();
        let overview = patiently(|| before.status()).await;
        self.memory.tries.check(overview.failures);
        self.check_history(&overview).await;

        let witness = self.witness();
        let passkeys = patiently(|| witness.sync()).await;
        let vault = witness.store().load().expect("state").account.expect("an account").vault;
        let told = self.memory.vault_events;
        assert!(vault.version >= told, "{told} vault events were told, {vault:?} is there");
        let mut suspects = self.memory.check_passkeys(&passkeys);
        match thoroughly {
            true => suspects = passkeys.clone(),
            false => suspects.extend(self.random.choice(&passkeys).cloned()),
        }
        for passkey in suspects {
            self.check_signature(&witness, &passkey).await;
        }
        let found: BTreeSet<_> = overview.devices.iter().map(|device| device.id).collect();
        self.memory.check_devices(self.first.id, &found);
        // Nobody holds these; what was approved unheard is struck off.
        for device in self.memory.doubtful(&found) {
            self.revoke_device(device).await;
        }
        [vault.version, passkeys.len() as u64, found.len() as u64]
    }

    /// The whole history, from its beginning, makes the account as it is.
    async fn check_history(&mut self, overview: &Overview) {
        let told = self.memory.guard;
        let guard = overview.guard;
        assert!(guard >= told, "guard {told} was told, {guard} is there");
        let client = self.first.client.clone();
        let events = patiently(|| client.audit()).await;
        let mut devices = BTreeSet::new();
        let (mut failures, mut tried) = (0, None);
        for (event, version) in events.iter().zip(1..) {
            assert_eq!(event.version, version, "a gap in the history");
            let settled = tried.take() == Some(event.actor);
            let follows = match event.kind {
                AuditKind::Enrolled => version == 1 && devices.insert(event.subject),
                AuditKind::DeviceAdded => devices.insert(event.subject),
                AuditKind::DeviceRevoked => devices.remove(&event.subject),
                AuditKind::Anchored => devices.contains(&event.actor),
                AuditKind::PinChanged => {
                    failures = 0;
                    devices.contains(&event.actor)
                }
                AuditKind::TryCharged => {
                    failures += 1;
                    tried = Some(event.actor);
                    failures <= limits::TRIES && !devices.contains(&event.actor)
                }
                AuditKind::TryFailed => settled,
                AuditKind::Recovered => {
                    failures = 0;
                    settled && devices.insert(event.actor)
                }
                AuditKind::Deleted => false,
            };
            assert!(follows, "{event:?} cannot follow the events before");
            if version == guard {
                let found: BTreeSet<_> = overview.devices.iter().map(|one| one.id).collect();
                assert_eq!(devices, found, "the history makes other devices");
                assert_eq!(failures, overview.failures, "the history counts other tries");
            }
        }
        // A change whose answer was lost can have been settled between the two.
        assert!(events.len() as u64 >= guard, "{} events of {guard}", events.len());
    }

    /// The first device as if it had never synced: same keys, a vault of which nothing is known.
    fn witness(&mut self) -> Client {
        let number = self.number();
        let folder = self.folder.join(format!("witness-{number}"));
        let store = Store::open(&folder).expect("a store");
        let known = self.first.client.store().load().expect("state");
        let blank = store.update(|state| {
            *state = known;
            let account = state.account.as_mut().expect("an account");
            let head = Chain::Vault.genesis(sha256, &account.account()).head;
            account.vault = ChainPoint { version: 0, head };
            account.passkeys.clear();
            Ok::<_, Error>(())
        });
        blank.expect("state");
        connect(&self.settings, &folder, &self.name, self.first.keys.clone())
    }

    /// The passkey signs, and with the key that its creation gave.
    async fn check_signature(&self, client: &Client, passkey: &Passkey) {
        let hash = sha256(&[&passkey.credential.0]);
        let key = KeyKind::UserVerification;
        let sign = || client.assert(&passkey.rp_id, &passkey.credential, hash, None, key);
        let asserted = patiently(sign).await;
        assert_eq!(asserted.user_handle, passkey.user_handle);
        let certain = self.memory.certain();
        let known = certain.iter().find(|(handle, _)| handle[..] == passkey.user_handle[..]);
        let Some(public_key) = known.and_then(|(_, known)| known.public_key.as_ref()) else {
            return;
        };
        let algorithm: &dyn VerificationAlgorithm = match passkey.algorithm.cose() {
            -7 => &ECDSA_P256_SHA256_ASN1,
            _ => &ED25519,
        };
        let message = [&asserted.authenticator_data.0[..], &hash].concat();
        let verified =
            UnparsedPublicKey::new(algorithm, public_key).verify(&message, &asserted.signature);
        assert!(verified.is_ok(), "{passkey:?} signs with another key");
    }

    fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

fn device(settings: &Settings, folder: &Path, person: &str, keys: SoftwareKeys) -> Joined {
    let keys = Arc::new(keys);
    let client = connect(settings, folder, person, keys.clone());
    Joined { id: keys.id(), keys, client }
}

fn connect(settings: &Settings, folder: &Path, person: &str, keys: Arc<SoftwareKeys>) -> Client {
    let store = Store::open(folder).expect("a store");
    let source = Arc::new(DevSignIn::new(person).expect("HTTP"));
    Client::new(settings.clone(), store, keys, source).expect("a client")
}

/// Repeats what only reads, until the service serves again.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(read: impl Fn() -> F) -> T {
    let deadline = Instant::now() + RECOVERY;
    loop {
        match read().await {
            Ok(value) => return value,
            Err(error) if Instant::now() < deadline => tolerate("reading", &error),
            Err(error) => panic!("after {RECOVERY:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a service that is being killed may answer. Everything else, alarms above all, is a defect.
fn tolerate(what: &str, error: &Error) {
    let later = [
        "enclave-starting",
        "issuer-unreachable",
        "ledger-unreachable",
        "overloaded",
        "session-unknown",
        "channel-key-unknown",
        // The attempt before, whose answer was lost, has made it.
        "passkey-exists",
    ];
    let is_expected = match error {
        Error::Host(problem) => later.contains(&problem.name.as_str()),
        Error::Pairing(error) => matches!(error, PairingError::Used | PairingError::TimedOut),
        Error::Unreachable(_) | Error::Identity(_) | Error::Contended(_) => true,
        // It says itself that nothing is known; why, is what it carries.
        Error::TryUnanswered(cause) => return tolerate(what, cause),
        // A change whose answer was lost was settled, and the service died again before the client
        // could look.
        Error::Refused(Refusal::GuardMoved) => true,
        _ => false,
    };
    assert!(is_expected, "{what}: {error} ({error:?})");
}
