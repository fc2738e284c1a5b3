//! Listens and serves, with a bound on what clients can cost: so many connections, so long for a request's head.
//! A client that doesn't read its answer holds its own connection and nothing else; one that may only read can't take
//! the connections of those who may change things.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::Authority;

/// Connections at a time of those who may change things, and of those who may only read.
const CONNECTIONS: usize = 64;

/// Connections at a time over TCP.
const TCP_CONNECTIONS: usize = 16;

/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client gets who is one too many.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
content-length: 57\r\nconnection: close\r\n\r\n{\"error\":\"vswitchd has too many connections; try again\"}\n";

/// The socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon is there.
    #[error(
        "another vswitchd listens on {}; stop it, or give this one a socket of its own with --socket",
        .path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is there and is not a socket; remove it, or choose another path with --socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system refuses TCP.
    #[error(
        "cannot listen on {address} for Prometheus: {source}; choose another address with --metrics, or `--metrics off`"
    )]
    Tcp {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
}

/// The API's socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that a successor's socket is left alone.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Nobody is left to tell about a failure.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Socket {
    /// Binds the socket. One that a dead daemon left behind is replaced.
    pub fn bind(path: &Path, mode: u32, authority: &Authority) -> Result<Self, ListenError> {
        let error = |source| ListenError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir).map_err(error)?;
        }
        if let Ok(metadata) = fs::symlink_metadata(path) {
            use std::os::unix::fs::FileTypeExt;
            if !metadata.file_type().is_socket() {
                return Err(ListenError::NotASocket {
                    path: path.to_owned(),
                });
            }
            match StdUnixStream::connect(path) {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(error)?;
                }
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                Err(other) => return Err(error(other)),
                Ok(_) => {
                    return Err(ListenError::InUse {
                        path: path.to_owned(),
                    });
                }
            }
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        let file = SocketFile {
            path: path.to_owned(),
            identity: identity(path),
        };
        if let Some(group) = authority.group()
            && let Err(source) = chown(path, None, Some(group))
        {
            tracing::warn!("{} keeps its group: {source}", path.display());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(error)?;
        Ok(Self { listener, file })
    }

    /// Serves until the task is aborted.
    pub async fn serve(self, router: Router, authority: Authority) {
        let Self {
            listener,
            file: _file,
        } = self;
        let changers = Arc::new(Semaphore::new(CONNECTIONS));
        let readers = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    accept_failed(&error).await;
                    continue;
                }
            };
            let peer = match stream.peer_cred() {
                Ok(credentials) => authority.peer(credentials),
                Err(error) => {
                    tracing::warn!("a client without credentials is turned away: {error}");
                    continue;
                }
            };
            let pool = if peer.may_change { &changers } else { &readers };
            let router = router.clone().layer(axum::Extension(peer));
            spawn(stream, router, Arc::clone(pool).try_acquire_owned().ok());
        }
    }
}

/// Serves Prometheus over TCP until the task is aborted.
pub async fn serve_tcp(listener: TcpListener, router: Router) {
    let pool = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, router.clone(), Arc::clone(&pool).try_acquire_owned().ok()),
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Binds the TCP address for Prometheus.
pub async fn listen_tcp(address: &str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Tcp {
            address: address.to_owned(),
            source,
        })
}

/// Out of file descriptors, most likely: others may give theirs back meanwhile.
async fn accept_failed(error: &io::Error) {
    tracing::warn!("a client cannot be taken: {error}");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn spawn<S>(mut stream: S, router: Router, permit: Option<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let Some(_permit) = permit else {
            // A client that does not even take this is none to wait for.
            let _ = tokio::time::timeout(HEAD_TIMEOUT, stream.write_all(BUSY)).await;
            return;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        if let Err(error) = connection.await {
            tracing::debug!("a connection ends: {error}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(length.unwrap().parse::<usize>().unwrap(), body.len());
        serde_json::from_str::<super::super::model::ApiError>(body).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/ctl.sock");
        let authority = Authority::of_host();
        let first = Socket::bind(&path, 0o666, &authority).unwrap();
        let second = Socket::bind(&path, 0o666, &authority).unwrap_err();
        assert!(matches!(second, ListenError::InUse { .. }), "{second}");
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let third = Socket::bind(&path, 0o660, &authority).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(third);

        fs::write(&path, "mine").unwrap();
        let refused = Socket::bind(&path, 0o666, &authority).unwrap_err();
        assert!(matches!(refused, ListenError::NotASocket { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
