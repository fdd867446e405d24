//! Network namespaces: open, compare, run inside.

use std::{
    fmt,
    fs::File,
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::dataplane::desired::NetnsRef;

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
    name: String,
}

/// Identity of a network namespace: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network namespace name {0:?} is not a plain name (for a path, give a path)")]
    Name(String),
    #[error("cannot open {netns} at {}: {error}{}", .path.display(), hint(.netns, .error))]
    Open {
        netns: NetnsDisplay,
        path: PathBuf,
        error: io::Error,
    },
    #[error("{netns} at {} is not a network namespace", .path.display())]
    NotANetns { netns: NetnsDisplay, path: PathBuf },
    #[error("cannot enter {netns}: {error} (CAP_SYS_ADMIN is needed)")]
    Enter { netns: String, error: io::Error },
    #[error("the thread working in {netns} could not run: {error}")]
    Thread { netns: String, error: io::Error },
    #[error("the thread working in {netns} panicked")]
    Panicked { netns: String },
}

fn hint(netns: &NetnsDisplay, error: &io::Error) -> &'static str {
    match (error.kind(), &netns.0) {
        (io::ErrorKind::NotFound, NetnsRef::Pid(_)) => " (the process has ended)",
        (io::ErrorKind::NotFound, NetnsRef::Name(_)) => " (`ip netns list` shows the names)",
        _ => "",
    }
}

/// A [`NetnsRef`] in words.
#[derive(Debug)]
pub struct NetnsDisplay(NetnsRef);

impl fmt::Display for NetnsDisplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            NetnsRef::Name(name) => write!(f, "network namespace {name:?}"),
            NetnsRef::Pid(pid) => write!(f, "the network namespace of process {pid}"),
            NetnsRef::Path(path) => write!(f, "network namespace {}", path.display()),
        }
    }
}

/// Whether what is named is there and is this namespace.
pub fn is(netns: &NetnsRef, id: NetnsId) -> bool {
    path(netns).is_ok_and(|path| {
        rustix::fs::stat(&path)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (id.device, id.inode))
    })
}

fn path(netns: &NetnsRef) -> Result<PathBuf, Error> {
    Ok(match netns {
        NetnsRef::Name(name) => {
            if name.is_empty() || name == "." || name == ".." || name.contains('/') {
                return Err(Error::Name(name.clone()));
            }
            PathBuf::from("/run/netns").join(name)
        }
        NetnsRef::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        NetnsRef::Path(path) => path.clone(),
    })
}

impl Netns {
    /// Opens the namespace and checks that it is one.
    pub fn open(netns: &NetnsRef) -> Result<Self, Error> {
        Self::open_path(netns, path(netns)?)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        Self::open_path(&NetnsRef::Path(path.clone()), path)
    }

    fn open_path(netns: &NetnsRef, path: PathBuf) -> Result<Self, Error> {
        let display = || NetnsDisplay(netns.clone());
        let opened = File::open(&path).and_then(|file| {
            let stat = rustix::fs::fstat(&file)?;
            Ok((file, stat))
        });
        let (file, stat) = opened.map_err(|error| Error::Open {
            netns: display(),
            path: path.clone(),
            error,
        })?;
        if namespace_type(file.as_fd()) != Some(libc::CLONE_NEWNET) {
            return Err(Error::NotANetns {
                netns: display(),
                path,
            });
        }
        Ok(Self {
            file,
            id: NetnsId {
                device: stat.st_dev,
                inode: stat.st_ino,
            },
            name: display().to_string(),
        })
    }

    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` inside the namespace, on a thread and a tokio runtime of its own that end with
    /// it: a thread that has changed namespace must never serve anything else.
    ///
    /// Sockets opened by `work` stay with the namespace.
    pub async fn run<T, F, Fut>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        let netns = self.name.clone();
        let thread_error = |netns: &str, error| Error::Thread {
            netns: netns.to_owned(),
            error,
        };
        let file = self
            .file
            .try_clone()
            .map_err(|error| thread_error(&netns, error))?;
        let (sender, receiver) = oneshot::channel();
        let name = netns.clone();
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let done = (|| {
                    enter(file.as_fd()).map_err(|error| Error::Enter {
                        netns: name.clone(),
                        error,
                    })?;
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .map_err(|error| thread_error(&name, error))?;
                    Ok(runtime.block_on(work()))
                })();
                // The caller may have given up waiting; then nobody needs the result.
                let _ = sender.send(done);
            })
            .map_err(|error| thread_error(&netns, error))?;
        match receiver.await {
            Ok(done) => done,
            Err(_) => Err(Error::Panicked { netns }),
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        netns,
        Some(LinkNameSpaceType::Network),
    )?)
}

/// `NS_GET_NSTYPE` (linux/nsfs.h): the `CLONE_NEW*` constant of a namespace file, `None` for
/// another file.
fn namespace_type(file: BorrowedFd<'_>) -> Option<i32> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument, so the kernel reads and writes no memory of ours; the
    // descriptor is open for the borrow. Other files answer ENOTTY: the number is of nsfs only.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    (kind >= 0).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_opens_by_pid_and_path_as_the_same() {
        let by_pid = Netns::open(&NetnsRef::Pid(std::process::id())).unwrap();
        let by_path = Netns::open(&NetnsRef::Path("/proc/self/ns/net".into())).unwrap();
        assert_eq!(by_pid.id(), by_path.id());
        assert_eq!(by_pid.id(), Netns::current().unwrap().id());
        assert!(is(&NetnsRef::Pid(std::process::id()), by_path.id()));
        assert!(!is(&NetnsRef::Pid(u32::MAX), by_path.id()));
        assert!(!is(
            &NetnsRef::Path("/proc/self/ns/uts".into()),
            by_path.id()
        ));
    }

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        let refused = |path: &str| Netns::open(&NetnsRef::Path(path.into())).unwrap_err();
        assert!(matches!(
            refused("/proc/self/ns/uts"),
            Error::NotANetns { .. }
        ));
        assert!(matches!(refused("/proc/version"), Error::NotANetns { .. }));
        assert!(matches!(refused("/no/such/file"), Error::Open { .. }));
    }

    #[test]
    fn name_cannot_leave_its_directory() {
        for name in ["", "..", "a/b", "/proc/self/ns/net"] {
            let refused = Netns::open(&NetnsRef::Name(name.to_owned())).unwrap_err();
            assert!(matches!(refused, Error::Name(_)), "{name:?}");
        }
    }

    #[test]
    fn ended_process_is_named_in_the_error() {
        let refused = Netns::open(&NetnsRef::Pid(u32::MAX)).unwrap_err();
        let words = refused.to_string();
        assert!(words.contains("process 4294967295"), "{words}");
        assert!(words.contains("has ended"), "{words}");
    }
}
