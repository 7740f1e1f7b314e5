//! One value of every message and every variant, with its name: the golden files' contents, and
//! what the wire tests mutilate.

use std::fmt::Debug;

use heapless::Vec as Short;
use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::*;
use keyfold_protocol::host::*;
use keyfold_protocol::ids::*;
use keyfold_protocol::wire::{self, Items};
use serde::Serialize;

use crate::enclave::label;
use crate::generate::Variants;
use crate::world::items;

/// A message, and what its type makes of other bytes.
pub struct Sample {
    /// Module, type and variant.
    pub name: String,
    /// The value, as JSON with byte strings in hexadecimal.
    pub value: String,
    /// Its encoding.
    pub bytes: Vec<u8>,
    /// Decodes strictly and encodes again; `None` when decoding refuses.
    pub strict: fn(&[u8]) -> Option<Vec<u8>>,
    /// As `strict`, by bare postcard, trailing bytes ignored.
    pub lenient: fn(&[u8]) -> Option<Vec<u8>>,
}

/// The encoding of a message.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut buffer = vec![0; keyfold_protocol::limits::FRAME];
    let used = wire::encode(value, &mut buffer).expect("a message that fits a frame");
    buffer.truncate(used);
    buffer
}

fn json<T: Serialize + Debug>(value: &T) -> String {
    collapse_bytes(&serde_json::to_string(value).expect("plain data"))
}

/// Writes every list of byte values as one hexadecimal string.
fn collapse_bytes(json: &str) -> String {
    let mut out = String::new();
    let mut rest = json;
    while let Some((before, from)) = rest.split_once('[') {
        out.push_str(before);
        let list = from.split_once(']').and_then(|(list, after)| {
            let bytes: Option<Vec<u8>> = list.split(',').map(|byte| byte.parse().ok()).collect();
            bytes.map(|bytes| (bytes, after))
        });
        match list {
            Some((bytes, after)) => {
                out.push_str(&format!("\"{}\"", hex::encode(bytes)));
                rest = after;
            }
            None => {
                out.push('[');
                rest = from;
            }
        }
    }
    out + rest
}

macro_rules! sample {
    ($name:expr, $ty:ty, $value:expr) => {{
        let value: $ty = $value;
        Sample {
            name: $name.to_string(),
            value: json(&value),
            bytes: encode(&value),
            strict: |bytes| wire::decode::<$ty>(bytes).ok().map(|value| encode(&value)),
            lenient: |bytes| {
                let value = postcard::take_from_bytes::<$ty>(bytes);
                value.ok().map(|(value, _)| encode(&value))
            },
        }
    }};
}

/// One sample per value of an enum, each under its variant's name. All variants, or it panics.
macro_rules! variants {
    ($module:literal, $ty:ident, [$($value:expr),* $(,)?]) => {{
        let values = [$($value),*];
        let mut samples = Vec::new();
        for name in $ty::NAMES {
            let of_name = values.iter().filter(|value| value.variant() == *name);
            let before = samples.len();
            for value in of_name {
                let name = format!("{}.{}.{name}", $module, stringify!($ty));
                samples.push(sample!(name, $ty, value.clone()));
            }
            assert!(samples.len() > before, "{}::{name} has no sample", stringify!($ty));
        }
        samples
    }};
}

/// Every message.
pub fn all() -> Vec<Sample> {
    [ids(), client_enums(), client_messages(), client_replies(), host_requests(), host_replies()]
        .into_iter()
        .flatten()
        .collect()
}

fn ids() -> Vec<Sample> {
    vec![
        sample!("ids.Account", Account, account()),
        sample!("ids.ChainPoint", ChainPoint, point()),
        sample!("ids.Name", Name, name("Alice 🔑")),
        sample!("ids.UserHandle", UserHandle, Short::from_slice(b"alice").expect("short")),
    ]
}

