//! A whole deployment in one process: core, ledger, host, and one person's devices.

use std::collections::BTreeMap;

use keyfold_protocol::client::{
    Action, Algorithm, ApproveDevice, Assert, Asserted, Class, CreatePasskey, Created, Enroll,
    GuardBase, GuardChanged, KeyKind, Outcome, PutDone, Recover, Refusal, Request, StretchedPin,
    Success, SyncedEvent, UserNames,
};
use keyfold_protocol::host::{
    Attached, AttachedEvent, Claimed, Commit, Config, Event, FreshRead, Handle, HostRefusal,
    HostReply, HostRequest, Next, OpenSession, Settle, Staged,
};
use keyfold_protocol::ids::{
    Account, AccountId, ChainPoint, Digest, LedgerTag, Name, RpId, SlotId, UserHandle,
};
use keyfold_protocol::limits::PAGE;
use keyfold_protocol::transcript::Chain;
use keyfold_protocol::wire::{self, Items};

use crate::crypto::sha256;
use crate::device::{Sent, Session, TestDevice};
use crate::enclave::{self, Enclave, ROOT, decode};
use crate::ledger::Ledger;
use crate::oracle::Oracle;

/// Everything a host was ever given for an account. It forgets nothing: that is the threat.
#[derive(Clone, Default)]
pub struct Stored {
    /// Live guards by version.
    pub guards: BTreeMap<u64, Vec<u8>>,
    /// Vaults by version.
    pub vaults: BTreeMap<u64, Vec<u8>>,
    /// Vault events by version.
    pub events: BTreeMap<u64, Event>,
    /// Records by slot and version.
    pub records: BTreeMap<(SlotId, u64), Vec<u8>>,
    /// Audit events by version.
    pub audit: BTreeMap<u64, Vec<u8>>,
    /// Staged guards, in the order they were made.
    pub staged: Vec<StagedRow>,
    /// The account's name on the ledger.
    pub tag: Option<LedgerTag>,
}

/// A guard waiting for the ledger.
#[derive(Clone)]
pub struct StagedRow {
    /// Name on the ledger.
    pub tag: LedgerTag,
    /// Version once committed.
    pub version: u64,
    /// What the ledger records.
    pub digest: Digest,
    /// Sealed staged guard.
    pub guard: Vec<u8>,
}

impl From<&Staged<'_>> for StagedRow {
    fn from(staged: &Staged) -> Self {
        Self {
            tag: staged.tag,
            version: staged.version,
            digest: staged.digest,
            guard: staged.guard.to_vec(),
        }
    }
}

/// The PIN of every account that [`World::enroll`] opens, stretched.
pub const PIN: [u8; 32] = [9; 32];

/// What the host attaches to one request. [`Stored::attach`] makes the honest one.
#[derive(Clone, Default)]
pub struct Attach {
    /// Guard, with the version the host claims.
    pub guard: Option<(u64, Vec<u8>)>,
    /// Vault, with the version the host claims.
    pub vault: Option<(u64, Vec<u8>)>,
    /// Record, with the version the host claims.
    pub record: Option<(u64, Vec<u8>)>,
    /// Receipt of a ledger read.
    pub fresh: Option<Vec<u8>>,
    /// Vault events with records.
    pub events: Vec<(Event, Option<Vec<u8>>)>,
    /// Audit events.
    pub audit: Vec<Vec<u8>>,
}

impl Stored {
    /// What an honest host attaches to a request of this class.
    pub fn attach(&self, class: Class) -> Attach {
        let newest =
            |map: &BTreeMap<u64, Vec<u8>>| map.last_key_value().map(|(k, v)| (*k, v.clone()));
        let mut attach = Attach::default();
        if class != Class::Enroll {
            attach.guard = newest(&self.guards);
        }
        if !matches!(class, Class::Enroll | Class::Recover | Class::Assert(_) | Class::Audit(_)) {
            attach.vault = newest(&self.vaults);
        }
        match class {
            Class::Put(Some(slot)) | Class::Assert(slot) => attach.record = self.record(&slot),
            Class::Sync(from) => attach.events = self.events_after(from),
            Class::Audit(from) => {
                let after = self.audit.range(from.saturating_add(1)..).take(PAGE);
                attach.audit = after.map(|(_, sealed)| sealed.clone()).collect();
            }
            _ => {}
        }
        attach
    }

