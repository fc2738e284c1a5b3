//! Listens and serves, with a bound on what clients can cost: so many connections, so long for a request's head, so long for an
//! answer that isn't read. One that may only read can't take the connections of those who may change things, nor all of those
//! who may only read. A client that is turned away is told so, as long as not too many are at a time.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::Authority;
use super::patience::Patient;

/// Connections at a time of those who may change things, and of those who may only read.
const CONNECTIONS: usize = 64;

/// Connections at a time over TCP.
const TCP_CONNECTIONS: usize = 16;

/// How many of the readers' connections one user may have.
const READERS_CONNECTIONS: usize = 16;

/// How many clients at a time are told that they are turned away; the others only see their connection end.
const TOLD: usize = 8;

/// How long such a client may take to ask, and again to read.
const TOLD_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of its request is read: more than a head may have.
const TOLD_OCTETS: u64 = 1 << 20;

/// How long an answer may wait for a client that doesn't read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

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
        let changers = Pool::new(CONNECTIONS);
        let mut readers = Readers::new();
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
            let place = if peer.may_change {
                changers.place()
            } else {
                readers.place(peer.uid)
            };
            let router = router.clone().layer(axum::Extension(peer));
            spawn(stream, router, place);
        }
    }
}

/// Serves Prometheus over TCP until the task is aborted.
pub async fn serve_tcp(listener: TcpListener, router: Router) {
    let pool = Pool::new(TCP_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, router.clone(), pool.place()),
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

/// What a connection holds while it lasts.
enum Place {
    /// It is served, and one of its pool and of its user.
    Served {
        pool: OwnedSemaphorePermit,
        _user: Option<OwnedSemaphorePermit>,
    },
    /// It is turned away, and told so if not too many are.
    TurnedAway(Option<OwnedSemaphorePermit>),
}

/// So many connections at a time.
struct Pool {
    served: Arc<Semaphore>,
    told: Arc<Semaphore>,
}

impl Pool {
    fn new(connections: usize) -> Self {
        Self {
            served: Arc::new(Semaphore::new(connections)),
            told: Arc::new(Semaphore::new(TOLD)),
        }
    }

    fn place(&self) -> Place {
        match Arc::clone(&self.served).try_acquire_owned() {
            Ok(pool) => Place::Served { pool, _user: None },
            Err(_) => self.turned_away(),
        }
    }

    fn turned_away(&self) -> Place {
        Place::TurnedAway(Arc::clone(&self.told).try_acquire_owned().ok())
    }
}

/// The connections of those who may only read.
struct Readers {
    pool: Pool,
    /// Those of each user who has any.
    users: HashMap<u32, Arc<Semaphore>>,
}

impl Readers {
    fn new() -> Self {
        Self {
            pool: Pool::new(CONNECTIONS),
            users: HashMap::new(),
        }
    }

    fn place(&mut self, uid: u32) -> Place {
        self.users
            .retain(|_, user| user.available_permits() < READERS_CONNECTIONS);
        let user = self
            .users
            .entry(uid)
            .or_insert_with(|| Arc::new(Semaphore::new(READERS_CONNECTIONS)));
        let Ok(own) = Arc::clone(user).try_acquire_owned() else {
            return self.pool.turned_away();
        };
        match self.pool.place() {
            Place::Served { pool, .. } => Place::Served {
                pool,
                _user: Some(own),
            },
            turned_away @ Place::TurnedAway(_) => turned_away,
        }
    }
}

fn spawn<S>(mut stream: S, router: Router, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let held = match place {
        Place::Served { .. } => place,
        Place::TurnedAway(None) => {
            // What can't be written at once is not waited for.
            let _ = stream.write_all(BUSY).now_or_never();
            return;
        }
        Place::TurnedAway(Some(permit)) => {
            tokio::spawn(async move {
                let _permit = permit;
                turn_away(stream).await;
            });
            return;
        }
    };
    tokio::spawn(async move {
        let _held = held;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(
                TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)),
                TowerToHyperService::new(router),
            );
        if let Err(error) = connection.await {
            tracing::debug!("a connection ends: {error}");
        }
    });
}

/// Tells a client that it is one too many. Its request is read first, and what comes after: a client that is still writing
/// when its connection ends sees a broken pipe in place of the answer.
async fn turn_away<S>(stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = reader.take(TOLD_OCTETS);
    let asked = tokio::time::timeout(TOLD_TIMEOUT, read_head(&mut reader)).await;
    if !matches!(asked, Ok(Ok(()))) {
        return;
    }
    // A client that does not even take this is none to wait for.
    let _ = tokio::time::timeout(TOLD_TIMEOUT, async {
        writer.write_all(BUSY).await?;
        writer.shutdown().await?;
        tokio::io::copy(&mut reader, &mut tokio::io::sink()).await
    })
    .await;
}

/// Reads until the empty line that ends a request's head, or the end.
async fn read_head(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let count = reader.read(&mut buffer[filled..]).await?;
        filled += count;
        let seen = &buffer[..filled];
        if count == 0 || seen.windows(END.len()).any(|octets| octets == END) {
            return Ok(());
        }
        if filled == buffer.len() {
            // The end may come in two pieces.
            let kept = END.len() - 1;
            buffer.copy_within(filled - kept.., 0);
            filled = kept;
        }
    }
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
    async fn who_is_turned_away_is_told_so_after_its_request() {
        let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
        let turned_away = tokio::spawn(turn_away(server));
        // More than the socket holds, so that a daemon that doesn't read it would break the connection.
        let body = vec![b' '; 900_000];
        let head = format!(
            "PUT /v1/config HTTP/1.1\r\nhost: x\r\nx-filler: {}\r\ncontent-length: {}\r\n\r\n",
            "y".repeat(4096),
            body.len()
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, BUSY);
        drop(client);
        turned_away.await.unwrap();
    }

    #[test]
    fn one_user_cannot_take_all_connections_of_readers() {
        let mut readers = Readers::new();
        let served = |place: &Place| matches!(place, Place::Served { .. });
        let mut held: Vec<Place> = (0..READERS_CONNECTIONS).map(|_| readers.place(1000)).collect();
        assert!(held.iter().all(served));
        assert!(!served(&readers.place(1000)));
        for uid in 1001..1004 {
            held.extend((0..READERS_CONNECTIONS).map(|_| readers.place(uid)));
        }
        assert!(held.iter().all(served));
        assert!(!served(&readers.place(1004)), "all of the pool are taken");
        held.clear();
        assert!(served(&readers.place(1000)));
        assert_eq!(readers.users.len(), 1, "who has no connection is forgotten");
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
