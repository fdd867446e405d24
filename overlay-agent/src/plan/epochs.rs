//! What the rotation needs of the log.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    id::EpochName,
    log::{epochs::Phase, view::EpochsView, view::View},
    rotation::{LogView, Role},
};
use overlay_ebpf::abi::Vni;

use super::{claims::Believed, pairs};

/// The view of the rotation. `revision` is larger than every one before: that of the log will not do,
/// because which nodes share a network changes without it.
pub fn log_view(view: &View, revision: u64, hosted: &BTreeSet<Vni>, remote: &Believed) -> LogView {
    LogView {
        revision,
        epochs: roles(&view.epochs),
        member: view.peers.contains_key(&view.node),
        peers: pairs::encrypted(view, hosted, remote),
    }
}

/// What each epoch is good for.
fn roles(epochs: &EpochsView) -> BTreeMap<EpochName, Role> {
    let mut roles = BTreeMap::from([(epochs.current, Role::Active)]);
    match epochs.phase {
        Phase::Stable => {}
        Phase::Staging { next, .. } => {
            roles.insert(next, Role::Staged);
        }
        Phase::Activated { retiring, .. } => {
            roles.insert(retiring, Role::Retiring);
        }
    }
    roles
}
