//! What the rotation needs of the log.

use std::collections::BTreeMap;

use overlay_cluster::{
    id::EpochName,
    log::{epochs::Phase, view::EpochsView, view::View},
    rotation::{LogView, Member, Role},
};

use super::{Reached, pairs};

/// The view of the rotation. `revision` is larger than every one before: that of the log will not do,
/// because which nodes share a network changes without it. SAs are made with those that share an encrypted one.
pub fn log_view(view: &View, revision: u64, reached: &Reached) -> LogView {
    let encrypted = reached
        .peers
        .iter()
        .filter(|(_, (_, networks))| pairs::is_encrypted(networks, &view.networks));
    LogView {
        revision,
        epochs: roles(&view.epochs),
        member: view.peers.contains_key(&view.node),
        peers: encrypted
            .filter_map(|(node, _)| Some((view.peers.get(node)?.index, Member { node: *node })))
            .collect(),
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
