//! An account as the enclave and the host keep it together, without the cryptography.

use std::collections::BTreeMap;

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::*;
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::*;
use keyfold_protocol::limits;
use keyfold_protocol::transcript::{self, Chain};
use keyfold_protocol::wire::{self, Items};

use crate::crypto::{random, sha256};
use crate::deployment::now;

/// An account. Cloned to be rolled back to.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) guard: u64,
    pub(crate) pin: [u8; 32],
    pub(crate) failures: u8,
    /// None: the account has ended.
    pub(crate) devices: Vec<Device>,
    pub(crate) audit: Vec<AuditEvent>,
    pub(crate) anchor: ChainPoint,
    pub(crate) events: Vec<Event>,
    pub(crate) records: BTreeMap<SlotId, (Digest, PasskeyView)>,
}

pub(super) fn id_of(device: &Device) -> DeviceId {
    transcript::device_id(sha256, &device.device_key, &device.uv_key)
}

impl Model {
    pub(super) fn new(account: &Account, enroll: Enroll) -> Self {
        let id = id_of(&enroll.device);
        let mut model = Self {
            guard: 0,
            pin: enroll.pin.0,
            failures: 0,
            devices: vec![enroll.device],
            audit: Vec::new(),
            anchor: Chain::Vault.genesis(sha256, account),
            events: Vec::new(),
            records: BTreeMap::new(),
        };
        model.changed(AuditKind::Enrolled, id, id);
        model
    }

    pub(crate) fn changed(&mut self, kind: AuditKind, actor: DeviceId, subject: DeviceId) {
        self.guard += 1;
        let host_time = now().unwrap().unix_seconds();
        self.audit.push(AuditEvent { version: self.guard, kind, actor, subject, host_time });
    }

    pub(super) fn authorised(
        &self, newcomer: Option<Device>, id: &DeviceId, key: KeyKind, message: &[u8],
        signature: &P256Signature,
    ) -> bool {
        use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
        let mut devices = self.devices.iter().chain(&newcomer);
        let Some(device) = devices.find(|device| id_of(device) == *id) else {
            return false;
        };
        let key = match key {
            KeyKind::Presence => device.device_key.0,
            KeyKind::UserVerification => device.uv_key.0,
        };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
        key.verify(message, &signature.0).is_ok()
    }

    pub(crate) fn point(&self, account: &Account, version: usize) -> ChainPoint {
        let start = Chain::Vault.genesis(sha256, account);
        self.events[..version]
            .iter()
            .fold(start, |point, event| Chain::Vault.next(sha256, &point, event).unwrap())
    }

    pub(crate) fn vault(&self, account: &Account) -> ChainPoint {
        self.point(account, self.events.len())
    }

    pub(super) fn audit_point(&self, account: &Account, version: usize) -> ChainPoint {
        let start = Chain::Audit.genesis(sha256, account);
        self.audit[..version].iter().fold(start, |point, event| {
            let mut buffer = [0; 128];
            let used = wire::encode(event, &mut buffer).unwrap();
            let digest = Digest(sha256(&[b"keyfold/audit-event/1", &buffer[..used]]));
            let (slot, action) = (SlotId([0; 32]), Action::Audit);
            let event = Event { version: event.version, slot, action, digest };
            Chain::Audit.next(sha256, &point, &event).unwrap()
        })
    }

    fn audit_head(&self, account: &Account) -> Digest {
        self.audit_point(account, self.audit.len()).head
    }

