//! The core: its phases and the one entry.

use zeroize::{Zeroize, zeroize_stack};

use crate::boot::{self, Configured, Keyed};
use crate::channel::SessionTable;
use crate::guard;
use crate::platform::Platform;
use crate::protocol::*;
use crate::request::{self, Turn};

/// How deep a request's stack may hold secrets, in bytes. Measured at less than 100 KB; a test scans it.
const STACK: usize = 128 * 1024;

/// Largest plaintext of a reply: a full page of a sync.
const REPLY: usize = Class::Sync(0).reply_size(PAGE);

/// The trusted core, one per link. About 1.3 MB, most of it sessions: keep it in a `static` or a box.
pub struct Core<P> {
    platform: P,
    phase: Phase,
    sessions: SessionTable,
    scratch: Scratch,
}

/// Where in its life a core is. Each phase holds what it needs and nothing else.
enum Phase {
    /// Nothing is known yet.
    Booted,
    /// The configuration is fixed; the root key is awaited.
    Configured(Configured),
    /// The root key's one and only arrival lies behind; requests are served.
    Keyed(Keyed),
    /// The release failed and its key is gone. Only a new boot helps.
    Halted,
}

/// Buffers too large for the stack. Plaintext in them is wiped when the request ends.
pub(crate) struct Scratch {
    pub(crate) reply: [u8; REPLY + SEAL_OVERHEAD],
    pub(crate) items: [u8; REPLY],
}

impl<P: Platform> Core<P> {
    /// A core that knows nothing yet.
    pub const fn new(platform: P) -> Self {
        Self {
            platform,
            phase: Phase::Booted,
            sessions: SessionTable::new(),
            scratch: Scratch { reply: [0; REPLY + SEAL_OVERHEAD], items: [0; REPLY] },
        }
    }

    /// Answers one frame: an encoded [`HostRequest`] in, the length of an encoded [`HostReply`]
    /// in `out` back. Any bytes at all are answered; no secret is left in memory below.
    pub fn handle(&mut self, frame: &[u8], out: &mut [u8; FRAME]) -> usize {
        let written = self.answer(frame, out);
        zeroize_stack::<STACK>();
        written
    }

    /// Apart from [`Self::handle`], so that its whole stack lies in what is wiped.
    #[inline(never)]
    fn answer(&mut self, frame: &[u8], out: &mut [u8; FRAME]) -> usize {
        match self.dispatch(frame, out) {
            Ok(written) => written,
            Err(refusal) => reply(out, &HostReply::Refused(refusal)).unwrap_or_default(),
        }
    }

    fn dispatch(&mut self, frame: &[u8], out: &mut [u8; FRAME]) -> Result<usize, HostRefusal> {
        match wire::decode(frame).map_err(|_| HostRefusal::Malformed)? {
            HostRequest::Configure(config) => {
                let Phase::Booted = self.phase else { return Err(HostRefusal::WrongPhase) };
                let configured = Configured::new(config)?;
                let hash = configured.config_hash;
                self.phase = Phase::Configured(configured);
                reply(out, &HostReply::Configured(hash))
            }
            HostRequest::ReleaseClaims => {
                let Phase::Configured(configured) = &self.phase else {
                    return Err(HostRefusal::WrongPhase);
                };
                boot::release_claims(&mut self.platform, configured, out)
            }
            HostRequest::Unlock(unlock) => {
                let Phase::Configured(configured) = &self.phase else {
                    return Err(HostRefusal::WrongPhase);
                };
                let keyed = configured.unlock(&mut self.platform, &mut self.sessions, &unlock);
                // Unless the unwrap succeeded: the release key is spent either way.
                self.phase = Phase::Halted;
                let keyed = keyed?;
                let commitment = keyed.roots.commitment;
                self.phase = Phase::Keyed(keyed);
                reply(out, &HostReply::Unlocked(commitment))
            }
            HostRequest::Evidence => boot::evidence(&mut self.platform, keyed(&self.phase)?, out),
            HostRequest::OpenSession(open) => {
                let session = keyed(&self.phase)?.open_session(&open)?;
                let id = session.id;
                self.sessions.insert(session);
                reply(out, &HostReply::Session(id))
            }
            HostRequest::Handle(handle) => {
                let keyed = keyed(&self.phase)?;
                let session = self.sessions.get(&handle.session);
                let session = session.ok_or(HostRefusal::UnknownSession)?;
                let mut turn =
                    Turn { keyed, session, handle: &handle, platform: &mut self.platform };
                let answered = request::answer(&mut turn, &mut self.scratch, out);
                // Only pages fill it, and wiping it costs more than sealing a reply.
                if matches!(handle.class, Class::Sync(_) | Class::Audit(_)) {
                    self.scratch.items.zeroize();
                }
                answered
            }
            HostRequest::Commit(commit) => {
                guard::commit(keyed(&self.phase)?, &mut self.platform, &commit, out)
            }
            HostRequest::Settle(settle) => {
                let staged = guard::settle(keyed(&self.phase)?, &mut self.platform, &settle)?;
                reply(out, &HostReply::Staged(staged.for_host()))
            }
        }
    }
}

fn keyed(phase: &Phase) -> Result<&Keyed, HostRefusal> {
    if let Phase::Keyed(keyed) = phase { Ok(keyed) } else { Err(HostRefusal::WrongPhase) }
}

/// Encodes the one reply to a frame. The largest fits by the limits' arithmetic.
pub(crate) fn reply(out: &mut [u8; FRAME], reply: &HostReply) -> Result<usize, HostRefusal> {
    wire::encode(reply, out).map_err(|_| HostRefusal::Malformed)
}
