//! Waiting for the programs that are running.
//!
//! The kernel gives the memory of an entry that was deleted or replaced to the next one at once
//! (`bpf_mem_cache_free`, kernel/bpf/hashtab.c), while a program may still be reading it: the program
//! then sees the entry of **another key**, such as another container's network. Two CPUs show it
//! within seconds. So user space waits between freeing an entry and the next that needs memory.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::OnceLock,
};

use aya_obj::generated::bpf_map_type;

use super::sys;

/// Returns when every program run that was under way has ended: some milliseconds.
///
/// The kernel promises this for an update of a map of maps (`maybe_wait_bpf_programs`,
/// kernel/bpf/syscall.c), on every configuration; membarrier(2) refuses with `nohz_full`.
pub(super) fn wait() -> io::Result<()> {
    static MAPS: OnceLock<Maps> = OnceLock::new();
    let maps = match MAPS.get() {
        Some(maps) => maps,
        None => {
            let maps = Maps::create()?;
            MAPS.get_or_init(|| maps)
        }
    };
    sys::map_of_maps_set(maps.outer.as_fd(), maps.inner.as_fd())
}

struct Maps {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Maps {
    fn create() -> io::Result<Self> {
        let inner = sys::map_create(bpf_map_type::BPF_MAP_TYPE_ARRAY, None)?;
        let outer = sys::map_create(
            bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            Some(inner.as_fd()),
        )?;
        Ok(Self { outer, inner })
    }
}
