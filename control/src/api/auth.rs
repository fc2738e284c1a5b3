//! Who may do what, decided by the peer credentials of the Unix socket (unix(7), SO_PEERCRED), which the kernel vouches
//! for: root, the daemon's own user and the members of the socket's group may change things and see traffic; everybody
//! else may read what the switch says of itself.
//!
//! Group membership is asked of the user database at the time of the connection, by user; the process id is not looked
//! at, because it may have gone to another process.

use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::unix::UCred;

use super::extract::ApiFailure;

/// Members of this group may change things, where it exists.
pub const GROUP: &str = "vswitch";

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Whether it may change things.
    pub may_change: bool,
}

impl Peer {
    /// How the history calls it.
    pub fn author(&self) -> String {
        format!("uid {}", self.uid)
    }
}

/// Decides about peers.
#[derive(Clone, Copy, Debug)]
pub struct Authority {
    own: Uid,
    group: Option<Gid>,
}

impl Authority {
    /// The daemon's own user, and [`GROUP`] if there is one.
    pub fn of_host() -> Self {
        Self {
            own: Uid::effective(),
            group: Group::from_name(GROUP).ok().flatten().map(|group| group.gid),
        }
    }

    /// The group of the socket.
    pub fn group(&self) -> Option<u32> {
        self.group.map(Gid::as_raw)
    }

    /// Who this is, and whether it may change things.
    pub fn peer(&self, credentials: UCred) -> Peer {
        let uid = Uid::from_raw(credentials.uid());
        let gid = Gid::from_raw(credentials.gid());
        let may_change = uid.is_root()
            || uid == self.own
            || self
                .group
                .is_some_and(|group| gid == group || is_member(uid, group));
        Peer {
            uid: uid.as_raw(),
            may_change,
        }
    }
}

fn is_member(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

/// Lets only those pass who may change things.
pub async fn require_change(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    if peer.may_change {
        next.run(request).await
    } else {
        ApiFailure::forbidden(format!(
            "uid {} may only read; root and members of the group `{GROUP}` may do this",
            peer.uid
        ))
        .into_response()
    }
}
