//! Wires and pipes: order, coalescing, death. `cat` is an enclave that answers every frame with itself.

use super::*;
use keyfold_protocol::host::{KeyWrap, Unlock};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn echo() -> Pipe {
    Pipe { command: "cat".into(), args: vec![], env: BTreeMap::new() }
}

/// A frame nobody else sends.
fn frame(number: usize) -> (Frame, Vec<u8>) {
    let wrapped = vec![u8::try_from(number % 256).unwrap(); number];
    let request = HostRequest::Unlock(Unlock { algorithm: KeyWrap::Sha1, wrapped: &wrapped });
    let frame = Frame::encode(&request, number).unwrap();
    let body = frame.as_bytes()[4..].to_vec();
    (frame, body)
}

#[tokio::test]
async fn replies_come_back_in_order_over_a_pipe() {
    let mut tasks = JoinSet::new();
    let wire = Arc::new(Wire::start(echo().connect().await.unwrap(), 4096, &mut tasks));
    let calls = (0..2000).map(|number| {
        let wire = wire.clone();
        tokio::spawn(async move {
            let (frame, body) = frame(number);
            assert_eq!(wire.call(frame).await.unwrap(), body, "{number}");
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(wire.waiting(), 0);
}

#[tokio::test]
async fn everyone_hears_of_a_death() {
    let mut tasks = JoinSet::new();
    let (host, mut enclave) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(host);
    let connection =
        Connection { reader: Box::new(reader), writer: Box::new(writer), process: None };
    let wire = Wire::start(connection, 64, &mut tasks);
    let calls = futures_util::future::join_all((0..10).map(|number| wire.call(frame(number).0)));
    let dies = async {
        let mut some = vec![0; 100];
        enclave.read_exact(&mut some).await.unwrap();
        drop(enclave);
    };
    let (answers, ()) = tokio::join!(calls, dies);
    assert!(answers.iter().all(|answer| *answer == Err(CallError::Down)));
    let end = tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(end, wire::End::Read(_) | wire::End::Write(_)), "{end}");
    assert_eq!(wire.call(frame(1).0).await, Err(CallError::Down), "and from then on");
}

#[tokio::test]
async fn frames_that_wait_go_out_in_one_write() {
    let mut tasks = JoinSet::new();
    let (host, mut enclave) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(host);
    let connection =
        Connection { reader: Box::new(reader), writer: Box::new(writer), process: None };
    let wire = Wire::start(connection, 64, &mut tasks);
    let sizes: Vec<_> = (0..8).map(|number| frame(number).0.as_bytes().len()).collect();
    let calls = futures_util::future::join_all((0..8).map(|number| wire.call(frame(number).0)));
    let serves = async {
        let mut buffer = vec![0; 1 << 16];
        let read = enclave.read(&mut buffer).await.unwrap();
        assert_eq!(read, sizes.iter().sum::<usize>(), "one read finds all eight");
        enclave.write_all(&buffer[..read]).await.unwrap();
    };
    let (answers, ()) = tokio::join!(calls, serves);
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_full_queue_is_said_and_nonsense_ends_the_connection() {
    let mut tasks = JoinSet::new();
    let (host, mut enclave) = tokio::io::duplex(64);
    let (reader, writer) = tokio::io::split(host);
    let connection =
        Connection { reader: Box::new(reader), writer: Box::new(writer), process: None };
    let wire = Arc::new(Wire::start(connection, 2, &mut tasks));
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let wire = wire.clone();
            tokio::spawn(async move { wire.call(frame(1000).0).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    enclave.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let end = tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(end, wire::End::Protocol(_)), "{end}");
    let answers = futures_util::future::join_all(calls).await;
    let full = answers.iter().filter(|answer| matches!(answer, Ok(Err(CallError::Full)))).count();
    let down = answers.iter().filter(|answer| matches!(answer, Ok(Err(CallError::Down)))).count();
    assert!(full > 0 && down > 0 && full + down == 40, "{full} full, {down} down");
}

#[tokio::test]
async fn a_missing_program_and_a_program_that_ends_are_said() {
    let missing = Pipe { command: "/no/such/enclave".into(), ..echo() };
    let error = missing.connect().await.err().unwrap().to_string();
    assert!(error.contains("/no/such/enclave"), "{error}");
    let ends = Pipe { command: "true".into(), ..echo() };
    let mut tasks = JoinSet::new();
    let wire = Wire::start(ends.connect().await.unwrap(), 4, &mut tasks);
    assert_eq!(wire.call(frame(1).0).await, Err(CallError::Down));
}

#[test]
fn sessions_are_bounded_and_the_oldest_go_first() {
    let mut sessions = Sessions::default();
    let id = |n: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        SessionId(id)
    };
    for n in 0..SESSIONS + 10 {
        sessions.insert(id(n), AccountId([0; 32]));
        sessions.insert(id(n), AccountId([1; 32]));
    }
    assert_eq!(sessions.owners.len(), SESSIONS);
    assert!(!sessions.owners.contains_key(&id(9)) && sessions.owners.contains_key(&id(10)));
}