    /// The newest record of a slot, unless its last event is a tombstone.
    pub fn record(&self, slot: &SlotId) -> Option<(u64, Vec<u8>)> {
        let last = self.events.values().rfind(|event| event.slot == *slot)?;
        let sealed = self.records.get(&(*slot, last.version))?;
        Some((last.version, sealed.clone()))
    }

    fn events_after(&self, from: u64) -> Vec<(Event, Option<Vec<u8>>)> {
        let with_record = |event: &Event| {
            let newest = self.record(&event.slot).filter(|(version, _)| *version == event.version);
            (*event, newest.map(|(_, sealed)| sealed))
        };
        self.events
            .range(from.saturating_add(1)..)
            .take(PAGE)
            .map(|(_, event)| with_record(event))
            .collect()
    }
}

/// A reply, opened.
#[derive(Debug)]
pub struct Opened(Vec<u8>);

impl Opened {
    /// What the core answered.
    pub fn outcome(&self) -> Outcome<'_> {
        wire::decode_padded(&self.0).expect("the core writes valid replies")
    }
}

/// Why a request brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The core told the client.
    Client(Refusal),
    /// The core told the host.
    Host(HostRefusal),
    /// The ledger stood elsewhere.
    Ledger,
    /// The slot holds a passkey that the request may not replace.
    SlotTaken,
}

/// The deployment.
pub struct World {
    /// The core.
    pub enclave: Enclave,
    /// The ledger.
    pub ledger: Ledger,
    /// What the host has.
    pub stored: Stored,
    /// The account in use.
    pub account: Account,
    /// Configuration of the core.
    pub config: Config,
    /// The open session.
    pub session: Session,
    /// The host's clock.
    pub time: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A deployment nobody has an account at.
    pub fn new() -> Self {
        Self::with(FreshRead::Reports)
    }

    /// A deployment with this policy on fresh reads.
    pub fn with(fresh_read: FreshRead) -> Self {
        let ledger = Ledger::new();
        let config = enclave::config(&ledger, fresh_read);
        let enclave = Enclave::boot(&config, &ROOT);
        let account = Account { id: AccountId([0xac; 32]), generation: 1 };
        let session = Session::open(&enclave.config_hash, &enclave.channel_key);
        let stored = Stored::default();
        let mut world =
            Self { enclave, ledger, stored, account, config, session, time: 1_800_000_000 };
        world.open_session();
        world
    }

    /// A deployment where a device has enrolled.
    pub fn enrolled() -> (Self, TestDevice) {
        let mut world = Self::new();
        let laptop = world.enroll("laptop");
        (world, laptop)
    }

    /// Boots another core of this deployment and opens a session with it.
    pub fn reboot(&mut self) {
        self.enclave = Enclave::boot(&self.config, &ROOT);
        self.open_session();
    }

    /// Opens a new session.
    pub fn open_session(&mut self) {
        self.session = Session::open(&self.enclave.config_hash, &self.enclave.channel_key);
        let open = OpenSession {
            channel_key: self.enclave.channel_key_id(),
            encapsulated_key: &self.session.enc,
        };
        let reply = self.enclave.call(&HostRequest::OpenSession(open));
        assert_eq!(decode(&reply), HostReply::Session(self.session.id));
    }

    /// One frame to the core with what the host attaches; the raw reply.
    pub fn handle(&mut self, sent: &Sent, class: Class, attach: &Attach) -> Vec<u8> {
        let frame = self.frame(sent, class, attach);
        self.enclave.call_raw(&frame)
    }

