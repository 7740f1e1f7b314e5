//! Real cores at the other end of a link, which die when the seed says so. Every comparison of a
//! PIN is written down: a core that settles has compared.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use keyfold_host::azure::{Asking, Endorsements, KeyRelease, Released};
use keyfold_host::enclave::{Connect, Connection};
use keyfold_host::journal::Journal;
use keyfold_protocol::host::{HostReply, HostRequest, KeyWrap};
use keyfold_protocol::wire;
use keyfold_tests::crypto::sha256;
use keyfold_tests::enclave::{Enclave, ROOT, TestPlatform, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::faults::{Chance, Power};

/// Charged guards, sealed, whose PIN a core has compared; with the version the host said.
pub(crate) type Compared = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A core that ran behind some link, and every client's frame that reached it. A host can keep
/// both: its enclaves die when it says so.
pub(crate) struct Kept {
    pub(crate) core: Mutex<Enclave>,
    pub(crate) frames: Mutex<Vec<Vec<u8>>>,
}

/// The latest cores, newest last.
pub(crate) type Cores = Arc<Mutex<VecDeque<Arc<Kept>>>>;

/// A core is over a megabyte.
const CORES: usize = 8;

/// One link of one host.
pub(crate) struct Socket {
    pub(crate) cores: Cores,
    pub(crate) power: Power,
    pub(crate) chance: Chance,
    pub(crate) compared: Compared,
    /// Dies once in so many frames; never where it is none.
    pub(crate) fails: Option<usize>,
}

impl Connect for Socket {
    fn describe(&self) -> String {
        "a core in this process".into()
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        let (host, enclave) = tokio::io::duplex(512 * 1024);
        let seed = sha256(&[&self.chance.below(usize::MAX).to_be_bytes()]);
        let (power, chance) = (self.power.clone(), self.chance.clone());
        let core = Enclave::unconfigured(TestPlatform::seeded(seed));
        let kept = Arc::new(Kept { core: Mutex::new(core), frames: Mutex::default() });
        let mut cores = self.cores.lock().expect("no panic under the lock");
        cores.push_back(kept.clone());
        let surplus = cores.len().saturating_sub(CORES);
        cores.drain(..surplus);
        drop(cores);
        tokio::spawn(serve(kept, enclave, power, chance, self.compared.clone(), self.fails));
        let (reader, writer) = tokio::io::split(host);
        let connection =
            Connection { reader: Box::new(reader), writer: Box::new(writer), process: None };
        Box::pin(std::future::ready(Ok(connection)))
    }
}

async fn serve(
    kept: Arc<Kept>, mut stream: DuplexStream, power: Power, chance: Chance, compared: Compared,
    fails: Option<usize>,
) {
    while let Ok(length) = stream.read_u32_le().await {
        let mut frame = vec![0; length as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        power.step(&chance).await;
        let dies = |chance: &Chance| fails.is_some_and(|times| chance.once_in(times));
        if dies(&chance) {
            return;
        }
        if let Ok(HostRequest::Handle(_)) = wire::decode(&frame) {
            kept.frames.lock().expect("no panic under the lock").push(frame.clone());
        }
        let reply = kept.core.lock().expect("no panic under the lock").call_raw(&frame);
        note(&frame, &reply, &compared);
        if dies(&chance) {
            return;
        }
        let length = u32::try_from(reply.len()).expect("a frame's length");
        let reply = [&length.to_le_bytes()[..], &reply].concat();
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// Writes a comparison down.
pub(crate) fn note(frame: &[u8], reply: &[u8], compared: &Compared) {
    if let (Ok(HostRequest::Settle(settle)), HostReply::Staged(_)) =
        (wire::decode(frame), decode(reply))
    {
        let charged = (settle.guard.version.0, settle.guard.sealed.to_vec());
        compared.lock().expect("no panic under the lock").push(charged);
    }
}

/// The root key, wrapped as the tests' platform unwraps it.
pub(crate) struct TheKey;

impl KeyRelease for TheKey {
    fn endorse<'a>(&'a self, _: &'a [u8], _: bool, _: &'a Journal) -> Asking<'a, Endorsements> {
        let (vcek_chain, uvm_endorsement, mismatch) = (String::new(), None, None);
        let found = Endorsements { vcek_chain, uvm_endorsement, mismatch };
        Box::pin(std::future::ready(Ok(found)))
    }

    fn release<'a>(
        &'a self, _: &'a [u8], _: &'a [u8], _: &'a Endorsements, _: &'a Journal,
    ) -> Asking<'a, Released> {
        let released = Released { wrapped: ROOT.to_vec(), algorithm: KeyWrap::Sha256 };
        Box::pin(std::future::ready(Ok(released)))
    }
}
