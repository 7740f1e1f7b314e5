//! A host with an enclave behind it, over a model of an account that a test can roll back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes as Body;
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_attestation_policy::signing::{SigningKey, assemble_statement};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::*;
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::*;
use keyfold_protocol::transcript::{self, Chain};
use keyfold_protocol::wire::{self, Items};
use serde_json::{Value, json};

use super::enclave::{CHAIN, Enclave, ROOT};
use super::issuer::{CLIENT, Issuer};
use crate::client::Client;
use crate::crypto::{random, sha256};
use crate::deployment::{Settings, now};
use crate::device::SoftwareKeys;
use crate::identity::DevSignIn;
use crate::store::{AccountState, Store};

/// Called before a request is handled, with the name of its class. `Some` answers in its place.
type Hook = Box<dyn FnMut(&mut State, &str) -> Option<(u16, &'static str)> + Send>;

/// A deployment.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) issuer: Issuer,
    pub(crate) trust_root: TrustRoot,
    shared: Arc<Mutex<State>>,
    directory: tempfile::TempDir,
}

/// What the host and the enclave hold.
pub(crate) struct State {
    pub(crate) enclave: Enclave,
    pub(crate) accounts: BTreeMap<Account, Model>,
    pub(crate) document: Value,
    /// Mailboxes, by path.
    pub(crate) mailboxes: BTreeMap<String, Vec<u8>>,
    pub(crate) hook: Option<Hook>,
    /// Changes a success before it is sealed: what only a wrong core could say.
    pub(crate) edit: Option<Box<dyn FnMut(&mut Success) + Send>>,
    /// Changes a sealed reply on its way; `None` loses it.
    pub(crate) relay: Option<Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>> + Send>>,
    /// Names of the classes handled, and "session" for each session opened.
    pub(crate) log: Vec<String>,
    pub(crate) page: usize,
    /// What the enclave refuses everything with.
    pub(crate) refuse: Option<Refusal>,
    /// The highest guard version the last request was signed with.
    pub(crate) guard_seen: u64,
}

/// An account. Cloned to be rolled back to.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) guard: u64,
    pub(crate) devices: Vec<Device>,
    pub(crate) audit: Vec<AuditEvent>,
    pub(crate) anchor: ChainPoint,
    pub(crate) events: Vec<Event>,
    pub(crate) records: BTreeMap<SlotId, (Digest, PasskeyView)>,
}

/// The name of a class, without its argument.
fn class_name(class: Class) -> String {
    let text = format!("{class:?}").to_lowercase();
    text.split('(').next().unwrap().to_owned()
}