    /// The encoded frame of [`Self::handle`].
    pub fn frame(&self, sent: &Sent, class: Class, attach: &Attach) -> Vec<u8> {
        fn attached(of: &Option<(u64, Vec<u8>)>) -> Option<Attached<'_>> {
            of.as_ref().map(|(version, sealed)| Attached { version: Claimed(*version), sealed })
        }
        let events = attach
            .events
            .iter()
            .map(|(event, record)| AttachedEvent { event: *event, record: record.as_deref() });
        let events = items(events);
        let audit = items(attach.audit.iter().map(|sealed| &sealed[..]));
        enclave::encode(&HostRequest::Handle(Handle {
            session: self.session.id,
            account: self.account,
            counter: sent.counter,
            class,
            frame: &sent.frame,
            time: Claimed(self.time),
            guard: attached(&attach.guard),
            vault: attached(&attach.vault),
            record: attached(&attach.record),
            fresh: attach.fresh.as_deref(),
            events: Items::new(&events),
            audit: Items::new(&audit),
        }))
    }

    /// What an honest host attaches, ledger read included.
    pub fn attach(&mut self, class: Class, frame: &[u8]) -> Attach {
        let mut attach = self.stored.attach(class);
        if class == Class::Enroll && self.account.generation > 1 {
            let generation = self.account.generation - 1;
            attach.guard = Some(self.ended(Account { generation, ..self.account }));
        }
        let wants_read = matches!(class, Class::Status | Class::Audit(_))
            || (self.config.fresh_read == FreshRead::Always && class != Class::Enroll);
        if let (true, Some(tag)) = (wants_read, self.stored.tag) {
            attach.fresh = Some(self.ledger.read(tag, sha256(&[frame])));
        }
        attach
    }

    /// A request from a device, through an honest host, to its end.
    pub fn request(
        &mut self, device: &mut TestDevice, key: KeyKind, request: &Request, class: Class,
    ) -> Result<Opened, Denied> {
        let sent = self.session.seal(device, key, &self.account, request);
        let attach = self.attach(class, &sent.frame);
        let opened = self.finish(&sent, class, &attach)?;
        if let Ok(success) = opened.outcome() {
            device.guard_seen = device.guard_seen.max(guard_version(&success));
        }
        Ok(opened)
    }

    /// A request whose host attaches what the test says.
    pub fn request_with(
        &mut self, device: &TestDevice, key: KeyKind, request: &Request, class: Class,
        bend: impl FnOnce(&mut Attach),
    ) -> Result<Opened, Denied> {
        let sent = self.session.seal(device, key, &self.account, request);
        let mut attach = self.attach(class, &sent.frame);
        bend(&mut attach);
        self.finish(&sent, class, &attach)
    }

    /// Everything an honest host does with a frame, from the core to the ledger and back.
    pub fn finish(&mut self, sent: &Sent, class: Class, attach: &Attach) -> Result<Opened, Denied> {
        let reply = self.handle(sent, class, attach);
        let sealed = match decode(&reply) {
            HostReply::Reply(reply) => {
                if let Some(put) = &reply.put {
                    if put.only_if_empty && self.stored.record(&put.event.slot).is_some() {
                        return Err(Denied::SlotTaken);
                    }
                    self.store_put(put);
                }
                reply.sealed.to_vec()
            }
            HostReply::Staged(staged) => {
                let row = StagedRow::from(&staged);
                self.stored.staged.push(row.clone());
                self.append_and_commit(&row)?
            }
            HostReply::Locked(sealed) => sealed.to_vec(),
            HostReply::Refused(refusal) => return Err(Denied::Host(refusal)),
            other => panic!("not a reply to a request: {other:?}"),
        };
        let opened = Opened(sent.open(&sealed).expect("a reply of this frame"));
        match opened.outcome() {
            Ok(_) => Ok(opened),
            Err(refusal) => Err(Denied::Client(refusal)),
        }
    }

    /// Stores one put.
    pub fn store_put(&mut self, put: &keyfold_protocol::host::Put) {
        let event = put.event;
        self.stored.vaults.insert(event.version, put.vault.to_vec());
        self.stored.events.insert(event.version, event);
        if let Some(record) = put.record {
            assert_eq!(event.action, Action::Put);
            self.stored.records.insert((event.slot, event.version), record.to_vec());
        }
    }

    /// The honest way of a staged guard: ledger, commit, storage, and again for the outcome of a
    /// charged try. The sealed reply.
    pub fn append_and_commit(&mut self, row: &StagedRow) -> Result<Vec<u8>, Denied> {
        match self.append_and_commit_one(row)? {
            Some(sealed) => Ok(sealed),
            None => {
                let outcome = self.settle(row.version)?;
                self.stored.staged.push(outcome.clone());
                Ok(self.append_and_commit_one(&outcome)?.expect("an outcome is answered"))
            }
        }
    }

    /// One staged guard: the sealed reply, or none where a try was charged.
    pub fn append_and_commit_one(&mut self, row: &StagedRow) -> Result<Option<Vec<u8>>, Denied> {
        let receipt = self.ledger.append(row.tag, row.version, row.digest).ok_or(Denied::Ledger)?;
        let reply = self.commit(row, &receipt);
        match decode(&reply) {
            HostReply::Committed(committed) => {
                self.stored.guards.insert(committed.version, committed.guard.to_vec());
                self.stored.audit.insert(committed.version, committed.audit.to_vec());
                self.stored.tag = Some(row.tag);
                Ok(match committed.next {
                    Next::Answer(sealed) | Next::Closed(sealed) => Some(sealed.to_vec()),
                    Next::Settle => None,
                })
            }
            HostReply::Refused(refusal) => Err(Denied::Host(refusal)),
            other => panic!("not a commit: {other:?}"),
        }
    }

    /// Settles the try pending in the live guard of this version.
    pub fn settle(&mut self, version: u64) -> Result<StagedRow, Denied> {
        let guard = Attached { version: Claimed(version), sealed: &self.stored.guards[&version] };
        let settle = HostRequest::Settle(Settle { account: self.account, guard });
        let reply = self.enclave.call(&settle);
        match decode(&reply) {
            HostReply::Staged(staged) => Ok(StagedRow::from(&staged)),
            HostReply::Refused(refusal) => Err(Denied::Host(refusal)),
            other => panic!("not an outcome: {other:?}"),
        }
    }

    /// A Commit frame; the raw reply.
    pub fn commit(&mut self, row: &StagedRow, receipt: &[u8]) -> Vec<u8> {
        self.enclave.call(&HostRequest::Commit(Commit {
            account: self.account,
            staged: Attached { version: Claimed(row.version), sealed: &row.guard },
            digest: Claimed(row.digest),
            receipt,
        }))
    }

    /// Enrolls a new device with an account of its own.
    pub fn enroll(&mut self, name: &str) -> TestDevice {
        let mut device = TestDevice::new(name);
        let request = Request::Enroll(Enroll { pin: StretchedPin(PIN), device: device.public() });
        self.request(&mut device, KeyKind::Presence, &request, Class::Enroll).expect("enrolled");
        device
    }

    /// The newest vault point.
    pub fn vault(&self) -> ChainPoint {
        let genesis = Chain::Vault.genesis(sha256, &self.account);
        self.stored.events.values().fold(genesis, |point, event| {
            Chain::Vault.next(sha256, &point, event).expect("the host's events are a chain")
        })
    }

    /// The base of a guard change: newest guard, with its anchor, and vault.
    pub fn base(&self) -> GuardBase {
        let newest = self.stored.guards.last_key_value();
        let (guard, anchor) = newest.map_or_else(
            || (0, Chain::Vault.genesis(sha256, &self.account)),
            |(version, _)| (*version, self.anchor(*version)),
        );
        GuardBase { guard, vault: self.vault(), anchor }
    }

    /// The vault point that the live guard of this version is anchored to.
    pub fn anchor(&self, version: u64) -> ChainPoint {
        let oracle = Oracle::new(ROOT, self.account);
        oracle.guard(version, &self.stored.guards[&version]).expect("a live guard").floor
    }

    /// A guard change by a device, to its end.
    pub fn change_guard(
        &mut self, device: &mut TestDevice, request: &Request,
    ) -> Result<GuardChanged, Denied> {
        let class = match request {
            Request::RevokeDevice(_) | Request::ChangePin(_) | Request::DeleteAccount(_) => {
                Class::GuardFresh
            }
            _ => Class::Guard,
        };
        let opened = self.request(device, KeyKind::UserVerification, request, class)?;
        match opened.outcome() {
            Ok(Success::GuardChanged(changed)) => Ok(changed),
            other => panic!("not a guard change: {other:?}"),
        }
    }

    /// A device tries a PIN, through an honest host, to its end.
    pub fn recover(
        &mut self, device: &mut TestDevice, pin: [u8; 32],
    ) -> Result<GuardChanged, Denied> {
        let request = self.recover_request(device, pin);
        let opened = self.request(device, KeyKind::Presence, &request, Class::Recover)?;
        match opened.outcome() {
            Ok(Success::GuardChanged(changed)) => Ok(changed),
            other => panic!("not a recovery: {other:?}"),
        }
    }

    /// A try at the newest guard.
    pub fn recover_request(&self, device: &TestDevice, pin: [u8; 32]) -> Request {
        let pin = StretchedPin(pin);
        Request::Recover(Recover { guard: self.base().guard, pin, device: device.public() })
    }

    /// Registers `new` through a trusted device.
    pub fn approve(
        &mut self, by: &mut TestDevice, new: &TestDevice,
    ) -> Result<GuardChanged, Denied> {
        let approve = ApproveDevice { base: self.base(), device: new.public() };
        self.change_guard(by, &Request::ApproveDevice(approve))
    }

    /// Where the account's vault starts.
    pub fn genesis(&self) -> ChainPoint {
        Chain::Vault.genesis(sha256, &self.account)
    }

    /// A request for a passkey at `rp_id`, at the newest vault point.
    pub fn create_request(&self, rp_id: &str, user: &str) -> CreatePasskey {
        let name = Name::try_from(user).expect("a short name");
        CreatePasskey {
            vault: self.vault(),
            rp_id: RpId::try_from(rp_id).expect("a short rp id"),
            user_handle: UserHandle::from_slice(user.as_bytes()).expect("a short handle"),
            names: UserNames { name: name.clone(), display_name: name },
            algorithms: heapless_algorithms(&[Algorithm::Es256.cose(), Algorithm::EdDsa.cose()]),
            prf: None,
        }
    }

    /// A new passkey.
    pub fn create(
        &mut self, device: &mut TestDevice, rp_id: &str, user: &str,
    ) -> Result<Created, Denied> {
        let request = Request::CreatePasskey(self.create_request(rp_id, user));
        let opened = self.request(device, KeyKind::Presence, &request, Class::Put(None))?;
        match opened.outcome() {
            Ok(Success::Created(created)) => Ok(created),
            other => panic!("not a creation: {other:?}"),
        }
    }

    /// A sign-in.
    pub fn assert(
        &mut self, device: &mut TestDevice, key: KeyKind, slot: SlotId, request: &Assert,
    ) -> Result<Asserted, Denied> {
        let request = Request::Assert(request.clone());
        let opened = self.request(device, key, &request, Class::Assert(slot))?;
        match opened.outcome() {
            Ok(Success::Asserted(asserted)) => Ok(asserted),
            other => panic!("not an assertion: {other:?}"),
        }
    }

    /// A put other than a creation.
    pub fn put(
        &mut self, device: &mut TestDevice, key: KeyKind, request: &Request,
    ) -> Result<PutDone, Denied> {
        let class = match request {
            Request::UpdatePasskey(update) => Class::Put(Some(update.slot)),
            _ => Class::Put(None),
        };
        let opened = self.request(device, key, request, class)?;
        match opened.outcome() {
            Ok(Success::Put(done)) => Ok(done),
            other => panic!("not a put: {other:?}"),
        }
    }

    /// One page of a sync.
    pub fn sync_page(
        &mut self, device: &mut TestDevice, from: ChainPoint,
    ) -> Result<(ChainPoint, ChainPoint, Vec<SyncedEvent>), Denied> {
        let request = Request::Sync(from);
        let opened =
            self.request(device, KeyKind::Presence, &request, Class::Sync(from.version))?;
        Ok(synced(&opened))
    }
}

