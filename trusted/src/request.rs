//! A client's request: open the frame, establish who is asking and on what guard, do it, seal the
//! answer.

use crate::boot::Keyed;
use crate::channel::Session;
use crate::core::{Scratch, reply};
use crate::crypto::{Failed, aead_open, p256_verify, sha256};
use crate::guard::{self, Edit, Guard, StagedWrite};
use crate::passkey;
use crate::platform::Platform;
use crate::protocol::*;
use crate::receipt::{self, Entry, FreshlyRead};
use crate::seal::{self, seal_into};
use crate::sync;
use crate::vault::{self, Change};

/// Everything one request may look at.
pub(crate) struct Turn<'a, P> {
    pub(crate) keyed: &'a Keyed,
    pub(crate) session: &'a Session,
    pub(crate) handle: &'a Handle<'a>,
    pub(crate) platform: &'a mut P,
}

/// What a request comes to.
pub(crate) enum Answer<'a> {
    /// Nothing to write.
    Read(Success<'a>),
    /// One event to write first.
    Put(Success<'a>, PutWrite),
    /// A guard for the ledger; the answer comes at its commit.
    Staged(StagedWrite),
}

/// One put, sealed for the host to store.
pub(crate) struct PutWrite {
    pub(crate) guard: u64,
    pub(crate) event: Event,
    pub(crate) vault: [u8; seal::VAULT],
    pub(crate) record: Option<[u8; seal::RECORD]>,
    pub(crate) only_if_empty: bool,
}

/// Why a request came to nothing: the client's business, sealed, or the host's.
pub(crate) enum Stop {
    Refuse(Refusal),
    Fail(HostRefusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

impl From<HostRefusal> for Stop {
    fn from(refusal: HostRefusal) -> Self {
        Self::Fail(refusal)
    }
}

/// Sealing and key generation fail only for want of randomness.
impl From<Failed> for Stop {
    fn from(_: Failed) -> Self {
        Self::Fail(HostRefusal::Platform)
    }
}

/// Answers a request and encodes the reply for the host.
pub(crate) fn answer<P: Platform>(
    turn: &mut Turn<P>, scratch: &mut Scratch, out: &mut [u8; FRAME],
) -> Result<usize, HostRefusal> {
    // 1. The frame, under the session's request key.
    let mut buffer = [0; REQUEST];
    let signed = open_frame(turn, &mut buffer)?;

    // 2. The answer.
    let items = attached_items(turn.handle)?;
    let (outcome, put): (Outcome, _) = match perform(turn, &signed, &mut scratch.items) {
        Ok(Answer::Staged(write)) => return reply(out, &HostReply::Staged(write.for_host())),
        Ok(Answer::Read(success)) => (Ok(success), None),
        Ok(Answer::Put(success, write)) => (Ok(success), Some(write)),
        Err(Stop::Refuse(refusal)) => (Err(refusal), None),
        Err(Stop::Fail(refusal)) => return Err(refusal),
    };

    // 3. Sealed for this frame's sender alone; one size per class, whatever came of it.
    let size = turn.handle.class.reply_size(items).saturating_add(SEAL_OVERHEAD);
    let sealed = scratch.reply.get_mut(..size).ok_or(HostRefusal::Malformed)?;
    let reply_key = turn.session.reply_key(turn.handle.frame);
    seal_into(turn.platform, &reply_key, REPLY_SEAL, &[], &outcome, sealed)?;
    if outcome == Err(Refusal::Locked) {
        return reply(out, &HostReply::Locked(sealed));
    }
    let put = put.as_ref().map(PutWrite::for_host);
    reply(out, &HostReply::Reply(Reply { sealed, put }))
}

impl PutWrite {
    fn for_host(&self) -> Put<'_> {
        let Self { guard, event, ref vault, ref record, only_if_empty } = *self;
        let record = record.as_ref().map(|record| &record[..]);
        Put { guard, event, vault, record, only_if_empty }
    }
}

fn open_frame<'a, P>(
    turn: &Turn<P>, buffer: &'a mut [u8; REQUEST],
) -> Result<SignedRequest<'a>, HostRefusal> {
    let frame = turn.handle.frame;
    let sealed = buffer.get_mut(..frame.len()).ok_or(HostRefusal::Malformed)?;
    sealed.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
    let nonce = request_nonce(turn.handle.counter);
    let aad = request_aad(&turn.session.id, &turn.handle.account);
    let plaintext = aead_open(&turn.session.request_key, nonce, &aad, sealed);
    let plaintext = plaintext.map_err(|_| HostRefusal::Frame)?;
    // A client that does not pad tells the host what it asks for: it never gets to work.
    if !plaintext.len().is_multiple_of(REQUEST_STEP) {
        return Err(HostRefusal::Frame);
    }
    wire::decode_padded(plaintext).map_err(|_| HostRefusal::Frame)
}

