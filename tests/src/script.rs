//! A core's whole life as frames: every request, every refusal. What measures the core from the
//! inside (allocations, residue) replays it, because nothing but the core may run while it looks.

use keyfold_protocol::client::{
    Algorithm, ApproveDevice, ChangePin, Class, DeletePasskey, Enroll, GuardBase, KeyKind,
    PrfInputs, Refusal, Request, RevokeDevice, StretchedPin,
};
use keyfold_protocol::host::{
    Config, FreshRead, HostRefusal, HostReply, HostRequest, KeyWrap, OpenSession, Unlock,
};
use keyfold_protocol::ids::{ChainPoint, ChannelKeyId, DeviceId, Digest, SessionId};
use keyfold_protocol::limits::{DEVICES, TRIES};

use crate::crypto::sha256;
use crate::device::{Session, TestDevice};
use crate::enclave::{self, Enclave, ROOT, TestPlatform, decode};
use crate::hostile::{assert_request, damage, rename_request};
use crate::ledger::Ledger;
use crate::oracle::expand_channel_seed;
use crate::samples;
use crate::world::{Denied, Stored, World, heapless_algorithms};

/// Seed of the script's platform.
pub const SEED: [u8; 32] = [0x6b; 32];
/// Seed of the channel's private key.
pub const CHANNEL_SEED: [u8; 32] = [0xc7; 32];
/// Begins every name that a request carries.
pub const MARKED_NAME: &str = "Marked-name-4f1c9a";

/// The PIN of every Enroll, stretched.
pub fn pin() -> [u8; 32] {
    sha256(&[b"the script's PIN"])
}

/// A PIN that is not it, stretched.
pub fn wrong_pin() -> [u8; 32] {
    sha256(&[b"not the script's PIN"])
}

/// A platform whose core answers the script as the recorded one did.
pub fn platform() -> TestPlatform {
    TestPlatform::seeded(SEED).with_channel(expand_channel_seed(&CHANNEL_SEED))
}

/// Frames to replay, in order, to one core on [`platform`].
pub struct Script {
    /// The frames.
    pub frames: Vec<Vec<u8>>,
    /// Hash of the configuration.
    pub config_hash: Digest,
}

struct Recorder {
    world: World,
    laptop: TestDevice,
}

/// A life in which everything happens once.
pub fn record(fresh_read: FreshRead) -> Script {
    let ledger = Ledger::new();
    let config = enclave::config(&ledger, fresh_read);
    let mut frames: Vec<Vec<u8>> = boot_frames(&config);
    let mut enclave = Enclave::boot_on(platform(), &config, &ROOT);
    enclave.log = Some(Vec::new());
    let config_hash = enclave.config_hash;
    let session = Session::open(&config_hash, &enclave.channel_key);
    let (stored, account) = (Stored::default(), samples::account());
    let mut world =
        World { enclave, ledger, stored, account, config, session, time: 1_800_000_000 };
    world.open_session();
    let laptop = TestDevice::new(MARKED_NAME);
    let mut recorder = Recorder { world, laptop };
    recorder.enroll();
    recorder.passkeys();
    recorder.refused_passkeys();
    recorder.devices();
    recorder.reads();
    recorder.recoveries();
    recorder.host_refusals();
    recorder.ending();
    frames.extend(recorder.world.enclave.log.take().into_iter().flatten());
    Script { frames, config_hash }
}

/// Configuration to evidence, with wrong turns that a core survives.
fn boot_frames(config: &Config) -> Vec<Vec<u8>> {
    let unlock = Unlock { algorithm: KeyWrap::Sha1, wrapped: &ROOT };
    [
        HostRequest::Evidence,
        HostRequest::Configure(config.clone()),
        HostRequest::ReleaseClaims,
        HostRequest::Unlock(unlock.clone()),
        HostRequest::Unlock(unlock),
        HostRequest::Evidence,
    ]
    .iter()
    .map(enclave::encode)
    .collect()
}

