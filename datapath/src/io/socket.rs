//! The Unix socket of a port (`vhost-user`, `stream`): listening at a path, connecting to one, and being patient with both.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket, sockopt,
};

use crate::io::OpenError;

/// Who may connect: owner and group. A directory with the set-group-ID bit gives its own group to the sockets in it.
const MODE: u32 = 0o660;

/// Connections that wait to be accepted at most; more than one is somebody's mistake.
const BACKLOG: i32 = 8;

/// Octets that wait for the other side to read them, as far as the system allows: what a TAP's queue of 1000 frames holds.
const SEND_BUFFER: usize = 1 << 20;

fn stream_socket() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// A socket that listens at a path; its file goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that a successor's file is left alone.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Listens. A file that a dead process left behind is replaced; one that is in use is not.
    pub(super) fn bind(path: &Path) -> Result<Self, OpenError> {
        make_way(path)?;
        let error = |what| move |errno: nix::Error| OpenError::from_socket(path, what, errno.into());
        let socket = File::from(stream_socket().map_err(error("making a socket"))?);
        // The file is made with these, so that there is no moment at which others may connect …
        socket
            .set_permissions(Permissions::from_mode(MODE))
            .map_err(|source| OpenError::from_socket(path, "setting its permissions", source))?;
        let address = UnixAddr::new(path).map_err(error("naming it"))?;
        bind(socket.as_raw_fd(), &address).map_err(error("making it"))?;
        let bound = Self {
            listener: UnixListener::from(OwnedFd::from(socket)),
            path: path.to_owned(),
            identity: identity(path),
        };
        // … less what the umask takes away, which the group needs.
        set_mode(path).map_err(|source| OpenError::from_socket(path, "setting its permissions", source))?;
        let backlog = Backlog::new(BACKLOG).map_err(error("listening"))?;
        listen(&bound.listener, backlog).map_err(error("listening"))?;
        Ok(bound)
    }

    /// A connection that waits. Never waits itself.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives the socket at `path` its permissions. Who may write to the directory may put anything in its place at any moment, so what is
/// opened, and found to be a socket, is changed, and not what the path leads to then.
fn set_mode(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)?;
    if !file.metadata()?.file_type().is_socket() {
        return Err(io::Error::other("it was replaced"));
    }
    fs::set_permissions(
        format!("/proc/self/fd/{}", file.as_raw_fd()),
        Permissions::from_mode(MODE),
    )
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes what a dead process left at `path`.
fn make_way(path: &Path) -> Result<(), OpenError> {
    let device = || path.display().to_string();
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(()); // nothing there, or binding says what is wrong
    };
    if !metadata.file_type().is_socket() {
        return Err(OpenError::NotASocket { device: device() });
    }
    match dial(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|source| OpenError::from_socket(path, "removing what is left of it", source)),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or as good as: somebody is there whose queue is full.
        Ok(_) => Err(OpenError::SocketInUse { device: device() }),
        Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
            Err(OpenError::SocketInUse { device: device() })
        }
        Err(source) => Err(OpenError::from_socket(
            path,
            "seeing whether it is in use",
            source,
        )),
    }
}

/// Connects. Never waits: a listener whose queue is full is [`io::ErrorKind::WouldBlock`].
pub(super) fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket = stream_socket()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Makes a new connection hold as much as a port's queue should.
pub(super) fn enlarge(stream: &UnixStream) {
    // The first needs CAP_NET_ADMIN, the second stays within net.core.wmem_max. Without either there is the system's default.
    if setsockopt(stream, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = setsockopt(stream, sockopt::SndBuf, &SEND_BUFFER);
    }
}

/// Why nobody could be reached, for the administrator.
pub(super) fn unreachable(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("nobody listens on {path}: there is no such socket"),
        io::ErrorKind::ConnectionRefused => format!("nobody listens on {path}"),
        io::ErrorKind::WouldBlock => format!("who listens on {path} takes no more connections"),
        io::ErrorKind::PermissionDenied => {
            format!(
                "no permission to connect to {path}; let vswitchd write to the socket, and search its directory"
            )
        }
        _ => format!("cannot connect to {path}: {error}"),
    }
}

/// How long to wait before the next attempt: longer each time, so that a peer which comes and goes, or never comes, costs little.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    /// After so long at most there is an attempt.
    pub(super) const LONGEST: Duration = Duration::from_secs(2);

    pub(super) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(super) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(Self::LONGEST);
        delay
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn attempts_are_ever_further_apart() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..7).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.next().as_millis(), 100);
    }

    #[test]
    fn the_file_is_for_owner_and_group_and_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(mode(&path), MODE);
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_put_in_the_socket_s_place_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let path = dir.path().join("vm.sock");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        set_mode(&path).unwrap_err();
        set_mode(&victim).unwrap_err();
        assert_eq!(mode(&victim), 0o600);
        Listener::bind(&path).unwrap_err();
        assert_eq!(mode(&victim), 0o600);
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_successor_s_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_in_use_or_no_socket_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock");
        let _other = UnixListener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err().to_string();
        assert!(
            error.contains("vm.sock") && error.contains("mode: client"),
            "{error}"
        );
        let path = dir.path().join("file");
        fs::write(&path, "kept").unwrap();
        let error = Listener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        let error = Listener::bind(&dir.path().join("none/vm.sock"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("directory"), "{error}");
    }

    #[test]
    fn who_cannot_be_reached_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock");
        let why = |path: &Path| unreachable(path, &dial(path).unwrap_err());
        assert!(why(&path).ends_with("there is no such socket"));
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(why(&path), format!("nobody listens on {}", path.display()));
    }
}
