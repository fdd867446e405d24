//! The socket file: of one agent, with the right mode from its first instant.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
        PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};

use super::Access;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Two agents of one host would change the same kernel.
    #[error("another agent answers at {}: stop it first", .0.display())]
    InUse(PathBuf),
    /// Something that an agent did not put there.
    #[error("{} is there and no socket: remove it, or choose another path", .0.display())]
    NoSocket(PathBuf),
    /// The path has no parent or no name.
    #[error("{} cannot name a socket: give the path of a file", .0.display())]
    Path(PathBuf),
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io {
        attempt: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A socket that is bound. It is removed when dropped.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Held as long as the socket: who has it may replace a stale one.
    _lock: File,
}

impl Socket {
    /// Binds `path`: mode 0660 and the group of `access`, or 0600 without one. A socket that nobody
    /// answers at is replaced.
    pub async fn bind(path: &Path, access: &Access) -> Result<Self, SocketError> {
        let io = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| SocketError::Io {
                attempt,
                path,
                source,
            }
        };
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(SocketError::Path(path.to_owned()));
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(io("create the directory", directory))?;
        if let Some(group) = access.group {
            let_group_pass(directory, group)
                .map_err(io("let the group pass through", directory))?;
        }
        let beside = |suffix: &str| {
            let mut name = name.to_owned();
            name.push(suffix);
            directory.join(name)
        };
        let lock = lock(&beside(".lock"), path)?;
        // An agent that has no lock: of another mount namespace, or whose lock was removed.
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse(path.to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NoSocket(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("look at", path)(error)),
        }
        // Under another name until its mode is right.
        let new = beside(".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("remove", &new)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(io("bind", &new))?;
        let mode = match access.group {
            Some(group) => {
                std::os::unix::fs::chown(&new, None, Some(group))
                    .map_err(io("change the group of", &new))?;
                0o660
            }
            None => 0o600,
        };
        fs::set_permissions(&new, Permissions::from_mode(mode))
            .map_err(io("change the mode of", &new))?;
        fs::rename(&new, path).map_err(io("replace", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next agent replaces it if it stays.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the API's socket stays");
        }
    }
}

/// The directory may be one that root alone enters: it holds other files, too.
fn let_group_pass(directory: &Path, group: u32) -> io::Result<()> {
    let found = fs::metadata(directory)?;
    let mode = found.mode() & 0o7777;
    let passes = mode & 0o001 != 0 || (found.gid() == group && mode & 0o010 != 0);
    if passes {
        return Ok(());
    }
    // The mode first: at no time has another group more than it had.
    fs::set_permissions(directory, Permissions::from_mode(mode & !0o070))?;
    std::os::unix::fs::chown(directory, None, Some(group))?;
    fs::set_permissions(directory, Permissions::from_mode((mode & !0o070) | 0o010))
}

fn lock(path: &Path, socket: &Path) -> Result<File, SocketError> {
    let io = |attempt| {
        move |source| SocketError::Io {
            attempt,
            path: path.to_owned(),
            source,
        }
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(io("open"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SocketError::InUse(socket.to_owned())),
        Err(error) => Err(io("lock")(error.into())),
    }
}
