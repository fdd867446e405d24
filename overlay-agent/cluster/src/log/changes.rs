//! What changed of late: enough to tell a node the difference, within bounds.

use std::collections::{BTreeSet, VecDeque};

use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// Something that changed, came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Change {
    Member(NodeId),
    Network(Vni),
    /// The blocks that this node holds.
    Blocks(NodeId),
    Epochs,
    Settings,
    /// The trusted roots.
    Trust,
}

/// The last changes, each with the revision that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changes {
    recent: VecDeque<(u64, Change)>,
    /// Changes up to this revision are forgotten.
    forgotten: u64,
}

impl Changes {
    /// Changes that are remembered: a node that is further behind gets the whole view.
    pub const MAX: usize = 4096;

    pub fn record(&mut self, revision: u64, change: Change) {
        if self.recent.back() == Some(&(revision, change)) {
            return;
        }
        while self.recent.len() >= Self::MAX {
            if let Some((revision, _)) = self.recent.pop_front() {
                self.forgotten = revision;
            }
        }
        self.recent.push_back((revision, change));
    }

    /// What changed after `revision`; `None` if not all of it is remembered.
    pub fn after(&self, revision: u64) -> Option<BTreeSet<Change>> {
        (revision >= self.forgotten).then(|| {
            let start = self.recent.partition_point(|(at, _)| *at <= revision);
            self.recent
                .range(start..)
                .map(|(_, change)| *change)
                .collect()
        })
    }

    /// What is wrong with the changes, if anything.
    pub fn fault(&self, revision: u64) -> Option<String> {
        let revisions = || self.recent.iter().map(|(at, _)| *at);
        let sound = self.recent.len() <= Self::MAX
            && revisions().is_sorted()
            && revisions().all(|at| (self.forgotten..=revision).contains(&at));
        (!sound).then(|| "the changes are out of order".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_known_and_older_ones_forgotten() {
        let mut changes = Changes::default();
        for revision in 1..=5000 {
            changes.record(revision, Change::Epochs);
        }
        assert_eq!(changes.fault(5000), None);
        assert_eq!(changes.after(5000), Some(BTreeSet::new()));
        let oldest = 5000 - Changes::MAX as u64;
        assert_eq!(changes.after(oldest), Some([Change::Epochs].into()));
        assert_eq!(changes.after(oldest - 1), None);
    }

    #[test]
    fn a_revision_half_forgotten_is_forgotten() {
        let mut changes = Changes::default();
        changes.record(1, Change::Settings);
        for vni in 0..Changes::MAX as u32 {
            changes.record(1, Change::Network(Vni::new(5000 + vni).expect("a VNI")));
        }
        assert_eq!(changes.after(0), None);
    }
}