/// A core that was given a wrong key and is of no more use.
pub fn halted() -> Vec<Vec<u8>> {
    let config = enclave::config(&Ledger::new(), FreshRead::Reports);
    let unlock = Unlock { algorithm: KeyWrap::Sha1, wrapped: &ROOT[1..] };
    [HostRequest::Configure(config), HostRequest::Unlock(unlock), HostRequest::Evidence]
        .iter()
        .map(enclave::encode)
        .collect()
}

impl Recorder {
    fn enroll(&mut self) {
        let device = self.laptop.public();
        let request = Request::Enroll(Enroll { pin: StretchedPin(pin()), device });
        self.done(KeyKind::Presence, &request, Class::Enroll);
    }

    fn done(&mut self, key: KeyKind, request: &Request, class: Class) {
        self.world.request(&mut self.laptop, key, request, class).expect("not refused");
    }

    fn refused(&mut self, key: KeyKind, request: &Request, class: Class, refusal: Refusal) {
        let answer = self.world.request(&mut self.laptop, key, request, class);
        assert_eq!(answer.err(), Some(Denied::Client(refusal)));
    }

    fn passkeys(&mut self) {
        use KeyKind::{Presence, UserVerification};
        let prf = Some(PrfInputs { first: [1; 32], second: Some([2; 32]) });
        for (algorithm, rp) in
            [(Algorithm::Es256, "one.example"), (Algorithm::EdDsa, "two.example")]
        {
            let mut request = self.world.create_request(rp, MARKED_NAME);
            request.algorithms = heapless_algorithms(&[algorithm.cose()]);
            request.prf = prf;
            let request = Request::CreatePasskey(request);
            let opened =
                self.world.request(&mut self.laptop, UserVerification, &request, Class::Put(None));
            let opened = opened.expect("created");
            let Ok(keyfold_protocol::client::Success::Created(created)) = opened.outcome() else {
                panic!("not a creation")
            };
            let slot = created.put.event.slot;
            let mut assert = assert_request(&created);
            assert.rp_id = heapless::String::try_from(rp).expect("short");
            self.done(Presence, &Request::Assert(assert.clone()), Class::Assert(slot));
            assert.prf = prf;
            self.done(UserVerification, &Request::Assert(assert.clone()), Class::Assert(slot));
            assert.rp_id = heapless::String::try_from("other.example").expect("short");
            let class = Class::Assert(slot);
            self.refused(Presence, &Request::Assert(assert), class, Refusal::NoSuchPasskey);
            let mut rename = rename_request(&self.world, &created, MARKED_NAME);
            self.done(Presence, &Request::UpdatePasskey(rename.clone()), Class::Put(Some(slot)));
            rename.vault = self.world.vault();
            let request = Request::UpdatePasskey(rename);
            self.refused(Presence, &request, Class::Put(Some(slot)), Refusal::RecordChanged);
            let delete = DeletePasskey { vault: self.world.vault(), slot };
            let request = Request::DeletePasskey(delete);
            let needed = Refusal::UserVerificationRequired;
            self.refused(Presence, &request, Class::Put(None), needed);
            if algorithm == Algorithm::EdDsa {
                self.done(UserVerification, &request, Class::Put(None));
            }
        }
        let touch = Request::Touch(self.world.vault());
        self.done(Presence, &touch, Class::Put(None));
    }

    fn refused_passkeys(&mut self) {
        let mut create = self.world.create_request("three.example", MARKED_NAME);
        create.algorithms = heapless_algorithms(&[-257]);
        let class = Class::Put(None);
        let request = Request::CreatePasskey(create.clone());
        self.refused(KeyKind::Presence, &request, class, Refusal::UnsupportedAlgorithm);
        create.algorithms = heapless_algorithms(&[Algorithm::EdDsa.cose()]);
        create.vault.head = Digest([0; 32]);
        let request = Request::CreatePasskey(create);
        self.refused(KeyKind::Presence, &request, class, Refusal::SyncFirst);
        self.refused(KeyKind::Presence, &Request::Status, class, Refusal::Malformed);
        let nowhere = ChainPoint { version: 0, head: Digest([0; 32]) };
        let request = Request::Sync(nowhere);
        self.refused(KeyKind::Presence, &request, Class::Sync(0), Refusal::BrokenChain);
    }

