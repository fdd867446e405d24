//! Removing a data plane.

use std::{fs, io, os::fd::AsFd as _, path::Path, time::Duration};

use super::{
    attach::removal_order,
    clsact,
    error::BpfError,
    hook,
    lock::Lock,
    netlink::Netlink,
    pin_root::{self, PinRoot},
    sys,
};

/// How long to wait for another process that is changing the data plane.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes every program of the data plane at a pin directory off its device and removes every pin,
/// also those of another ABI version, of an interrupted load or of a mismatched one. Does nothing if
/// there is nothing.
///
/// Links go wherever their devices are; clsact filters (kernels before 6.6) are found in the current
/// network namespace. A clsact qdisc stays: others may use it, and an empty one does nothing.
pub fn clear(root: &Path) -> Result<(), BpfError> {
    let lock = Lock::acquire(root, PATIENCE)?;
    clear_locked(root, lock)
}

pub(super) fn clear_locked(root: &Path, lock: Lock) -> Result<(), BpfError> {
    PinRoot::new(root).check_owner()?;
    let versions = pin_root::versions(root)?;
    let mut links = Vec::new();
    for version in &versions {
        links.extend(pin_root::entries(&version.join("links"))?);
    }
    links.sort_by_key(|path| removal_order(program_of(path)));
    for path in links {
        let link = sys::object_get(&path).map_err(BpfError::pin("open the pin", &path))?;
        match sys::link_detach(link.as_fd()) {
            // Its device is gone.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            result => result.map_err(BpfError::pin("detach the link at", &path))?,
        }
        pin_root::unpin(&path)?;
    }

    let mut netlink = Netlink::open().map_err(BpfError::netlink("open an rtnetlink socket"))?;
    let mut filters = clsact::list(&mut netlink)?;
    filters.sort_by_key(|attached| removal_order(hook::name(attached.program)));
    for attached in filters {
        let device = format!("ifindex {}", attached.ifindex);
        clsact::detach(&mut netlink, attached.program, attached.ifindex, &device)?;
    }

    for version in versions {
        fs::remove_dir_all(&version).map_err(BpfError::io("remove", &version))?;
    }
    match fs::remove_dir(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::io("remove", root)(error))
        }
        _ => lock.remove(),
    }
}

/// `underlay_audit-17` → `underlay_audit`.
fn program_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.rsplit_once('-'))
        .map_or("", |(program, _)| program)
}