impl World {
    pub(crate) async fn start() -> Self {
        let issuer = Issuer::start().await;
        let enclave = Enclave::boot();
        let shared = Arc::new(Mutex::new(State {
            enclave,
            accounts: BTreeMap::new(),
            document: Value::Null,
            mailboxes: BTreeMap::new(),
            hook: None,
            edit: None,
            relay: None,
            log: Vec::new(),
            page: 64,
            refuse: None,
            guard_seen: 0,
        }));
        let router = Router::new()
            .route("/v1/deployment", get(deployment))
            .route("/v1/sessions", post(open_session))
            .route("/v1/sessions/{id}/requests", post(request))
            .route("/v1/pairings/{id}/{mailbox}", put(put_pairing).get(get_pairing))
            .with_state(shared.clone());
        let url = super::serve(router).await;
        let signer = signer();
        let trust_root = TrustRoot::new(1, 1, vec![signer.public_key()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let world = Self { url, issuer, trust_root, shared, directory };
        world.serve_statement(|_| {});
        world.reboot();
        world
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }

    /// Another boot of the enclave: new channel key, no sessions.
    pub(crate) fn reboot(&self) {
        let mut state = self.state();
        state.enclave = Enclave::boot();
        let claims = state.enclave.claims();
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        state.document["enclaves"] = json!([{
            "channel_key": encode(&state.enclave.channel_key()),
            "claims": encode(&claims),
            "report": encode(&Enclave::report(&claims)),
            "vcek_chain": CHAIN,
        }]);
    }

    /// Signs and serves a statement, changed by `edit`.
    pub(crate) fn serve_statement(&self, edit: impl FnOnce(&mut Value)) {
        let now = now().unwrap().unix_seconds();
        let time = |seconds| {
            let time = keyfold_attestation_policy::values::Timestamp::from_unix_seconds(seconds);
            serde_json::to_value(time.unwrap()).unwrap()
        };
        let mut statement = json!({
            "name": "test", "serial": 7, "issued": time(now - 60), "expires": time(now + 86_400),
            "url": self.url,
            "identity": {"issuer": self.issuer.url, "client_id": CLIENT, "audience": CLIENT},
            "config": "11".repeat(32), "root": hex::encode(ROOT),
            "workloads": [serde_json::to_value(Enclave::workload()).unwrap()],
        });
        edit(&mut statement);
        let payload = serde_json::to_vec(&statement).unwrap();
        let signature = signer().sign_statement(&payload).unwrap();
        let signed = assemble_statement(&payload, vec![signature], &self.trust_root).unwrap();
        self.state().document["statement"] = String::from_utf8(signed).unwrap().into();
    }

    pub(crate) fn settings(&self) -> Settings {
        let (url, trust_root) = (self.url.clone(), self.trust_root.clone());
        Settings { url, trust_root, minimum_serial: 1 }
    }

    pub(crate) fn store(&self, directory: &str) -> Store {
        Store::open(self.directory.path().join(directory)).unwrap()
    }

    /// A new device, its keys in memory, its state in `directory`.
    pub(crate) fn client(&self, directory: &str, username: &str) -> Client {
        self.client_with(directory, username, Arc::new(SoftwareKeys::generate()))
    }

    pub(crate) fn client_with(
        &self,
        directory: &str,
        username: &str,
        keys: Arc<SoftwareKeys>,
    ) -> Client {
        let source = Arc::new(DevSignIn::new(username).unwrap());
        Client::new(self.settings(), self.store(directory), keys, source).unwrap()
    }

    /// Ana's laptop, registered without the tenth of a second that stretching a PIN takes.
    pub(crate) fn enrolled(&self, keys: Arc<SoftwareKeys>) -> Client {
        let client = self.client_with("laptop", "ana", keys);
        let id = transcript::account_id(sha256, &self.issuer.url, "subject of ana");
        let account = Account { id, generation: 1 };
        let device = client.device("laptop".try_into().unwrap());
        let model = Model::new(&account, device.clone());
        let mut state = AccountState::new(account, id_of(&device), device.name);
        state.registered = true;
        state.guard_seen = 1;
        state.audit = model.audit_point(&account, 1);
        state.anchor_tried = now().unwrap().unix_seconds();
        self.state().accounts.insert(account, model);
        let known = |to: &mut crate::store::State| {
            to.account = Some(state);
            Ok::<_, crate::Error>(())
        };
        client.store().update(known).unwrap();
        client
    }

    /// The first account.
    pub(crate) fn with_account<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        change(self.state().accounts.values_mut().next().unwrap())
    }

    /// What was logged since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// From now on, before every request.
    pub(crate) fn hook(
        &self,
        hook: impl FnMut(&mut State, &str) -> Option<(u16, &'static str)> + Send + 'static,
    ) {
        self.state().hook = Some(Box::new(hook));
    }
}

/// One offline key, the same every time.
fn signer() -> SigningKey {
    let mut pkcs8 = hex::decode("302e020100300506032b657004220420").unwrap();
    pkcs8.extend([0x42; 32]);
    SigningKey::from_pkcs8(&pkcs8).unwrap()
}

type Shared = Extract<Arc<Mutex<State>>>;

async fn deployment(Extract(shared): Shared) -> Json<Value> {
    let mut state = shared.lock().unwrap();
    state.log.push("deployment".into());
    Json(state.document.clone())
}

async fn open_session(Extract(shared): Shared, headers: HeaderMap, body: Body) -> Response {
    let mut state = shared.lock().unwrap();
    state.log.push("session".into());
    if let Some(refused) = run_hook(&mut state, "session") {
        return refused;
    }
    if person(&headers).is_none() {
        return problem(401, "sign-in-required");
    }
    if !state.enclave.is_for(&body) {
        return problem(409, "channel-key-unknown");
    }
    let id = state.enclave.open_session(&body);
    (StatusCode::CREATED, Json(json!({"session": id.to_string()}))).into_response()
}

async fn request(
    Extract(shared): Shared,
    Path(session): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut state = shared.lock().unwrap();
    let envelope: Envelope = wire::decode(&body).unwrap();
    let class = class_name(envelope.class);
    state.log.push(class.clone());
    if let Some(refused) = run_hook(&mut state, &class) {
        return refused;
    }
    let session = SessionId(hex::decode(session).unwrap().try_into().unwrap());
    match person(&headers) {
        None => return problem(401, "sign-in-required"),
        Some(person) if person != envelope.account.id => return problem(403, "account-mismatch"),
        Some(_) => {}
    }
    if !state.enclave.knows(&session) {
        return problem(409, "session-unknown");
    }
    if envelope.class != Class::Enroll && !state.accounts.contains_key(&envelope.account) {
        return problem(404, "account-unknown");
    }
    if envelope.class == Class::Enroll && state.accounts.contains_key(&envelope.account) {
        return problem(409, "guard-moved");
    }
    let sealed = handle(&mut state, &session, &envelope);
    let sealed = match &mut state.relay {
        Some(relay) => relay(sealed),
        None => Some(sealed),
    };
    match sealed {
        Some(sealed) => sealed.into_response(),
        None => problem(500, "lost"),
    }
}

fn run_hook(state: &mut State, name: &str) -> Option<Response> {
    let mut hook = state.hook.take()?;
    let answer = hook(state, name);
    // A hook may have put another in its place.
    state.hook.get_or_insert(hook);
    answer.map(|(status, name)| problem(status, name))
}

fn problem(status: u16, name: &str) -> Response {
    let body = json!({"type": format!("/problems/{name}"), "title": name, "status": status,
        "detail": "do something", "instance": "r-1"});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

/// Whose bearer token it is. The host's checks of it are not this crate's to test.
fn person(headers: &HeaderMap) -> Option<AccountId> {
    let token = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let (issuer, subject) = (claims["iss"].as_str()?, claims["sub"].as_str()?);
    Some(transcript::account_id(sha256, issuer, subject))
}

async fn put_pairing(
    Extract(shared): Shared,
    Path((id, mailbox)): Path<(String, String)>,
    body: Body,
) -> Response {
    let mut state = shared.lock().unwrap();
    let path = format!("{id}/{mailbox}");
    if state.mailboxes.contains_key(&path) {
        return problem(409, "pairing-used");
    }
    state.mailboxes.insert(path, body.to_vec());
    StatusCode::NO_CONTENT.into_response()
}

async fn get_pairing(
    Extract(shared): Shared,
    Path((id, mailbox)): Path<(String, String)>,
) -> Response {
    let state = shared.lock().unwrap();
    match state.mailboxes.get(&format!("{id}/{mailbox}")) {
        Some(message) => message.clone().into_response(),
        None => problem(404, "pairing-empty"),
    }
}

/// The core, as far as clients can tell.
fn handle(state: &mut State, session: &SessionId, envelope: &Envelope) -> Vec<u8> {
    let State { enclave, accounts, edit, page, refuse, .. } = state;
    let Envelope { account, counter, class, frame } = *envelope;
    let opened = enclave.open_request(session, &account, counter, frame).unwrap();
    let signed: SignedRequest = wire::decode_padded(&opened).unwrap();
    let request: Request = wire::decode(signed.request).unwrap();
    assert!(request.matches(class), "{request:?} under {class:?}");
    let mut items = Vec::new();
    state.guard_seen = signed.guard_seen;
    if let Request::Enroll(enroll) = &request {
        accounts.insert(account, Model::new(&account, enroll.device.clone()));
    }
    let model = accounts.get_mut(&account).unwrap();
    let binding = enclave.binding(session);
    let (device, key, guard_seen) = (signed.device, signed.key, signed.guard_seen);
    let context = transcript::SignedContext {
        binding: &binding,
        counter,
        account: &account,
        key,
        guard_seen,
    };
    let message = transcript::signed_bytes(sha256, &context, signed.request);
    let mut outcome = match model.authorised(&device, key, &message, &signed.signature) {
        _ if refuse.is_some() => Err(refuse.take().unwrap_or(Refusal::Malformed)),
        true => model.perform(&account, device, key, request, *page, &mut items),
        false => Err(Refusal::Unauthorised),
    };
    if let (Ok(success), Some(edit)) = (&mut outcome, edit) {
        edit(success);
    }
    enclave.seal_reply(session, frame, &outcome, class.reply_size(*page))
}

fn id_of(device: &Device) -> DeviceId {
    transcript::device_id(sha256, &device.device_key, &device.uv_key)
}

impl Model {
    fn new(account: &Account, device: Device) -> Self {
        let id = id_of(&device);
        let mut model = Self {
            guard: 0,
            devices: vec![device],
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

    fn authorised(
        &self,
        id: &DeviceId,
        key: KeyKind,
        message: &[u8],
        signature: &P256Signature,
    ) -> bool {
        use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
        let Some(device) = self.devices.iter().find(|device| id_of(device) == *id) else {
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

    fn audit_point(&self, account: &Account, version: usize) -> ChainPoint {
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

    fn perform<'a>(
        &mut self,
        account: &Account,
        device: DeviceId,
        key: KeyKind,
        request: Request,
        page: usize,
        items: &'a mut Vec<u8>,
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
            })),
            Request::Audit(from) => self.history(account, from, page, items),
        }
    }

    fn check_base(&self, account: &Account, base: &GuardBase) -> Result<(), Refusal> {
        if base.guard != self.guard {
            return Err(Refusal::GuardMoved);
        }
        if base.vault == self.vault(account) { Ok(()) } else { Err(Refusal::SyncFirst) }
    }

    fn guard_changed<'a>(&self, account: &Account) -> Success<'a> {
        Success::GuardChanged(GuardChanged {
            guard: self.guard,
            audit_head: self.audit_head(account),
            vault: self.vault(account),
        })
    }

    pub(crate) fn put(
        &mut self,
        account: &Account,
        named: &ChainPoint,
        slot: SlotId,
        action: Action,
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
        &self,
        account: &Account,
        from: ChainPoint,
        page: usize,
        items: &'a mut Vec<u8>,
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
        &self,
        account: &Account,
        from: ChainPoint,
        page: usize,
        items: &'a mut Vec<u8>,
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
