//! Waiting for the programs that are running.
//!
//! The kernel gives the memory of an entry that was deleted or replaced to the next one at once
//! (`bpf_mem_cache_free`, kernel/bpf/hashtab.c), while a program may still be reading it: the program
//! then sees the entry of **another key**, such as another container's network. Two CPUs show it
//! within seconds. So user space waits between freeing an entry and the next that needs memory.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use aya_obj::generated::bpf_map_type;

use super::sys;

/// Waits that have begun, and the newest of them that has ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// When an entry was freed. One wait serves all maps of which entries were freed before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freed(u64);

impl Freed {
    pub(super) fn now() -> Self {
        Self(BEGUN.load(Ordering::SeqCst))
    }

    /// Returns when every program run that was under way then has ended: at once, or after some
    /// milliseconds.
    pub(super) fn settle(self) -> io::Result<()> {
        if ENDED.load(Ordering::SeqCst) > self.0 {
            return Ok(());
        }
        let wait = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
        self::wait()?;
        ENDED.fetch_max(wait, Ordering::SeqCst);
        Ok(())
    }
}

/// Returns when every program run that was under way has ended.
///
/// The kernel promises this for an update of a map of maps (`maybe_wait_bpf_programs`,
/// kernel/bpf/syscall.c), on every configuration; membarrier(2) refuses with `nohz_full`.
fn wait() -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wait_serves_all_that_was_freed_before_it_began() {
        let (first, second) = (Freed::now(), Freed::now());
        let wait = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
        let meanwhile = Freed::now();
        ENDED.fetch_max(wait, Ordering::SeqCst);
        let ended = ENDED.load(Ordering::SeqCst);
        assert!(ended > first.0 && ended > second.0);
        assert!(ended <= meanwhile.0);
    }
}