fn client_enums() -> Vec<Sample> {
    let class = [
        Class::Enroll,
        Class::Guard,
        Class::GuardFresh,
        Class::Put(None),
        Class::Put(Some(slot())),
        Class::Assert(slot()),
        Class::Sync(300),
        Class::Status,
        Class::Audit(0),
        Class::Recover,
    ];
    let refusals = [
        Refusal::Malformed,
        Refusal::Unauthorised,
        Refusal::UserVerificationRequired,
        Refusal::StaleGuard,
        Refusal::ForeignGuard,
        Refusal::GuardMoved,
        Refusal::SyncFirst,
        Refusal::StaleVault,
        Refusal::BrokenChain,
        Refusal::NotFresh,
        Refusal::TooManyDevices,
        Refusal::KnownDevice,
        Refusal::UnknownDevice,
        Refusal::LastDevice,
        Refusal::NoSuchPasskey,
        Refusal::RecordChanged,
        Refusal::UnsupportedAlgorithm,
        Refusal::WrongPin(3),
        Refusal::Locked,
        Refusal::Closed,
        Refusal::GuardAt(7),
    ];
    let mut samples: Vec<Sample> = class
        .iter()
        .map(|class| sample!(format!("client.Class.{}", class.variant()), Class, *class))
        .collect();
    assert!(Class::NAMES.iter().all(|name| class.iter().any(|class| class.variant() == *name)));
    samples.extend(variants!("client", KeyKind, [KeyKind::Presence, KeyKind::UserVerification]));
    samples.extend(variants!("client", Algorithm, [Algorithm::Es256, Algorithm::EdDsa]));
    let actions = [Action::Put, Action::Delete, Action::Touch, Action::Audit];
    samples.extend(variants!("client", Action, [actions[0], actions[1], actions[2], actions[3]]));
    samples.extend(variants!(
        "client",
        AuditKind,
        [
            AuditKind::Enrolled,
            AuditKind::DeviceAdded,
            AuditKind::DeviceRevoked,
            AuditKind::Anchored,
            AuditKind::PinChanged,
            AuditKind::TryCharged,
            AuditKind::TryFailed,
            AuditKind::Recovered,
            AuditKind::Deleted,
        ]
    ));
    assert_eq!(refusals.map(|refusal| refusal.variant()), *Refusal::NAMES);
    samples.extend(refusals.map(|refusal| {
        sample!(format!("client.Outcome.Err.{}", refusal.variant()), Outcome, Err(refusal))
    }));
    samples
}

fn client_messages() -> Vec<Sample> {
    let frame = [0xf0; 40];
    let request = encode(&Request::Status);
    let mut samples = vec![
        sample!(
            "client.Envelope",
            Envelope,
            Envelope {
                account: account(),
                counter: 300,
                class: Class::Assert(slot()),
                frame: &frame,
            }
        ),
        sample!(
            "client.SignedRequest",
            SignedRequest,
            SignedRequest {
                device: device_id(1),
                key: KeyKind::UserVerification,
                guard_seen: 7,
                signature: Bytes([0x5a; 64]),
                request: &request,
            }
        ),
    ];
    samples.extend(variants!(
        "client",
        Request,
        [
            Request::Enroll(Enroll { pin: StretchedPin([0x09; 32]), device: device("laptop") }),
            Request::ApproveDevice(ApproveDevice { base: base(), device: device("phone") }),
            Request::RevokeDevice(RevokeDevice { base: base(), device: device_id(2) }),
            Request::Anchor(base()),
            Request::Touch(point()),
            Request::CreatePasskey(create(None)),
            Request::CreatePasskey(create(Some(PrfInputs {
                first: [0xe1; 32],
                second: Some([0xe2; 32]),
            }))),
            Request::Assert(Assert {
                rp_id: rp_id(),
                credential: CredentialId([0xcd; 32]),
                client_data_hash: [0x3c; 32],
                prf: Some(PrfInputs { first: [0xe1; 32], second: None }),
            }),
            Request::UpdatePasskey(UpdatePasskey {
                vault: point(),
                slot: slot(),
                record: Digest([0xde; 32]),
                names: names(),
            }),
            Request::DeletePasskey(DeletePasskey { vault: point(), slot: slot() }),
            Request::Sync(point()),
            Request::Status,
            Request::Audit(point()),
            Request::Recover(Recover {
                guard: 7,
                pin: StretchedPin([0x09; 32]),
                device: device("tablet"),
            }),
            Request::ChangePin(ChangePin { base: base(), pin: StretchedPin([0x0a; 32]) }),
            Request::DeleteAccount(base()),
        ]
    ));
    samples
}

fn create(prf: Option<PrfInputs>) -> CreatePasskey {
    CreatePasskey {
        vault: point(),
        rp_id: rp_id(),
        user_handle: Short::from_slice(b"alice").expect("short"),
        names: names(),
        algorithms: Short::from_slice(&[-8, -7, -257]).expect("short"),
        prf,
    }
}

