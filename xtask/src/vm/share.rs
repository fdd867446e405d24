//! Directories of this machine in the guest: one virtiofsd for each.

use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::machine::{ends_with_us, inherit};

/// A served directory; dropping it ends the server.
#[derive(Debug)]
pub struct Share {
    /// Name by which the guest mounts it.
    pub tag: String,
    /// Where it is, here and in the guest.
    pub path: PathBuf,
    /// Abstract socket that QEMU connects to: no file is left behind.
    pub socket: String,
    server: Child,
}

impl Share {
    /// Serves `path`. With `fixed`, the guest may cache without asking, which
    /// is right for what nobody changes meanwhile.
    pub fn start(tag: &str, path: &Path, fixed: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let socket = format!(
            "overlay-xtask-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let address =
            SocketAddr::from_abstract_name(&socket).context("name a socket for virtiofsd")?;
        let listener = UnixListener::bind_addr(&address)
            .with_context(|| format!("listen on the abstract socket {socket}"))?;
        inherit(&listener)?;
        let program = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
            .into_iter()
            .find(|program| Path::new(program).exists())
            .context("find virtiofsd")?;
        let cache = if fixed { "always" } else { "auto" };
        let server = ends_with_us(program)
            .arg(format!("--fd={}", listener.as_raw_fd()))
            // The options of the C and of the Rust virtiofsd.
            .args(["-o", &format!("source={}", path.display())])
            .args(["-o", &format!("cache={cache}")])
            // Its own mount namespace cannot be made for `/`.
            .args(["-o", "sandbox=chroot"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program} for {}", path.display()))?;
        Ok(Self {
            tag: tag.to_owned(),
            path: path.to_owned(),
            socket,
            server,
        })
    }

    /// What the server said, if it has failed by itself. It ends well when QEMU
    /// does.
    pub fn failure(&mut self) -> Option<String> {
        let status = self.server.try_wait().ok().flatten()?;
        if status.success() {
            return None;
        }
        let mut said = String::new();
        let _ignored = self.server.stderr.as_mut()?.read_to_string(&mut said);
        Some(format!(
            "virtiofsd for {} ended with {status}: {}",
            self.path.display(),
            said.trim()
        ))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // It may have ended already, with QEMU's connection.
        let _ignored = self.server.kill();
        let _ignored = self.server.wait();
    }
}
