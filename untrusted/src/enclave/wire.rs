//! One connection: many callers, frames coalesced into few writes, replies given back in order.
//!
//! A wake of the enclave costs more than a signature. So whatever has queued up while the last write
//! was under way goes out in one, and the enclave answers it in one.

use super::frame::{Frame, HEADER};
use super::transport::Connection;
use bytes::{Bytes, BytesMut};
use keyfold_protocol::limits;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

/// Frames in one write.
const BATCH: usize = 16;
/// Read buffer: a page of replies.
const READ: usize = 64 * 1024;
/// An enclave that answers nothing for so long has died without closing.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a call brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The connection is gone. Whether the enclave saw the frame is unknown.
    Down,
    /// Too many wait already; the frame was not sent.
    Full,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The enclave closed it, or reading failed.
    #[error("it closed the connection ({0})")]
    Read(std::io::Error),
    /// Writing failed.
    #[error("it cannot be written to ({0})")]
    Write(std::io::Error),
    /// A reply that cannot be one.
    #[error("it sent {0}")]
    Protocol(&'static str),
    /// No reply in time.
    #[error("it has not answered for {SILENCE:?}")]
    Silent,
    /// The host gave it up.
    #[error("the host hung up")]
    HungUp,
}

struct Call {
    frame: Frame,
    reply: oneshot::Sender<Bytes>,
}

/// Callers' end. The connection ends when all of them are gone.
pub struct Wire {
    calls: mpsc::Sender<Call>,
    waiting: Arc<AtomicUsize>,
    hang_up: Arc<Notify>,
}

/// Who waits for the next replies, in order.
type Pending = Mutex<VecDeque<(Instant, oneshot::Sender<Bytes>)>>;

impl Wire {
    /// Spawns the connection's task on `tasks`. Up to `queue` calls may wait to be written.
    pub fn start(connection: Connection, queue: usize, tasks: &mut JoinSet<End>) -> Self {
        let (calls, queued) = mpsc::channel(queue);
        let (waiting, hang_up) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        tasks.spawn(carry(connection, queued, waiting.clone(), hang_up.clone()));
        Self { calls, waiting, hang_up }
    }

    /// Sends a frame and waits for its reply.
    pub async fn call(&self, frame: Frame) -> Result<Bytes, CallError> {
        let (reply, answer) = oneshot::channel();
        self.calls.try_send(Call { frame, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Full,
            mpsc::error::TrySendError::Closed(_) => CallError::Down,
        })?;
        answer.await.map_err(|_| CallError::Down)
    }

    /// Frames sent and not answered.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Ends the connection, and with it everyone's wait.
    pub fn hang_up(&self) {
        self.hang_up.notify_one();
    }
}

async fn carry(
    connection: Connection, queued: mpsc::Receiver<Call>, waiting: Arc<AtomicUsize>,
    hang_up: Arc<Notify>,
) -> End {
    let Connection { reader, writer, process } = connection;
    let pending = Pending::default();
    let end = tokio::select! {
        // In one order: a simulation repeats.
        biased;
        end = write(writer, queued, &pending, &waiting) => end,
        end = read(reader, &pending, &waiting) => end,
        () = silence(&pending) => End::Silent,
        () = hang_up.notified() => End::HungUp,
    };
    // Killed before anybody hears of it, so that nothing it still does can be relied on.
    drop(process);
    end
}

async fn write(
    mut writer: impl AsyncWrite + Unpin, mut queued: mpsc::Receiver<Call>, pending: &Pending,
    waiting: &AtomicUsize,
) -> End {
    let mut batch = Vec::with_capacity(BATCH);
    let mut out = Vec::with_capacity(READ);
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        out.clear();
        {
            let now = Instant::now();
            let mut pending = lock(pending);
            // Who went away while queued needs no answer.
            for call in batch.drain(..).filter(|call| !call.reply.is_closed()) {
                out.extend_from_slice(call.frame.as_bytes());
                pending.push_back((now, call.reply));
            }
            waiting.store(pending.len(), Ordering::Relaxed);
        }
        if let Err(error) = writer.write_all(&out).await {
            return End::Write(error);
        }
        if let Err(error) = writer.flush().await {
            return End::Write(error);
        }
    }
    End::HungUp
}

async fn read(mut reader: impl AsyncRead + Unpin, pending: &Pending, waiting: &AtomicUsize) -> End {
    let mut buffer = BytesMut::with_capacity(READ);
    loop {
        loop {
            match take_frame(&mut buffer) {
                Ok(Some(reply)) => {
                    let mut pending = lock(pending);
                    let Some((_, waits)) = pending.pop_front() else {
                        return End::Protocol("a reply nobody asked for");
                    };
                    waiting.store(pending.len(), Ordering::Relaxed);
                    drop(pending);
                    // Who went away needs no answer.
                    let _ = waits.send(reply);
                }
                Ok(None) => break,
                Err(what) => return End::Protocol(what),
            }
        }
        buffer.reserve(READ);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return End::Read(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) => return End::Read(error),
        }
    }
}

/// A whole frame from the front, without its header; `None` while it is not all there.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
    if length > limits::FRAME {
        return Err("a reply beyond the largest frame");
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let mut frame = buffer.split_to(HEADER + length);
    Ok(Some(frame.split_off(HEADER).freeze()))
}

/// Returns when somebody has waited for too long.
async fn silence(pending: &Pending) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let oldest = lock(pending).front().map(|(since, _)| *since);
        if oldest.is_some_and(|since| since.elapsed() > SILENCE) {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