fn client_replies() -> Vec<Sample> {
    let put = PutDone { guard: 7, event: event(Action::Put), vault: point() };
    let synced = items(
        [
            SyncedEvent { event: event(Action::Put), passkey: Some(passkey()) },
            SyncedEvent { event: event(Action::Touch), passkey: None },
        ]
        .iter(),
    );
    let audited = items([audit_event()].iter());
    let successes = [
        Success::GuardChanged(GuardChanged {
            guard: 8,
            audit_head: Digest([0xad; 32]),
            vault: point(),
        }),
        Success::Put(put),
        Success::Created(Created {
            put,
            credential: CredentialId([0xcd; 32]),
            algorithm: Algorithm::EdDsa,
            authenticator_data: Short::from_slice(&[0xda; 164]).expect("short"),
            public_key: Short::from_slice(&[0x9c; 32]).expect("short"),
            prf: None,
        }),
        Success::Asserted(Asserted {
            guard: 7,
            authenticator_data: Bytes([0xda; 37]),
            signature: Short::from_slice(&[0x51; 70]).expect("short"),
            user_handle: Short::from_slice(b"alice").expect("short"),
            prf: Some(PrfResults { first: [0xf1; 32], second: Some([0xf2; 32]) }),
        }),
        Success::Synced(Synced {
            guard: 7,
            vault: point(),
            cursor: point(),
            items: Items::new(&synced),
        }),
        Success::Status(AccountStatus {
            guard: 7,
            audit_head: Digest([0xad; 32]),
            anchor: point(),
            vault: point(),
            devices: Short::from_slice(&[DeviceView { id: device_id(1), name: name("laptop") }])
                .expect("short"),
            failures: 3,
        }),
        Success::Audited(Audited {
            guard: 7,
            audit_head: Digest([0xad; 32]),
            cursor: point(),
            items: Items::new(&audited),
        }),
    ];
    assert!(successes.iter().map(Variants::variant).eq(Success::NAMES.iter().copied()));
    let mut samples = vec![
        sample!(
            "client.SyncedEvent",
            SyncedEvent,
            SyncedEvent { event: event(Action::Put), passkey: Some(passkey()) }
        ),
        sample!("client.AuditEvent", AuditEvent, audit_event()),
    ];
    samples.extend(successes.into_iter().map(|success| {
        let name = format!("client.Outcome.Ok.{}", success.variant());
        sample!(name, Outcome, Ok(success))
    }));
    samples
}

fn host_requests() -> Vec<Sample> {
    let sealed = [0x5e; 24];
    let events = items(
        [
            AttachedEvent { event: event(Action::Put), record: Some(&sealed) },
            AttachedEvent { event: event(Action::Delete), record: None },
        ]
        .iter(),
    );
    let audit = items([&sealed[..]].iter());
    let attached = |version| Some(Attached { version: Claimed(version), sealed: &sealed });
    let config = Config {
        deployment: label("example"),
        ledger_key: Bytes([0x04; 97]),
        ledger_issuer: label("ledger.example"),
        fresh_read: FreshRead::Always,
    };
    let mut samples = vec![
        sample!(
            "host.AttachedEvent",
            AttachedEvent,
            AttachedEvent { event: event(Action::Put), record: Some(&sealed) }
        ),
        sample!("host.Event", Event, event(Action::Audit)),
        sample!("host.Config", Config, config.clone()),
    ];
    samples.extend(variants!("host", FreshRead, [FreshRead::Reports, FreshRead::Always]));
    samples.extend(variants!("host", KeyWrap, [KeyWrap::Sha1, KeyWrap::Sha256, KeyWrap::Sha384]));
    samples.extend(variants!(
        "host",
        HostRequest,
        [
            HostRequest::Configure(config),
            HostRequest::ReleaseClaims,
            HostRequest::Unlock(Unlock { algorithm: KeyWrap::Sha1, wrapped: &[0x3d; 16] }),
            HostRequest::Evidence,
            HostRequest::OpenSession(OpenSession {
                channel_key: ChannelKeyId([0xc4; 32]),
                encapsulated_key: &[0xec; 16],
            }),
            HostRequest::Handle(Handle {
                session: SessionId([0x50; 16]),
                account: account(),
                counter: 300,
                class: Class::Sync(300),
                frame: &[0xf0; 40],
                time: Claimed(1_800_000_000),
                guard: attached(7),
                vault: attached(302),
                record: None,
                fresh: Some(&[0x4c; 16]),
                events: Items::new(&events),
                audit: Items::new(&audit),
            }),
            HostRequest::Commit(Commit {
                account: account(),
                staged: Attached { version: Claimed(8), sealed: &sealed },
                digest: Claimed(Digest([0xde; 32])),
                receipt: &[0x4c; 16],
            }),
            HostRequest::Settle(Settle {
                account: account(),
                guard: Attached { version: Claimed(8), sealed: &sealed },
            }),
        ]
    ));
    samples
}

