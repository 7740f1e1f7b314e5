//! Listeners: a bounded number of connections, no patience with slow ones, a graceful end.

use crate::metrics::Metrics;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

/// How long a connection may rest between requests: longer than clients keep theirs, so that it is
/// not closed under a request that is on its way.
const IDLE: Duration = Duration::from_secs(120);

/// One listener with its router.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) connections: usize,
    pub(crate) arrival_timeout: Duration,
    pub(crate) drain: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Server {
    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop, then lets requests end.
    pub(crate) async fn run(self, mut stopping: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.connections));
        // Dropped with this future, and every connection with it.
        let mut open = JoinSet::new();
        loop {
            let place = places.clone().acquire_owned();
            let accepted = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                Some(_) = open.join_next() => continue,
                accepted = async { (place.await, self.listener.accept().await) } => accepted,
            };
            let (Ok(place), Ok((stream, _))) = accepted else {
                // Out of descriptors, most likely: wait for some to come free.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let connection = graceful.watch(self.connection(stream));
            let metrics = self.metrics.clone();
            open.spawn(async move {
                metrics.connections.add(1);
                if let Err(error) = connection.await {
                    tracing::debug!("connection: {error}");
                }
                metrics.connections.add(-1);
                drop(place);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(self.drain, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
    }

    fn connection(
        &self, stream: TcpStream,
    ) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static {
        let _ = stream.set_nodelay(true);
        let awaiting_head = Arc::new(AtomicBool::new(true));
        let io = Patient {
            stream,
            awaiting_head: awaiting_head.clone(),
            head: Limit::running(self.arrival_timeout),
            write: Limit::idle(3 * self.arrival_timeout),
        };
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |request| {
            awaiting_head.store(false, Ordering::Relaxed);
            router.call(request)
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(io), service)
    }
}

/// A stream whose peer must go on: what it begins to send has to become a request soon, and what it
/// is sent it has to take. Between requests it may be silent for [`IDLE`].
struct Patient {
    stream: TcpStream,
    /// Whether bytes that arrive are a request's head. The service says when one is complete.
    awaiting_head: Arc<AtomicBool>,
    head: Limit,
    write: Limit,
}

/// How long something may last, once it has begun. Costs nothing while it ends at once.
struct Limit {
    most: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Limit {
    fn idle(most: Duration) -> Self {
        Self { most, timer: None, running: false }
    }

    fn running(most: Duration) -> Self {
        Self { timer: Some(Box::pin(sleep(most))), running: true, most }
    }

    fn start(&mut self) {
        if self.running {
            return;
        }
        self.running = true;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(Instant::now() + self.most),
            None => self.timer = Some(Box::pin(sleep(self.most))),
        }
    }

    fn stop(&mut self) {
        self.running = false;
    }

    /// What a pending operation is to return.
    fn check<T>(&mut self, context: &mut Context) -> Poll<io::Result<T>> {
        let timer = self.timer.as_mut().filter(|_| self.running);
        match timer.map(|timer| timer.as_mut().poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => Poll::Pending,
        }
    }
}

impl Patient {
    fn written(
        &mut self, context: &mut Context, poll: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if poll.is_pending() {
            self.write.start();
            return self.write.check(context);
        }
        self.write.stop();
        // An answer goes out: what arrives from now on begins the next request.
        self.head.stop();
        self.awaiting_head.store(true, Ordering::Relaxed);
        poll
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        let this = &mut *self;
        if !this.awaiting_head.load(Ordering::Relaxed) {
            this.head.stop();
        } else if buffer.filled().len() > before {
            this.head.start();
        }
        if poll.is_pending() { this.head.check(context) } else { poll }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
