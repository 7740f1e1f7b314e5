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
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use vsock::VsockStream;

/// Longest line of an enclave's log that is passed on.
const LOG_LINE: usize = 1024;

/// A way to reach an enclave, as often as needed.
pub trait Connect: Send + Sync + 'static {
    /// For logs.
    fn describe(&self) -> String;
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
            Self::Vsock { cid, port } => Arc::new(Vsock { cid, port }),
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

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async {
            let (cid, port) = (self.cid, self.port);
            let connect = move || VsockStream::connect_with_cid_port(cid, port);
            let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            // A connected stream socket is read, written and shut down the same way in every family;
            // tokio has a type for this one.
            let stream = std::os::unix::net::UnixStream::from(OwnedFd::from(stream));
            let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
            Ok(Connection { reader: Box::new(reader), writer: Box::new(writer), process: None })
        })
    }
}
