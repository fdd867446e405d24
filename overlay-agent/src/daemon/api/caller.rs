use std::{io, os::fd::AsRawFd as _};

use nix::unistd::Group;
use tokio::net::UnixStream;

use crate::api::{ApiError, Code, GROUP};

/// Who is at the other end of a connection, says the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, as the connection was made.
    pub groups: Vec<u32>,
    pub pid: Option<i32>,
}

impl Caller {
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: peer_groups(stream)?,
            pid: credentials.pid(),
        })
    }
}

/// `SO_PEERGROUPS` (unix(7)).
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // As many as the kernel allows a process (`NGROUPS_MAX`) need not fit at once.
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * size_of::<u32>())
            .map_err(|_| io::Error::other("more groups than can be"))?;
        // SAFETY: the pointer and `bytes` are of one live buffer, and the kernel writes no more than that.
        let status = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = usize::try_from(bytes).unwrap_or(0) / size_of::<u32>();
        if status == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

/// Who may use the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Whom the agent runs as.
    pub owner: u32,
    /// `None`: the group does not exist, and root alone may.
    pub group: Option<u32>,
}

impl Access {
    /// Root, the user that the agent runs as, and the members of [`GROUP`] if this host has it.
    pub fn of_host() -> io::Result<Self> {
        Self::with_group(GROUP)
    }

    /// The same with another group.
    pub fn with_group(name: &str) -> io::Result<Self> {
        let group = Group::from_name(name).map_err(io::Error::from)?;
        Ok(Self {
            owner: rustix::process::geteuid().as_raw(),
            group: group.map(|group| group.gid.as_raw()),
        })
    }

    pub fn check(&self, caller: &Caller) -> Result<(), ApiError> {
        let member = self
            .group
            .is_some_and(|group| caller.gid == group || caller.groups.contains(&group));
        if caller.uid == 0 || caller.uid == self.owner || member {
            return Ok(());
        }
        Err(ApiError::new(
            Code::Forbidden,
            format!("user {} may not use the agent", caller.uid),
            format!("root may, and members of the group `{GROUP}`"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_owner_and_the_group_may_and_nobody_else() {
        let access = Access {
            owner: 990,
            group: Some(77),
        };
        let caller = |uid, gid, groups: &[u32]| Caller {
            uid,
            gid,
            groups: groups.to_vec(),
            pid: None,
        };
        for may in [
            caller(0, 0, &[]),
            caller(990, 5, &[]),
            caller(1000, 77, &[]),
            caller(1000, 1000, &[4, 77]),
        ] {
            assert_eq!(access.check(&may), Ok(()), "{may:?}");
        }
        let stranger = caller(1000, 1000, &[4]);
        let error = access.check(&stranger).unwrap_err();
        assert_eq!(error.code, Code::Forbidden);
        assert!(error.remedy.contains("`overlay`"), "{error}");
        let no_group = Access {
            group: None,
            ..access
        };
        assert!(no_group.check(&caller(1000, 77, &[77])).is_err());
    }

    #[tokio::test]
    async fn the_kernel_names_the_caller() {
        let (near, _far) = UnixStream::pair().unwrap();
        let caller = Caller::of(&near).unwrap();
        assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
        assert_eq!(caller.pid, i32::try_from(std::process::id()).ok());
        let own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        assert_eq!(caller.groups, own);
    }
}