/// Sealed point, cursor and events of a sync's reply.
pub fn synced(opened: &Opened) -> (ChainPoint, ChainPoint, Vec<SyncedEvent>) {
    match opened.outcome() {
        Ok(Success::Synced(page)) => {
            let events = page.items.map(|item| item.expect("a valid item")).collect();
            (page.vault, page.cursor, events)
        }
        other => panic!("not a sync: {other:?}"),
    }
}

/// The guard version a success states.
pub fn guard_version(success: &Success) -> u64 {
    match success {
        Success::GuardChanged(changed) => changed.guard,
        Success::Put(done) => done.guard,
        Success::Created(created) => created.put.guard,
        Success::Asserted(asserted) => asserted.guard,
        Success::Synced(page) => page.guard,
        Success::Status(status) => status.guard,
        Success::Audited(page) => page.guard,
    }
}

/// A relying party's algorithm list.
pub fn heapless_algorithms<const N: usize>(ids: &[i32]) -> heapless::Vec<i32, N> {
    heapless::Vec::from_slice(ids).expect("a short list")
}

/// Encodes items one after the other.
pub fn items<T: serde::Serialize>(all: impl Iterator<Item = T>) -> Vec<u8> {
    let mut buffer = vec![0; keyfold_protocol::limits::FRAME];
    all.fold(Vec::new(), |mut bytes, item| {
        let used = wire::encode(&item, &mut buffer).expect("an item");
        bytes.extend_from_slice(&buffer[..used]);
        bytes
    })
}