fn host_replies() -> Vec<Sample> {
    let sealed = &[0x5e; 24][..];
    let evidence = Evidence { claims: br#"{"keyfold":{}}"#, report: &[0x4e; 16] };
    let put = Put {
        guard: 7,
        event: event(Action::Put),
        vault: sealed,
        record: Some(&[0x4d; 16]),
        only_if_empty: true,
    };
    let committed = |next| {
        let audit = &[0xad; 16];
        HostReply::Committed(Committed { version: 8, guard: sealed, audit, next })
    };
    let mut samples = variants!(
        "host",
        HostReply,
        [
            HostReply::Configured(Digest([0xc0; 32])),
            HostReply::ReleaseClaims(evidence),
            HostReply::Unlocked(Digest([0xc1; 32])),
            HostReply::Evidence(ChannelEvidence { channel_key: &[0xc4; 16], evidence }),
            HostReply::Session(SessionId([0x50; 16])),
            HostReply::Reply(Reply { sealed, put: None }),
            HostReply::Reply(Reply { sealed, put: Some(put) }),
            HostReply::Staged(Staged {
                tag: LedgerTag([0x7a; 32]),
                version: 8,
                digest: Digest([0xde; 32]),
                guard: sealed,
            }),
            committed(Next::Answer(&[0x5f; 24])),
            committed(Next::Settle),
            committed(Next::Closed(&[0x5f; 24])),
            HostReply::Refused(HostRefusal::Malformed),
            HostReply::Locked(sealed),
        ]
    );
    let refusals = [
        HostRefusal::Malformed,
        HostRefusal::WrongPhase,
        HostRefusal::Platform,
        HostRefusal::Unwrap,
        HostRefusal::ChannelKey,
        HostRefusal::UnknownSession,
        HostRefusal::Frame,
        HostRefusal::State,
        HostRefusal::Receipt,
    ];
    assert_eq!(refusals.map(|refusal| refusal.variant()), *HostRefusal::NAMES);
    samples.extend(refusals.map(|refusal| {
        let name = format!("host.HostRefusal.{}", refusal.variant());
        sample!(name, HostRefusal, refusal)
    }));
    samples
}

/// The account of every sample.
pub fn account() -> Account {
    Account { id: AccountId([0xac; 32]), generation: 1 }
}

/// The vault point of every sample.
pub fn point() -> ChainPoint {
    ChainPoint { version: 300, head: Digest([0xbe; 32]) }
}

/// An event after [`point`].
pub fn event(action: Action) -> Event {
    Event { version: 301, slot: slot(), action, digest: Digest([0xde; 32]) }
}

fn base() -> GuardBase {
    let anchor = ChainPoint { version: 290, head: Digest([0xa7; 32]) };
    GuardBase { guard: 7, vault: point(), anchor }
}

fn slot() -> SlotId {
    SlotId([0x51; 32])
}

fn device_id(number: u8) -> DeviceId {
    DeviceId([0xd0 + number; 16])
}

fn device(text: &str) -> Device {
    Device { name: name(text), device_key: Bytes([0x04; 65]), uv_key: Bytes([0x05; 65]) }
}

fn name(text: &str) -> Name {
    Name::try_from(text).expect("at most 64 bytes")
}

fn rp_id() -> RpId {
    RpId::try_from("example.com").expect("at most 253 bytes")
}

fn names() -> UserNames {
    UserNames { name: name("alice"), display_name: name("Alice 🔑") }
}

fn passkey() -> PasskeyView {
    PasskeyView {
        credential: CredentialId([0xcd; 32]),
        rp_id: rp_id(),
        user_handle: Short::from_slice(b"alice").expect("short"),
        names: names(),
        algorithm: Algorithm::Es256,
    }
}

fn audit_event() -> AuditEvent {
    AuditEvent {
        version: 7,
        kind: AuditKind::DeviceAdded,
        actor: device_id(1),
        subject: device_id(2),
        host_time: 1_800_000_000,
    }
}