fn attached_items(handle: &Handle) -> Result<usize, HostRefusal> {
    let items = match handle.class {
        Class::Sync(_) => handle.events.count(),
        Class::Audit(_) => handle.audit.count(),
        _ => 0,
    };
    if items <= PAGE { Ok(items) } else { Err(HostRefusal::Malformed) }
}

/// The one match over what clients can ask for.
fn perform<'a, P: Platform>(
    turn: &mut Turn<P>, signed: &SignedRequest, items: &'a mut [u8],
) -> Result<Answer<'a>, Stop> {
    let request: Request = wire::decode(signed.request).map_err(|_| Refusal::Malformed)?;
    if !request.matches(turn.handle.class) {
        return Err(Refusal::Malformed.into());
    }
    // Signed by a device that is not registered yet.
    let request = match request {
        Request::Enroll(request) => {
            let first = new_device(turn, signed, &request.device)?;
            return guard::enroll(turn, first, &request).map(Answer::Staged);
        }
        Request::Recover(request) => {
            let device = new_device(turn, signed, &request.device)?;
            return guard::charge(turn, device, signed.guard_seen, request).map(Answer::Staged);
        }
        other => other,
    };
    let caller = authenticate(turn, signed)?;
    let (base, edit) = match request {
        // Answered above.
        Request::Enroll(_) | Request::Recover(_) => return Err(Refusal::Malformed.into()),
        Request::ApproveDevice(ApproveDevice { base, device }) => {
            (base, Edit::Add(device, caller.user_verified()?))
        }
        Request::RevokeDevice(RevokeDevice { base, device }) => {
            (base, Edit::Remove(device, caller.user_verified()?))
        }
        Request::ChangePin(ChangePin { base, pin }) => {
            (base, Edit::ChangePin(pin, caller.user_verified()?))
        }
        Request::DeleteAccount(base) => (base, Edit::Close(caller.user_verified()?)),
        Request::Anchor(base) => (base, Edit::Anchor),
        Request::Touch(named) => return put(turn, &caller, &named, &Change::Touch),
        Request::DeletePasskey(DeletePasskey { vault, slot }) => {
            let change = Change::Delete(slot, caller.user_verified()?);
            return put(turn, &caller, &vault, &change);
        }
        Request::CreatePasskey(request) => {
            let (created, write) = passkey::create(turn, &caller, &request)?;
            return Ok(Answer::Put(Success::Created(created), write));
        }
        Request::UpdatePasskey(request) => {
            let (vault, slot) = (request.vault, request.slot);
            let record = passkey::rename(turn, &caller, request)?;
            return put(turn, &caller, &vault, &Change::Update(slot, &record));
        }
        Request::Assert(request) => {
            let asserted = passkey::assert(turn, &caller, &request)?;
            return Ok(Answer::Read(Success::Asserted(asserted)));
        }
        Request::Sync(from) => {
            let page = sync::vault_page(turn, &caller, &from, items)?;
            return Ok(Answer::Read(Success::Synced(page)));
        }
        Request::Status => return Ok(Answer::Read(Success::Status(guard::status(turn, &caller)?))),
        Request::Audit(from) => {
            let page = sync::audit_page(turn, &caller, &from, items)?;
            return Ok(Answer::Read(Success::Audited(page)));
        }
    };
    guard::change(turn, caller, &base, edit).map(Answer::Staged)
}