    pub(super) fn perform<'a>(
        &mut self, account: &Account, device: DeviceId, key: KeyKind, request: Request,
        page: usize, items: &'a mut Vec<u8>,
    ) -> Outcome<'a> {
        let verified = key == KeyKind::UserVerification;
        match request {
            Request::Enroll(_) => Ok(self.guard_changed(account)),
            Request::ApproveDevice(request) => {
                self.check_base(account, &request.base)?;
                if !verified {
                    return Err(Refusal::UserVerificationRequired);
                }
                let id = id_of(&request.device);
                if self.devices.iter().any(|known| id_of(known) == id) {
                    return Err(Refusal::KnownDevice);
                }
                self.devices.push(request.device);
                self.changed(AuditKind::DeviceAdded, device, id);
                self.anchor = self.vault(account);
                Ok(self.guard_changed(account))
            }
            Request::RevokeDevice(request) => {
                self.check_base(account, &request.base)?;
                if !verified {
                    return Err(Refusal::UserVerificationRequired);
                }
                self.devices.retain(|known| id_of(known) != request.device);
                self.changed(AuditKind::DeviceRevoked, device, request.device);
                self.anchor = self.vault(account);
                Ok(self.guard_changed(account))
            }
            Request::Anchor(base) => {
                self.check_base(account, &base)?;
                self.changed(AuditKind::Anchored, device, device);
                self.anchor = self.vault(account);
                Ok(self.guard_changed(account))
            }
            Request::Touch(point) => {
                let zeros = (SlotId([0; 32]), Digest([0; 32]));
                self.put(account, &point, zeros.0, Action::Touch, zeros.1).map(Success::Put)
            }
            Request::CreatePasskey(request) => self.create(account, request),
            Request::Assert(request) => self.assert(&request, verified),
            Request::UpdatePasskey(request) => {
                let record = self.records.get(&request.slot);
                let (digest, mut view) = record.cloned().ok_or(Refusal::NoSuchPasskey)?;
                if request.vault != self.vault(account) {
                    return Err(Refusal::SyncFirst);
                }
                if digest != request.record {
                    return Err(Refusal::RecordChanged);
                }
                view.names = request.names;
                let digest = Digest(random());
                let done = self.put(account, &request.vault, request.slot, Action::Put, digest)?;
                self.records.insert(request.slot, (digest, view));
                Ok(Success::Put(done))
            }
            Request::DeletePasskey(request) => {
                if !verified {
                    return Err(Refusal::UserVerificationRequired);
                }
                let zeros = Digest([0; 32]);
                let slot = request.slot;
                let done = self.put(account, &request.vault, slot, Action::Delete, zeros)?;
                self.records.remove(&slot);
                Ok(Success::Put(done))
            }
            Request::Sync(from) => self.sync(account, from, page, items),
            Request::Status => Ok(Success::Status(AccountStatus {
                guard: self.guard,
                audit_head: self.audit_head(account),
                anchor: self.anchor,
                vault: self.vault(account),
                devices: self
                    .devices
                    .iter()
                    .map(|device| DeviceView { id: id_of(device), name: device.name.clone() })
                    .collect(),
                failures: self.failures,
            })),
            Request::Audit(from) => self.history(account, from, page, items),
            Request::Recover(request) => self.recover(account, request),
            Request::ChangePin(request) => {
                self.check_base(account, &request.base)?;
                if !verified {
                    return Err(Refusal::UserVerificationRequired);
                }
                (self.pin, self.failures) = (request.pin.0, 0);
                self.changed(AuditKind::PinChanged, device, device);
                self.anchor = self.vault(account);
                Ok(self.guard_changed(account))
            }
            Request::DeleteAccount(base) => {
                self.check_base(account, &base)?;
                if !verified {
                    return Err(Refusal::UserVerificationRequired);
                }
                self.devices.clear();
                self.changed(AuditKind::Deleted, device, device);
                self.anchor = self.vault(account);
                Ok(self.guard_changed(account))
            }
        }
    }

    /// Charge and outcome at once: no client sees what lies between.
    fn recover<'a>(&mut self, account: &Account, request: Recover) -> Outcome<'a> {
        let id = id_of(&request.device);
        if request.guard != self.guard {
            return Err(Refusal::GuardAt(self.guard));
        }
        if self.devices.is_empty() {
            return Err(Refusal::Closed);
        }
        if self.failures >= limits::TRIES {
            return Err(Refusal::Locked);
        }
        let is_known = self.devices.iter().any(|known| id_of(known) == id);
        if is_known || request.device.device_key == request.device.uv_key {
            return Err(Refusal::KnownDevice);
        }
        self.failures += 1;
        self.changed(AuditKind::TryCharged, id, id);
        if request.pin.0 != self.pin {
            self.changed(AuditKind::TryFailed, id, id);
            return Err(Refusal::WrongPin(limits::TRIES - self.failures));
        }
        self.failures = 0;
        self.devices.push(request.device);
        self.changed(AuditKind::Recovered, id, id);
        Ok(self.guard_changed(account))
    }

    fn check_base(&self, account: &Account, base: &GuardBase) -> Result<(), Refusal> {
        if base.guard != self.guard {
            return Err(Refusal::GuardMoved);
        }
        if base.anchor != self.anchor {
            return Err(Refusal::BrokenChain);
        }
        if base.vault == self.vault(account) { Ok(()) } else { Err(Refusal::SyncFirst) }
    }

    fn guard_changed<'a>(&self, account: &Account) -> Success<'a> {
        Success::GuardChanged(GuardChanged {
            guard: self.guard,
            audit_head: self.audit_head(account),
            vault: self.anchor,
        })
    }

    pub(crate) fn put(
        &mut self, account: &Account, named: &ChainPoint, slot: SlotId, action: Action,
        digest: Digest,
    ) -> Result<PutDone, Refusal> {
        if *named != self.vault(account) {
            return Err(Refusal::SyncFirst);
        }
        let event = Event { version: named.version + 1, slot, action, digest };
        self.events.push(event);
        Ok(PutDone { guard: self.guard, event, vault: self.vault(account) })
    }

    fn create<'a>(&mut self, account: &Account, request: CreatePasskey) -> Outcome<'a> {
        let rp_id = request.rp_id.as_bytes();
        let slot = SlotId(sha256(&[b"slot", rp_id, b"/", &request.user_handle]));
        let digest = Digest(random());
        let put = self.put(account, &request.vault, slot, Action::Put, digest)?;
        let algorithm =
            Algorithm::choose(&request.algorithms).ok_or(Refusal::UnsupportedAlgorithm)?;
        let view = PasskeyView {
            credential: CredentialId(random()),
            rp_id: request.rp_id,
            user_handle: request.user_handle,
            names: request.names,
            algorithm,
        };
        let credential = view.credential;
        self.records.insert(slot, (digest, view));
        Ok(Success::Created(Created {
            put,
            credential,
            algorithm,
            authenticator_data: heapless::Vec::new(),
            public_key: heapless::Vec::new(),
            prf: None,
        }))
    }

    fn assert<'a>(&self, request: &Assert, verified: bool) -> Outcome<'a> {
        let mut records = self.records.values();
        let is_it = |view: &PasskeyView| {
            view.credential == request.credential && view.rp_id == request.rp_id
        };
        let (_, view) = records.find(|(_, view)| is_it(view)).ok_or(Refusal::NoSuchPasskey)?;
        let mut data = [0; 37];
        data[..32].copy_from_slice(&sha256(&[view.rp_id.as_bytes()]));
        data[32] = if verified { 0x1d } else { 0x19 };
        Ok(Success::Asserted(Asserted {
            guard: self.guard,
            authenticator_data: Bytes(data),
            signature: heapless::Vec::from_slice(&request.client_data_hash).unwrap(),
            user_handle: view.user_handle.clone(),
            prf: None,
        }))
    }

    fn sync<'a>(
        &self, account: &Account, from: ChainPoint, page: usize, items: &'a mut Vec<u8>,
    ) -> Outcome<'a> {
        let start = usize::try_from(from.version).unwrap();
        if start > self.events.len() {
            return Err(Refusal::StaleVault);
        }
        if from != self.point(account, start) {
            return Err(Refusal::BrokenChain);
        }
        let end = self.events.len().min(start + page);
        for event in &self.events[start..end] {
            let record = self.records.get(&event.slot);
            let record = record.filter(|(digest, _)| *digest == event.digest);
            let passkey = record.map(|(_, view)| view.clone());
            encode(&SyncedEvent { event: *event, passkey }, items);
        }
        let (guard, vault) = (self.guard, self.vault(account));
        let cursor = self.point(account, end);
        Ok(Success::Synced(Synced { guard, vault, cursor, items: Items::new(items) }))
    }

    fn history<'a>(
        &self, account: &Account, from: ChainPoint, page: usize, items: &'a mut Vec<u8>,
    ) -> Outcome<'a> {
        let start = usize::try_from(from.version).unwrap();
        if start > self.audit.len() || from != self.audit_point(account, start) {
            return Err(Refusal::BrokenChain);
        }
        let end = self.audit.len().min(start + page);
        self.audit[start..end].iter().for_each(|event| encode(event, items));
        let audit_head = self.audit_head(account);
        let cursor = self.audit_point(account, end);
        let items = Items::new(items);
        Ok(Success::Audited(Audited { guard: self.guard, audit_head, cursor, items }))
    }
}

fn encode<T: serde::Serialize>(item: &T, items: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    let used = wire::encode(item, &mut buffer).unwrap();
    items.extend_from_slice(&buffer[..used]);
}
