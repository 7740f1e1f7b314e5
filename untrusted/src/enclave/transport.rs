//! How to reach an enclave: a child process's pipes, or a confidential VM's vsock.

use crate::config::EnclaveLink;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use vsock::VsockStream;

/// Longest line of an enclave's log that is passed on.
const LOG_LINE: usize = 1024;
/// Longest answer of a VM's monitor.
const ANSWER: usize = 64;
/// How long a VM's monitor may take to connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// A way to reach an enclave, as often as needed.
pub trait Connect: Send + Sync + 'static {
    /// For logs.
    fn describe(&self) -> String;
    /// What only one link at a time can be connected to, where that is so.
    fn only_address(&self) -> Option<String> {
        None
    }
    /// A fresh enclave, not configured yet.
    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>>;
}

/// Both directions, and the process that goes away with them.
pub struct Connection {
    /// Replies.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Requests.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Killed when the connection is dropped.
    pub process: Option<Child>,
}

impl EnclaveLink {
    /// The configured way.
    pub fn connector(&self) -> Arc<dyn Connect> {
        match self.clone() {
            Self::Pipe { command, args, env } => Arc::new(Pipe { command, args, env }),
            Self::Socket { path } => Arc::new(Socket(path)),
            Self::Vsock { cid, port } => Arc::new(Vsock { cid, port }),
            Self::HybridVsock { socket, port } => Arc::new(HybridVsock { socket, port }),
        }
    }
}

/// A child process that speaks on stdin and stdout and logs to stderr.
pub struct Pipe {
    /// Program.
    pub command: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment; beside it the child gets only PATH.
    pub env: BTreeMap<String, String>,
}

impl Pipe {
    fn spawn(&self) -> io::Result<Connection> {
        let mut command = Command::new(&self.command);
        command.args(&self.args).env_clear().envs(&self.env).kill_on_drop(true);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.describe()))
        })?;
        let missing = || io::Error::other("a pipe of the child is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        tokio::spawn(pass_on(child.stderr.take().ok_or_else(missing)?));
        Ok(Connection { reader: Box::new(stdout), writer: Box::new(stdin), process: Some(child) })
    }
}

impl Connect for Pipe {
    fn describe(&self) -> String {
        format!("pipe to {}", self.command.display())
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(std::future::ready(self.spawn()))
    }
}

/// The enclave's log lines become the host's.
async fn pass_on(stderr: ChildStderr) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(mut line)) = lines.next_segment().await {
        line.truncate(LOG_LINE);
        tracing::info!(target: "keyfold_enclave", "{}", String::from_utf8_lossy(&line));
    }
}

/// An enclave that listens on a Unix socket.
struct Socket(PathBuf);

impl Connect for Socket {
    fn describe(&self) -> String {
        format!("socket {}", self.0.display())
    }

    fn only_address(&self) -> Option<String> {
        Some(self.describe())
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async { UnixStream::connect(&self.0).await.map(Connection::from) })
    }
}

/// A confidential VM that listens on vsock.
pub struct Vsock {
    /// Its context id.
    pub cid: u32,
    /// Its port.
    pub port: u32,
}

impl Connect for Vsock {
    fn describe(&self) -> String {
        format!("vsock {}:{}", self.cid, self.port)
    }

    fn only_address(&self) -> Option<String> {
        Some(self.describe())
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async {
            let (cid, port) = (self.cid, self.port);
            let connect = move || VsockStream::connect_with_cid_port(cid, port);
            let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            // A connected stream socket is read, written and shut down the same way in every family;
            // tokio has a type for this one.
            let stream = std::os::unix::net::UnixStream::from(OwnedFd::from(stream));
            Ok(UnixStream::from_std(stream)?.into())
        })
    }
}

/// A confidential VM whose monitor carries vsock over a Unix socket: a line says which port, a line
/// answers, and what follows is the stream.
struct HybridVsock {
    socket: PathBuf,
    port: u32,
}

impl HybridVsock {
    async fn open(&self) -> io::Result<Connection> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(format!("CONNECT {}\n", self.port).as_bytes()).await?;
        let mut answer = Vec::new();
        // Not a byte of what follows.
        while answer.last() != Some(&b'\n') && answer.len() < ANSWER {
            answer.push(stream.read_u8().await?);
        }
        match answer.strip_prefix(b"OK ") {
            Some(_) => Ok(stream.into()),
            None => Err(io::Error::other(format!(
                "{} answered {:?}, expected OK",
                self.socket.display(),
                String::from_utf8_lossy(&answer)
            ))),
        }
    }
}

impl Connect for HybridVsock {
    fn describe(&self) -> String {
        format!("vsock {} port {}", self.socket.display(), self.port)
    }

    fn only_address(&self) -> Option<String> {
        Some(self.describe())
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async {
            let opened = tokio::time::timeout(PATIENCE, self.open()).await;
            opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: Box::new(reader), writer: Box::new(writer), process: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// What the VM's monitor says to a connection, and whether that opens one.
    async fn answered(answer: &'static [u8]) -> io::Result<Connection> {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("vsock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let monitor = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = [0; 13];
            stream.read_exact(&mut asked).await.expect("a line");
            assert_eq!(&asked, b"CONNECT 5000\n");
            stream.write_all(answer).await.expect("it is read");
        });
        let opened = HybridVsock { socket, port: 5000 }.connect().await;
        monitor.await.expect("the monitor ends");
        opened
    }

    #[tokio::test]
    async fn the_monitors_answer_is_not_part_of_the_stream() {
        let mut opened = answered(b"OK 1073741824\nframe").await.expect("a connection");
        let mut rest = String::new();
        opened.reader.read_to_string(&mut rest).await.expect("the rest");
        assert_eq!(rest, "frame");
    }

    #[tokio::test]
    async fn a_port_that_nobody_serves_is_no_connection() {
        assert_eq!(
            answered(b"").await.err().map(|error| error.kind()),
            Some(io::ErrorKind::UnexpectedEof)
        );
        let other = answered(b"HTTP/1.1 400 Bad Request\n").await.err().expect("no connection");
        assert!(other.to_string().contains("expected OK"), "{other}");
    }
}