/// A put that answers with nothing but where the vault stands.
fn put<'a, P: Platform>(
    turn: &mut Turn<P>, caller: &Caller, named: &ChainPoint, change: &Change,
) -> Result<Answer<'a>, Stop> {
    let (done, write) = vault::put(turn, caller, named, change)?;
    Ok(Answer::Put(Success::Put(done), write))
}

/// A registered device that signed this request, in this session, for this account; and the live
/// guard it is registered in. Nothing of an account is read or changed without one.
pub(crate) struct Caller {
    device: DeviceId,
    key: KeyKind,
    guard: Guard,
    fresh: Option<FreshlyRead>,
}

/// The caller signed with the key that its device releases to a verified user only.
pub(crate) struct UserVerified(());

/// The device that is to be registered has signed the request itself.
pub(crate) struct NewDevice(DeviceId);

impl Caller {
    pub(crate) const fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(crate) fn into_parts(self) -> (DeviceId, Guard) {
        (self.device, self.guard)
    }

    pub(crate) fn user_verified(&self) -> Result<UserVerified, Refusal> {
        match self.key {
            KeyKind::UserVerification => Ok(UserVerified(())),
            KeyKind::Presence => Err(Refusal::UserVerificationRequired),
        }
    }

    /// The guard, if the ledger has confirmed it after this very request was made.
    pub(crate) fn confirmed_guard(&self) -> Result<&Guard, Refusal> {
        match self.fresh {
            Some(FreshlyRead { .. }) => Ok(&self.guard),
            None => Err(Refusal::NotFresh),
        }
    }
}

impl NewDevice {
    pub(crate) const fn id(&self) -> DeviceId {
        self.0
    }
}

fn authenticate<P>(turn: &Turn<P>, signed: &SignedRequest) -> Result<Caller, Stop> {
    let guard = guard::open_live(turn, signed.guard_seen)?;
    let device = guard.device(&signed.device).ok_or(Refusal::Unauthorised)?;
    let key = match signed.key {
        KeyKind::Presence => &device.device_key,
        KeyKind::UserVerification => &device.uv_key,
    };
    check_signature(turn, signed, key)?;
    let fresh = fresh_read(turn, &guard)?;
    Ok(Caller { device: signed.device, key: signed.key, guard, fresh })
}

fn new_device<P>(
    turn: &Turn<P>, signed: &SignedRequest, device: &Device,
) -> Result<NewDevice, Refusal> {
    let id = device_id(sha256, &device.device_key, &device.uv_key);
    if signed.device != id || signed.key != KeyKind::Presence {
        return Err(Refusal::Unauthorised);
    }
    check_signature(turn, signed, &device.device_key).map(|()| NewDevice(id))
}

fn check_signature<P>(
    turn: &Turn<P>, signed: &SignedRequest, key: &P256PublicKey,
) -> Result<(), Refusal> {
    let context = SignedContext {
        binding: turn.session.binding.expose(),
        counter: turn.handle.counter,
        account: &turn.handle.account,
        key: signed.key,
        guard_seen: signed.guard_seen,
    };
    let message = signed_bytes(sha256, &context, signed.request);
    p256_verify(key, &message, &signed.signature).map_err(|Failed| Refusal::Unauthorised)
}

/// The proof that the ledger stood at this guard after this very frame was made, where the host
/// attached one; its absence is refused here if the configuration demands it of every request.
pub(crate) fn fresh_read<P>(turn: &Turn<P>, guard: &Guard) -> Result<Option<FreshlyRead>, Stop> {
    let config = &turn.keyed.config;
    let Some(receipt) = turn.handle.fresh else {
        return match config.fresh_read {
            FreshRead::Always => Err(Refusal::NotFresh.into()),
            FreshRead::Reports => Ok(None),
        };
    };
    let account: &Account = &turn.handle.account;
    let tag = turn.keyed.tag(account);
    let digest = guard.digest(account)?;
    let entry = Entry { tag: &tag, version: guard.version(), guard: &digest };
    let nonce = sha256(&[turn.handle.frame]);
    match receipt::fresh(config, nonce, &entry, receipt) {
        Ok(fresh) => Ok(Some(fresh)),
        Err(Failed) => Err(Refusal::NotFresh.into()),
    }
}
