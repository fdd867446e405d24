//! TC before TCX (kernel 6.6): filters of the clsact qdisc.
//!
//! Such a filter belongs to no process and cannot be pinned. It is found again by its priority and
//! handle, which say that it is ours and which program it runs, and is replaced in place, which
//! cls_bpf does atomically. The qdisc may be shared and is never deleted.

use std::os::fd::BorrowedFd;

use super::{
    error::BpfError,
    hook::{self, Hook, PROGRAMS},
    netlink::{Filter, Netlink},
};
use crate::dataplane::objects::Program;

/// The first: an earlier filter that answers `TC_ACT_OK` would end the chain before ours.
const PRIORITY: u16 = 1;

/// "ovl", and the position in [`PROGRAMS`] in the lowest byte.
const HANDLE: u32 = 0x6f76_6c00;

/// One of our filters.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) program: Program,
    pub(super) ifindex: u32,
    pub(super) filter: Filter,
}

fn handle(program: &str) -> u32 {
    PROGRAMS
        .iter()
        .position(|known| *known == program)
        .map_or(HANDLE, |position| HANDLE | position as u32)
}

/// Our filters on every device of the namespace.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Attached>, BpfError> {
    let devices = netlink
        .clsact_devices()
        .map_err(BpfError::netlink("list the clsact qdiscs"))?;
    let mut attached = Vec::new();
    for ifindex in devices {
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            let filters = match netlink.filters(ifindex, hook) {
                Ok(filters) => filters,
                // Gone since it was listed.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => {
                    continue;
                }
                Err(error) => {
                    return Err(BpfError::netlink(format!(
                        "list the filters at {} of ifindex {ifindex}",
                        hook.name()
                    ))(error));
                }
            };
            for filter in filters {
                let program = PROGRAMS
                    .into_iter()
                    .find(|name| handle(name) == filter.handle)
                    .and_then(hook::tc_program)
                    .filter(|program| hook::hook(*program) == hook);
                if let (PRIORITY, Some(program)) = (filter.priority, program) {
                    attached.push(Attached {
                        program,
                        ifindex,
                        filter,
                    });
                }
            }
        }
    }
    Ok(attached)
}

/// Puts the program on the device, atomically in place of an earlier version.
pub(super) fn attach(
    netlink: &mut Netlink,
    program: Program,
    ifindex: u32,
    device: &str,
    fd: BorrowedFd<'_>,
) -> Result<(), BpfError> {
    let hook = hook::hook(program);
    let name = hook::name(program);
    let failed = |hint| {
        move |source: super::netlink::NetlinkError| BpfError::Attach {
            attempt: "attach",
            program: name,
            device: device.to_owned(),
            ifindex,
            hook: hook.name(),
            source: source.into(),
            hint: Some(hint),
        }
    };
    netlink.add_clsact(ifindex).map_err(failed(
        "the device needs a clsact qdisc: an `ingress` qdisc in its place must go (`tc qdisc del dev \
         DEVICE ingress`)",
    ))?;
    netlink.set_filter(ifindex, hook, PRIORITY, handle(name), fd, name)
        .map_err(failed(
            "priority 1 must be free or hold BPF filters for all protocols: see `tc filter show dev \
             DEVICE`",
        ))
}

/// Removes the program from the device.
pub(super) fn detach(
    netlink: &mut Netlink,
    program: Program,
    ifindex: u32,
    device: &str,
) -> Result<(), BpfError> {
    let hook = hook::hook(program);
    let name = hook::name(program);
    netlink
        .delete_filter(ifindex, hook, PRIORITY, handle(name))
        .map_err(|source| BpfError::Attach {
            attempt: "detach",
            program: name,
            device: device.to_owned(),
            ifindex,
            hook: hook.name(),
            source: source.into(),
            hint: None,
        })
}

#[cfg(test)]
mod tests {
    use overlay_ebpf::abi::program;

    use super::*;

    #[test]
    fn handles_are_stable_because_later_agents_look_for_them() {
        assert_eq!(handle(program::ENDPOINT_TX), 0x6f76_6c00);
        assert_eq!(handle(program::UNDERLAY_AUDIT), 0x6f76_6c05);
    }
}
