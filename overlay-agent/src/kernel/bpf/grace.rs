//! Waiting for the programs that are running.
//!
//! The kernel gives the memory of an entry that was deleted or replaced to the next one at once
//! (`bpf_mem_cache_free`, kernel/bpf/hashtab.c), while a program may still be reading it: the program
//! then sees the entry of **another key**, such as another container's network. Two CPUs show it
//! within seconds. So user space waits between freeing an entry and the next that needs memory.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use aya_obj::generated::bpf_map_type;

use super::sys;

/// One wait serves all maps of which entries were freed before it began.
struct Waits {
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// Numbers of waits, from 1: the newest that has begun and the newest that has ended well.
    begun: u64,
    ended: u64,
    running: BTreeSet<u64>,
    /// Entries were freed since the newest wait began.
    freed: bool,
}

impl Waits {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                begun: 0,
                ended: 0,
                running: BTreeSet::new(),
                freed: false,
            }),
            ended: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn freed(&self) -> Freed {
        let mut state = self.state();
        state.freed = true;
        Freed(state.begun)
    }

    /// Does not begin a wait where another thread waits already.
    fn settle(&self, freed: Freed, wait: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        while state.ended <= freed.0 {
            if state.running.iter().any(|number| *number > freed.0) {
                let waited = self.ended.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            state.freed = false;
            let number = state.begun;
            state.running.insert(number);
            drop(state);
            let waited = wait();
            state = self.state();
            state.running.remove(&number);
            if waited.is_ok() {
                state.ended = state.ended.max(number);
            }
            self.ended.notify_all();
            waited?;
        }
        Ok(())
    }
}

static WAITS: Waits = Waits::new();

/// When an entry was freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freed(u64);

impl Freed {
    pub(super) fn now() -> Self {
        WAITS.freed()
    }

    /// Returns when every program run that was under way then has ended: at once, or after some
    /// milliseconds.
    pub(super) fn settle(self) -> io::Result<()> {
        WAITS.settle(self, wait)
    }
}

/// Waits on a thread of its own if entries were freed, so that the next write need not.
pub fn settle_soon() {
    if WAITS.state().freed {
        let settled = thread::Builder::new()
            .name("grace".into())
            .spawn(|| Freed::now().settle());
        // The next write waits.
        drop(settled);
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
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_wait_serves_all_that_was_freed_before_it_began() {
        let (waits, count) = (Waits::new(), Cell::new(0));
        let wait = || {
            count.set(count.get() + 1);
            Ok(())
        };
        let (first, second) = (waits.freed(), waits.freed());
        waits.settle(first, wait).unwrap();
        waits.settle(second, wait).unwrap();
        assert_eq!(count.get(), 1);
        waits.settle(waits.freed(), wait).unwrap();
        assert_eq!(count.get(), 2);
    }

    #[test]
    fn what_was_freed_during_a_wait_needs_another_and_a_failed_wait_serves_nobody() {
        let waits = Waits::new();
        let first = waits.freed();
        let meanwhile = Cell::new(None);
        waits
            .settle(first, || {
                meanwhile.set(Some(waits.freed()));
                Ok(())
            })
            .unwrap();
        let refused = || Err(io::ErrorKind::OutOfMemory.into());
        let meanwhile = meanwhile.get().unwrap();
        waits.settle(meanwhile, refused).unwrap_err();
        waits.settle(meanwhile, refused).unwrap_err();
        waits.settle(meanwhile, || Ok(())).unwrap();
        waits.settle(meanwhile, refused).unwrap();
    }
}
