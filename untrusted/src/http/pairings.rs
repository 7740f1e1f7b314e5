//! Mailboxes for device approval: two sides, each written once, gone after ten minutes.
//!
//! What is in them is authenticated between the devices under a secret this host never sees. They live
//! in memory: a pairing runs through one host, and a restart only costs the user another attempt.

use super::{App, Caller, arrive, hex_id};
use crate::problem::{Kind, Problem};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use keyfold_protocol::ids::AccountId;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Largest message.
const MESSAGE: usize = 4096;
/// How long a message stays.
const KEPT: Duration = Duration::from_secs(600);
/// Longest wait for one.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// Messages of one person.
const PER_PERSON: usize = 16;
/// Messages in all: 64 MiB at most.
const IN_ALL: usize = 16_384;

/// Which of a pairing's two messages, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    person: AccountId,
    pairing: [u8; 16],
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Offer,
    Answer,
}

/// All mailboxes of this host.
#[derive(Default)]
pub struct Mailboxes {
    messages: Mutex<HashMap<Key, (Instant, Bytes)>>,
    written: Notify,
}

impl Mailboxes {
    /// Writes once. The same message again is not an error: an answer may have been lost.
    fn write(&self, key: Key, message: Bytes, now: Instant) -> Result<(), Problem> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.retain(|_, (written, _)| now.saturating_duration_since(*written) < KEPT);
        if let Some((_, there)) = messages.get(&key) {
            return if *there == message { Ok(()) } else { Err(Kind::PairingTaken.into()) };
        }
        let own = messages.keys().filter(|other| other.person == key.person).count();
        if own >= PER_PERSON || messages.len() >= IN_ALL {
            return Err(Problem {
                retry_after: Some(KEPT.as_secs()),
                ..Kind::RateLimited.because("Too many pairings are under way")
            });
        }
        messages.insert(key, (now, message));
        self.written.notify_waiters();
        Ok(())
    }

    fn read(&self, key: &Key, now: Instant) -> Option<Bytes> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let (written, message) = messages.get(key)?;
        (now.saturating_duration_since(*written) < KEPT).then(|| message.clone())
    }

    async fn wait(&self, key: &Key) -> Bytes {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            // Listening starts before looking, so that nothing falls between.
            written.as_mut().enable();
            if let Some(message) = self.read(key, Instant::now()) {
                return message;
            }
            written.await;
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: u64,
}

pub(super) async fn write(
    State(app): State<Arc<App>>, Path((pairing, side)): Path<(String, String)>,
    Caller(person): Caller, body: Body,
) -> Result<StatusCode, Problem> {
    let key = key(person.id, &pairing, &side)?;
    let message = arrive(&app, body, MESSAGE).await?;
    app.mailboxes.write(key, message, Instant::now())?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn read(
    State(app): State<Arc<App>>, Path((pairing, side)): Path<(String, String)>,
    Query(Wait { wait }): Query<Wait>, Caller(person): Caller,
) -> Result<Response, Problem> {
    let key = key(person.id, &pairing, &side)?;
    let mut stopping = app.stopping.clone();
    let wait = Duration::from_secs(wait).min(LONGEST_WAIT);
    let message = tokio::select! {
        biased;
        message = app.mailboxes.wait(&key) => message,
        () = tokio::time::sleep(wait) => return Err(Kind::PairingEmpty.into()),
        _ = stopping.wait_for(|stopping| *stopping) => return Err(Kind::PairingEmpty.into()),
    };
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, message).into_response())
}

fn key(person: AccountId, pairing: &str, side: &str) -> Result<Key, Problem> {
    let side = match side {
        "offer" => Side::Offer,
        "answer" => Side::Answer,
        _ => return Err(Kind::NotFound.into()),
    };
    Ok(Key { person, pairing: hex_id(pairing)?, side })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(person: u8, pairing: u8) -> Key {
        let person = AccountId([person; 32]);
        Key { person, pairing: [pairing; 16], side: Side::Offer }
    }

    #[test]
    fn written_once_then_forgotten() {
        let mailboxes = Mailboxes::default();
        let now = Instant::now();
        mailboxes.write(key(1, 1), "hello".into(), now).unwrap();
        mailboxes.write(key(1, 1), "hello".into(), now).expect("a repeated request");
        let problem = mailboxes.write(key(1, 1), "other".into(), now).unwrap_err();
        assert_eq!(problem.kind, Kind::PairingTaken);
        assert_eq!(mailboxes.read(&key(1, 1), now).as_deref(), Some(&b"hello"[..]));
        assert_eq!(mailboxes.read(&key(2, 1), now), None, "another person");
        assert_eq!(mailboxes.read(&Key { side: Side::Answer, ..key(1, 1) }, now), None);
        assert_eq!(mailboxes.read(&key(1, 1), now + KEPT), None, "too late");
        mailboxes.write(key(1, 1), "other".into(), now + KEPT).expect("free again");
    }

    #[test]
    fn one_person_cannot_fill_it() {
        let mailboxes = Mailboxes::default();
        let now = Instant::now();
        for pairing in 0..PER_PERSON {
            mailboxes.write(key(1, u8::try_from(pairing).unwrap()), "x".into(), now).unwrap();
        }
        let problem = mailboxes.write(key(1, 99), "x".into(), now).unwrap_err();
        assert_eq!(problem.kind, Kind::RateLimited);
        mailboxes.write(key(2, 1), "x".into(), now).expect("somebody else");
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_writer() {
        let mailboxes = Arc::new(Mailboxes::default());
        let (reading, early) = (mailboxes.clone(), key(1, 1));
        let reader = tokio::spawn(async move { reading.wait(&early).await });
        tokio::task::yield_now().await;
        mailboxes.write(key(1, 2), "noise".into(), Instant::now()).unwrap();
        mailboxes.write(key(1, 1), "hello".into(), Instant::now()).unwrap();
        assert_eq!(reader.await.unwrap(), "hello");
    }
}
