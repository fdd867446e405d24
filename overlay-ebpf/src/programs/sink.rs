//! TC ingress of devices that exist for a side effect alone: nothing may arrive there.
//!
//! `ovl-hop` gets what someone injects into `ovl-in`. `ovl-gro` makes the kernel join VXLAN
//! segments; what reaches it passed the receive programs as not theirs, and ends here.

use aya_ebpf::programs::TcContext;
use overlay_ebpf::abi::{Direction, DropReason};

use super::report::Drop;

pub fn sink(_: &TcContext) -> Result<i32, Drop> {
    Err(Drop::new(DropReason::ForeignTraffic, Direction::Internal))
}
