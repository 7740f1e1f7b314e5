//! What a hostile host or client can do beyond choosing attachments: stage without committing,
//! forge parts of a signature, speak for another account, fork the stored state.

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::{
    ApproveDevice, Assert, ChangePin, Class, Created, DeletePasskey, Enroll, KeyKind, Request,
    RevokeDevice, SignedRequest, StretchedPin, UpdatePasskey, UserNames,
};
use keyfold_protocol::host::{HostReply, Reply};
use keyfold_protocol::ids::{Account, DeviceId, Digest, LedgerTag, Name, RpId, SlotId};
use keyfold_protocol::transcript::{self, LedgerClaim};
use keyfold_protocol::{limits, wire};

use crate::crypto::{random, sha256};
use crate::device::{Sent, Session, TestDevice};
use crate::enclave::decode;
use crate::ledger::{ISSUER, Ledger};
use crate::world::{Denied, Opened, StagedRow, Stored, World};

/// The relying party of most tests.
pub const RP: &str = "example.com";

impl World {
    /// A deployment with a laptop and an approved phone.
    pub fn with_phone() -> (Self, TestDevice, TestDevice) {
        let (mut world, mut laptop) = Self::enrolled();
        let phone = TestDevice::new("phone");
        world.approve(&mut laptop, &phone).expect("approved");
        (world, laptop, phone)
    }

    /// A guard change as far as the core takes it: staged, not shown to the ledger.
    pub fn stage(
        &mut self, device: &TestDevice, request: &Request, class: Class,
    ) -> (Sent, StagedRow) {
        let key = match class {
            Class::Enroll | Class::Recover => KeyKind::Presence,
            _ => KeyKind::UserVerification,
        };
        let sent = self.session.seal(device, key, &self.account, request);
        let attach = self.attach(class, &sent.frame);
        let reply = self.handle(&sent, class, &attach);
        let HostReply::Staged(staged) = decode(&reply) else { panic!("not staged") };
        (sent, StagedRow::from(&staged))
    }

    /// The guard that an account of the deployment could have ended with. The ledger vouches, and
    /// remembers nothing.
    pub fn ended(&mut self, account: Account) -> (u64, Vec<u8>) {
        let (stored, ()) = self.in_account(account, |world| {
            let device = TestDevice::new("before");
            let pin = StretchedPin([1; 32]);
            let enroll = Request::Enroll(Enroll { pin, device: device.public() });
            world.commit_unrecorded(&device, &enroll, Class::Enroll);
            let delete = Request::DeleteAccount(world.base());
            world.commit_unrecorded(&device, &delete, Class::GuardFresh);
        });
        stored.guards.into_iter().next_back().expect("two guards")
    }

    /// A guard change that a ledger vouches for and forgets.
    fn commit_unrecorded(&mut self, device: &TestDevice, request: &Request, class: Class) {
        let (_, row) = self.stage(device, request, class);
        let receipt = self.ledger.claim(&LedgerClaim::Append, &row.tag, row.version, &row.digest);
        let reply = self.commit(&row, &receipt);
        let HostReply::Committed(live) = decode(&reply) else { panic!("not committed") };
        self.stored.guards.insert(live.version, live.guard.to_vec());
    }

    /// Acts in another account of the same deployment; what the host then has of it.
    pub fn in_account<T>(
        &mut self, account: Account, act: impl FnOnce(&mut Self) -> T,
    ) -> (Stored, T) {
        let own = std::mem::replace(&mut self.account, account);
        let stored = std::mem::take(&mut self.stored);
        let done = act(self);
        self.account = own;
        (std::mem::replace(&mut self.stored, stored), done)
    }

    /// Acts on a fork: the host keeps what came of it apart, and goes on where it was.
    pub fn on_a_fork<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (Stored, T) {
        let trunk = self.stored.clone();
        let done = act(self);
        (std::mem::replace(&mut self.stored, trunk), done)
    }

    /// The next generation of the account in use.
    pub fn next_generation(&self) -> Account {
        Account { generation: self.account.generation + 1, ..self.account }
    }

    /// What became of a frame that somebody else than its sender forwards, attachments honest.
    pub fn forward(&mut self, sent: &Sent, class: Class) -> Result<Opened, Denied> {
        let attach = self.attach(class, &sent.frame);
        self.finish(sent, class, &attach)
    }

    /// The slot an event touched.
    pub fn slot_at(&self, version: u64) -> SlotId {
        self.stored.events[&version].slot
    }
}

/// A sign-in with a passkey of [`RP`].
pub fn assert_request(created: &Created) -> Assert {
    Assert {
        rp_id: RpId::try_from(RP).expect("a short rp id"),
        credential: created.credential,
        client_data_hash: [3; 32],
        prf: None,
    }
}

/// New names for the passkey that was created at `created.put`.
pub fn rename_request(world: &World, created: &Created, name: &str) -> UpdatePasskey {
    let name = Name::try_from(name).expect("a short name");
    UpdatePasskey {
        vault: world.vault(),
        slot: created.put.event.slot,
        record: created.put.event.digest,
        names: UserNames { name: name.clone(), display_name: name },
    }
}

