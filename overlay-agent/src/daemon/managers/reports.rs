//! The digests that nodes report: kept by every manager that hears one, passed on to the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use overlay_cluster::{
    control::raft::{MAX_DIGESTS, ReportedDigest},
    id::NodeId,
    log::state::Cluster,
    rotation::Digest,
};
use overlay_ebpf::abi::PeerIndex;
use tokio::sync::Notify;

/// The last digest of each node.
#[derive(Debug, Default)]
pub struct Reports {
    known: Mutex<Known>,
    /// Something new was heard.
    pub heard: Notify,
    /// Something new is to be passed on.
    pub fresh: Notify,
}

#[derive(Debug, Default)]
struct Known {
    by_index: BTreeMap<PeerIndex, Digest>,
    /// Who reported to this manager itself.
    direct: BTreeMap<NodeId, PeerIndex>,
    /// Those of them that the leader does not have.
    fresh: BTreeSet<NodeId>,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has reported, to this manager or (`direct` is false) to another. Only members are
    /// heard, and of one node only what is newer.
    pub fn take(&self, log: &Cluster, node: NodeId, digest: Digest, direct: bool) {
        let Ok(member) = log.roster().present(&node) else {
            return;
        };
        let index = member.index;
        let mut known = self.lock();
        let order = |digest: &Digest| (digest.generation, digest.sequence);
        let newer = known
            .by_index
            .get(&index)
            .is_none_or(|last| order(last) < order(&digest));
        if !newer {
            return;
        }
        known.by_index.insert(index, digest);
        if direct {
            known.direct.insert(node, index);
            known.fresh.insert(node);
            self.fresh.notify_one();
        } else {
            // It reports elsewhere now.
            known.direct.remove(&node);
            known.fresh.remove(&node);
        }
        drop(known);
        self.heard.notify_one();
    }

    /// There is another leader: it may know none of them.
    pub fn all_fresh(&self) {
        let mut known = self.lock();
        known.fresh = known.direct.keys().copied().collect();
        self.fresh.notify_one();
    }

    /// Some of those that are to be passed on, once.
    pub fn take_fresh(&self) -> Vec<ReportedDigest> {
        let mut known = self.lock();
        let nodes: Vec<NodeId> = known.fresh.iter().take(MAX_DIGESTS).copied().collect();
        let mut taken = Vec::with_capacity(nodes.len());
        for node in nodes {
            known.fresh.remove(&node);
            let digest = known
                .direct
                .get(&node)
                .and_then(|index| known.by_index.get(index));
            taken.extend(
                digest
                    .cloned()
                    .map(|digest| ReportedDigest { node, digest }),
            );
        }
        taken
    }

    /// They did not arrive.
    pub fn put_back(&self, digests: &[ReportedDigest]) {
        let mut known = self.lock();
        for ReportedDigest { node, .. } in digests {
            if known.direct.contains_key(node) {
                known.fresh.insert(*node);
            }
        }
    }

    /// What `read` makes of the digests of members; those of others are forgotten.
    pub fn with<T>(
        &self,
        log: &Cluster,
        read: impl FnOnce(&BTreeMap<PeerIndex, Digest>) -> T,
    ) -> T {
        let present: BTreeSet<PeerIndex> = log
            .roster()
            .iter()
            .filter(|(_, member)| member.is_present())
            .map(|(_, member)| member.index)
            .collect();
        let mut known = self.lock();
        known.by_index.retain(|index, _| present.contains(index));
        known.direct.retain(|_, index| present.contains(index));
        let known = &mut *known;
        known.fresh.retain(|node| known.direct.contains_key(node));
        read(&known.by_index)
    }
}
