//! Whoever talks to a host: a device, its session, and what it hears.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfold_host::clock::unix_now;
use keyfold_host::identity::Person;
use keyfold_host::problem::{Kind, Problem};
use keyfold_protocol::client::{
    AccountStatus, Class, Envelope, GuardChanged, KeyKind, Outcome, Refusal, Request, Success,
};
use keyfold_protocol::ids::{Account, AccountId, SessionId};
use keyfold_protocol::limits;
use keyfold_protocol::wire;
use keyfold_tests::device::{Session, TestDevice};
use keyfold_tests::world::guard_version;

use crate::host::Host;

/// How long somebody waits, by the run's clock.
const PATIENCE: Duration = Duration::from_secs(90);

/// Every envelope that anybody posted, with the session it was for.
pub(crate) type Envelopes = Arc<Mutex<Vec<(AccountId, SessionId, Vec<u8>)>>>;

/// A device with whoever holds it.
pub(crate) struct Somebody {
    pub(crate) device: TestDevice,
    pub(crate) account: Account,
    session: Option<Session>,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Heard {
    Changed(GuardChanged),
    Status(Box<AccountStatus>),
    Done,
    Refused(Refusal),
    Problem(Kind),
    /// No answer at all.
    Nothing,
}

impl Somebody {
    pub(crate) fn new(name: &str, account: Account) -> Self {
        Self { device: TestDevice::new(name), account, session: None }
    }

    /// Asks a host, and again where only the session was gone.
    pub(crate) async fn ask(
        &mut self, host: &Host, request: &Request, key: KeyKind, class: Class,
    ) -> Heard {
        for _ in 0..4 {
            let once = self.once(host, request, key, class);
            match tokio::time::timeout(PATIENCE, once).await {
                Err(_) => return Heard::Nothing,
                Ok(Ok(heard)) => return heard,
                Ok(Err(problem)) => match problem.kind {
                    Kind::SessionUnknown | Kind::ChannelKeyUnknown => self.session = None,
                    kind => return Heard::Problem(kind),
                },
            }
        }
        Heard::Problem(Kind::SessionUnknown)
    }

    async fn once(
        &mut self, host: &Host, request: &Request, key: KeyKind, class: Class,
    ) -> Result<Heard, Problem> {
        let person = signed_in(self.account.id);
        if self.session.is_none() {
            self.session = Some(open(host, &person).await?);
        }
        let session = self.session.as_mut().expect("just opened");
        let sent = session.seal(&self.device, key, &self.account, request);
        let id: SessionId = session.id;
        let envelope =
            Envelope { account: self.account, counter: sent.counter, class, frame: &sent.frame };
        let mut body = vec![0; limits::REQUEST + 256];
        let used = wire::encode(&envelope, &mut body).expect("an envelope");
        body.truncate(used);
        let posted = (person.id, id, body.clone());
        host.envelopes.lock().expect("no panic under the lock").push(posted);
        let sealed = host.service.request(person, id, body.into()).await?;
        let opened = sent.open(&sealed).expect("a reply of this frame");
        let outcome: Outcome = wire::decode_padded(&opened).expect("an outcome");
        Ok(match outcome {
            Err(refusal) => Heard::Refused(refusal),
            Ok(success) => {
                let version = guard_version(&success);
                assert!(version >= self.device.guard_seen, "an older guard was accepted");
                self.device.guard_seen = version;
                match success {
                    Success::GuardChanged(changed) => Heard::Changed(changed),
                    Success::Status(status) => Heard::Status(Box::new(status)),
                    _ => Heard::Done,
                }
            }
        })
    }

    /// Reads the account, confirmed by the ledger.
    pub(crate) async fn status(&mut self, host: &Host) -> Heard {
        self.ask(host, &Request::Status, KeyKind::Presence, Class::Status).await
    }
}

/// Somebody who has just signed in, or whom the host takes for it.
fn signed_in(id: AccountId) -> Person {
    Person { id, auth_time: Some(unix_now()), valid_until: u64::MAX }
}

/// Posts an envelope that somebody else has posted before; the answer is nobody's here to open.
pub(crate) async fn post_again(
    host: &Host, (id, session, body): (AccountId, SessionId, Vec<u8>),
) -> Result<(), Kind> {
    let posted = host.service.request(signed_in(id), session, body.into());
    match tokio::time::timeout(PATIENCE, posted).await {
        Ok(answer) => answer.map(drop).map_err(|problem| problem.kind),
        Err(_) => Err(Kind::Internal),
    }
}

async fn open(host: &Host, person: &Person) -> Result<Session, Problem> {
    let live = host.service.parts().links.any().ok_or(Kind::EnclaveStarting)?;
    let booted = live.booted();
    let session = Session::open(&booted.config_hash, &booted.channel_key);
    let body = [&booted.channel_key_id.0[..], &session.enc].concat();
    let id = host.service.open_session(person, &body).await?;
    assert_eq!(id, session.id);
    Ok(session)
}