/// Every request of a registered device, valid now, each with its name and class. Sealed with the
/// UV key, an honest host serves each of them.
pub fn every_request(
    world: &World, created: &Created, revoked: DeviceId,
) -> Vec<(&'static str, Request, Class)> {
    let (base, vault, slot) = (world.base(), world.vault(), created.put.event.slot);
    let approve = ApproveDevice { base, device: TestDevice::new("new").public() };
    let revoke = RevokeDevice { base, device: revoked };
    let rename = rename_request(world, created, "new name");
    let delete = DeletePasskey { vault, slot };
    let create = world.create_request(RP, "bob");
    let change_pin = ChangePin { base, pin: StretchedPin([7; 32]) };
    vec![
        ("ApproveDevice", Request::ApproveDevice(approve), Class::Guard),
        ("RevokeDevice", Request::RevokeDevice(revoke), Class::GuardFresh),
        ("Anchor", Request::Anchor(base), Class::Guard),
        ("Touch", Request::Touch(vault), Class::Put(None)),
        ("CreatePasskey", Request::CreatePasskey(create), Class::Put(None)),
        ("Assert", Request::Assert(assert_request(created)), Class::Assert(slot)),
        ("UpdatePasskey", Request::UpdatePasskey(rename), Class::Put(Some(slot))),
        ("DeletePasskey", Request::DeletePasskey(delete), Class::Put(None)),
        ("Sync", Request::Sync(world.genesis()), Class::Sync(0)),
        ("Status", Request::Status, Class::Status),
        ("Audit", Request::Audit(world.audit_genesis()), Class::Audit(0)),
        ("ChangePin", Request::ChangePin(change_pin), Class::GuardFresh),
        ("DeleteAccount", Request::DeleteAccount(base), Class::GuardFresh),
    ]
}

impl World {
    /// Where the account's audit chain starts.
    pub fn audit_genesis(&self) -> keyfold_protocol::ids::ChainPoint {
        transcript::Chain::Audit.genesis(sha256, &self.account)
    }
}

/// What a request says and what is signed, each part for itself. [`Forgery::honest`] makes them
/// agree.
#[derive(Clone)]
pub struct Forgery {
    /// Binding value that is signed.
    pub binding: [u8; 32],
    /// Counter that is signed.
    pub counter: u64,
    /// Account that is signed.
    pub account: Account,
    /// Key kind that is signed.
    pub key: KeyKind,
    /// Guard version that is signed.
    pub guard_seen: u64,
    /// Request that is signed, encoded.
    pub request: Vec<u8>,
    /// Which key really signs.
    pub signs_with: KeyKind,
    /// The device the request names.
    pub named_device: DeviceId,
    /// The key kind the request names.
    pub named_key: KeyKind,
    /// The guard version the request names.
    pub named_guard_seen: u64,
    /// The request that is sent, encoded.
    pub sent_request: Vec<u8>,
}

impl Forgery {
    /// No forgery: what a client sends.
    pub fn honest(world: &World, device: &TestDevice, key: KeyKind, request: &Request) -> Self {
        let request = encoded(request);
        Self {
            binding: world.session.binding,
            counter: world.session.counter,
            account: world.account,
            key,
            guard_seen: device.guard_seen,
            request: request.clone(),
            signs_with: key,
            named_device: device.id(),
            named_key: key,
            named_guard_seen: device.guard_seen,
            sent_request: request,
        }
    }

    /// Signs with a key of `signer` and seals.
    pub fn seal(&self, session: &mut Session, account: &Account, signer: &TestDevice) -> Sent {
        let context = transcript::SignedContext {
            binding: &self.binding,
            counter: self.counter,
            account: &self.account,
            key: self.key,
            guard_seen: self.guard_seen,
        };
        let message = transcript::signed_bytes(sha256, &context, &self.request);
        let signed = SignedRequest {
            device: self.named_device,
            key: self.named_key,
            guard_seen: self.named_guard_seen,
            signature: Bytes(signer.sign(self.signs_with, &message)),
            request: &self.sent_request,
        };
        session.seal_signed(account, &signed)
    }
}

/// A value's encoding.
pub fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut buffer = vec![0; limits::FRAME];
    let used = wire::encode(value, &mut buffer).expect("a value that fits a frame");
    buffer.truncate(used);
    buffer
}

/// The reply a host forwards and the put it has to store, if any.
pub fn reply_of(raw: &[u8]) -> Reply<'_> {
    match decode(raw) {
        HostReply::Reply(reply) => reply,
        other => panic!("not a reply: {other:?}"),
    }
}

impl Ledger {
    /// A receipt for any claim, whether or not the tag stands there.
    pub fn claim(
        &self, claim: &LedgerClaim, tag: &LedgerTag, version: u64, digest: &Digest,
    ) -> Vec<u8> {
        self.sign_claim(&claim.bytes(tag, version, digest))
    }

    /// A receipt for any claim's bytes.
    pub fn sign_claim(&self, claim: &[u8]) -> Vec<u8> {
        self.sign(&sha256(&[claim]), ISSUER, &[(true, random()), (false, random())])
    }
}

/// One bit changed.
pub fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// Attachments with one bit of the guard, vault or record changed.
pub fn damage(attached: &mut Option<(u64, Vec<u8>)>, bit: usize) {
    let (_, sealed) = attached.as_mut().expect("something attached");
    *sealed = flipped(sealed, bit);
}

/// Says that an attached object is of another version than it is.
pub fn misname(attached: &mut Option<(u64, Vec<u8>)>) {
    attached.as_mut().expect("something attached").0 += 1;
}
