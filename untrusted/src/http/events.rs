//! Server-sent events: "your account changed", for clients that then sync.

use super::{App, Caller};
use crate::identity::Person;
use crate::problem::{Kind, Problem};
use crate::storage::Heads;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Streams per person.
const STREAMS: usize = 32;
/// Other hosts' writes show at least this often.
const LOOK: Duration = Duration::from_secs(5);

/// Where a stream stands. Dropped with it.
struct Listener {
    app: Arc<App>,
    person: Person,
    changed: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
    told: Option<Option<Heads>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.app.metrics.event_streams.add(-1);
    }
}

pub(super) async fn stream(
    State(app): State<Arc<App>>, Caller(person): Caller,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let changed = app.service.changes.subscribe(&person.id, STREAMS);
    let changed = changed.ok_or_else(|| {
        Kind::RateLimited.because(format!("{STREAMS} event streams are open for this account"))
    })?;
    app.metrics.event_streams.add(1);
    let stopping = app.stopping.clone();
    let listener = Listener { app, person, changed, stopping, told: None };
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(unfold(listener, next)).keep_alive(keep_alive))
}

/// Waits until the account stands elsewhere than last told; first, tells where it stands.
async fn next(mut listener: Listener) -> Option<(Result<Event, Infallible>, Listener)> {
    loop {
        if *listener.stopping.borrow() {
            return None;
        }
        listener.changed.mark_unchanged();
        // A storage that fails now may work at the next look.
        if let Ok(heads) = listener.app.service.heads(listener.person.id).await
            && listener.told != Some(heads)
        {
            listener.told = Some(heads);
            let (guard, vault) = heads.map_or((0, 0), |heads| (heads.guard, heads.vault));
            let data = format!(r#"{{"guard":{guard},"vault":{vault}}}"#);
            let event = Event::default().event("account-changed").data(data);
            return Some((Ok(event), listener));
        }
        tokio::select! {
            _ = listener.changed.changed() => {}
            _ = listener.stopping.wait_for(|stopping| *stopping) => return None,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