    fn devices(&mut self) {
        let uv = KeyKind::UserVerification;
        let base = self.world.base();
        let revoke = |device| Request::RevokeDevice(RevokeDevice { base, device });
        let fresh = Class::GuardFresh;
        self.refused(uv, &revoke(DeviceId([0; 16])), fresh, Refusal::UnknownDevice);
        self.refused(uv, &revoke(self.laptop.id()), fresh, Refusal::LastDevice);
        let device = self.laptop.public();
        let approve = Request::ApproveDevice(ApproveDevice { base, device });
        self.refused(uv, &approve, Class::Guard, Refusal::KnownDevice);
        let moved = GuardBase { guard: base.guard + 1, ..base };
        let request = Request::Anchor(moved);
        self.refused(KeyKind::Presence, &request, Class::Guard, Refusal::GuardMoved);

        // A full account, at the anchor of a moved vault.
        let phone = TestDevice::new(MARKED_NAME);
        self.world.approve(&mut self.laptop, &phone).expect("approved");
        for _ in 2..DEVICES {
            let tablet = TestDevice::new(MARKED_NAME);
            self.world.approve(&mut self.laptop, &tablet).expect("approved");
        }
        let device = TestDevice::new(MARKED_NAME).public();
        let base = self.world.base();
        let approve = Request::ApproveDevice(ApproveDevice { base, device });
        self.refused(uv, &approve, Class::Guard, Refusal::TooManyDevices);
        let revoke = Request::RevokeDevice(RevokeDevice { base, device: phone.id() });
        self.done(uv, &revoke, Class::GuardFresh);
        let request = Request::Anchor(self.world.base());
        self.done(KeyKind::Presence, &request, Class::Guard);
        let stranger = self.world.request_with(
            &phone,
            KeyKind::Presence,
            &Request::Status,
            Class::Status,
            |_| {},
        );
        assert_eq!(stranger.err(), Some(Denied::Client(Refusal::Unauthorised)));
    }

    fn reads(&mut self) {
        let (vault, audit) = (self.world.genesis(), self.world.audit_genesis());
        self.done(KeyKind::Presence, &Request::Sync(vault), Class::Sync(0));
        self.done(KeyKind::Presence, &Request::Status, Class::Status);
        self.done(KeyKind::Presence, &Request::Audit(audit), Class::Audit(0));
        // Another deployment of the same root key, and a device that has seen the future.
        let mut elsewhere = World::new();
        elsewhere.account = self.world.account;
        elsewhere.enroll("laptop");
        let foreign = elsewhere.stored.guards[&1].clone();
        type Bend<'a> = Box<dyn FnOnce(&mut crate::world::Attach) + 'a>;
        let bends: [(Refusal, Bend); 3] = [
            (Refusal::NotFresh, Box::new(|attach| attach.fresh = None)),
            (Refusal::StaleVault, Box::new(|attach| attach.vault = None)),
            (Refusal::ForeignGuard, Box::new(|attach| attach.guard = Some((1, foreign)))),
        ];
        for (refusal, bend) in bends {
            let (device, request) = (&self.laptop, &Request::Status);
            let presence = KeyKind::Presence;
            let answer = self.world.request_with(device, presence, request, Class::Status, bend);
            assert_eq!(answer.err(), Some(Denied::Client(refusal)));
        }
        self.laptop.guard_seen += 1;
        let presence = KeyKind::Presence;
        self.refused(presence, &Request::Status, Class::Status, Refusal::StaleGuard);
        self.laptop.guard_seen -= 1;
    }

    fn recoveries(&mut self) {
        let mut tablet = TestDevice::new(MARKED_NAME);
        // The account is full after the first one: the second makes room for itself.
        for _ in 0..2 {
            self.world.recover(&mut tablet, wrong_pin()).expect_err("wrong");
            self.world.recover(&mut tablet, pin()).expect("right");
            tablet = TestDevice::new(MARKED_NAME);
        }
        // That was the laptop's place, the oldest.
        self.laptop = TestDevice::new(MARKED_NAME);
        self.world.recover(&mut self.laptop, pin()).expect("right");
        for _ in 0..TRIES {
            self.world.recover(&mut tablet, wrong_pin()).expect_err("wrong");
        }
        let denied = self.world.recover(&mut tablet, pin()).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Locked)));
        let Request::Recover(mut asks) = self.world.recover_request(&tablet, pin()) else {
            panic!()
        };
        asks.guard = 0;
        let (presence, class) = (KeyKind::Presence, Class::Recover);
        let answer =
            self.world.request(&mut tablet, presence, &Request::Recover(asks), class).err();
        let version = self.world.base().guard;
        assert_eq!(answer, Some(Denied::Client(Refusal::GuardAt(version))));
        let settled = self.world.settle(self.world.base().guard).err();
        assert_eq!(settled, Some(Denied::Host(HostRefusal::State)));
        let (base, pin) = (self.world.base(), StretchedPin(pin()));
        let request = Request::ChangePin(ChangePin { base, pin });
        self.done(KeyKind::UserVerification, &request, Class::GuardFresh);
    }

    fn ending(&mut self) {
        let delete = Request::DeleteAccount(self.world.base());
        self.done(KeyKind::UserVerification, &delete, Class::GuardFresh);
        let denied = self.world.recover(&mut TestDevice::new(MARKED_NAME), pin()).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Closed)));
    }

    fn host_refusals(&mut self) {
        let refusal = |reply: &[u8]| match decode(reply) {
            HostReply::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        };
        let reply = self.world.enclave.call_raw(b"no frame");
        assert_eq!(refusal(&reply), HostRefusal::Malformed);
        for request in
            [HostRequest::ReleaseClaims, HostRequest::Configure(self.world.config.clone())]
        {
            assert_eq!(self.world.enclave.refusal(&request), HostRefusal::WrongPhase);
        }
        let encapsulated_key = self.world.session.enc.clone();
        let open =
            OpenSession { channel_key: ChannelKeyId([0; 32]), encapsulated_key: &encapsulated_key };
        let request = HostRequest::OpenSession(open);
        assert_eq!(self.world.enclave.refusal(&request), HostRefusal::ChannelKey);

        let sent = self.world.session.seal(
            &self.laptop,
            KeyKind::Presence,
            &self.world.account,
            &Request::Status,
        );
        let mut attach = self.world.attach(Class::Status, &sent.frame);
        let session = std::mem::replace(&mut self.world.session.id, SessionId([0; 16]));
        let reply = self.world.handle(&sent, Class::Status, &attach);
        assert_eq!(refusal(&reply), HostRefusal::UnknownSession);
        self.world.session.id = session;
        damage(&mut attach.guard, 4096);
        let reply = self.world.handle(&sent, Class::Status, &attach);
        assert_eq!(refusal(&reply), HostRefusal::State);
        let mut sent = sent;
        sent.frame[7] ^= 1;
        let reply = self.world.handle(&sent, Class::Status, &attach);
        assert_eq!(refusal(&reply), HostRefusal::Frame);

        let row = self.world.stored.staged.last().expect("a staged guard").clone();
        let receipt = self.world.ledger.receipts.first().expect("a receipt").clone();
        let reply = self.world.commit(&row, &receipt);
        assert_eq!(refusal(&reply), HostRefusal::Receipt);
    }
}
