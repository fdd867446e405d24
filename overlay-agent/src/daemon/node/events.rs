//! What happens on a node, for people.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use overlay_cluster::{
    id::{EpochName, NodeId},
    log::{epochs::Phase, view::View},
    time::Timestamp,
};
use tokio::sync::broadcast;

/// Kept for those who come later, and for those who are slow.
const KEPT: usize = 512;

/// One event. Numbers begin with 1 at each start of the agent and leave none out: who misses some
/// sees that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub number: u64,
    pub time: Timestamp,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    EndpointAttached {
        network: String,
        name: String,
        addresses: Vec<IpAddr>,
    },
    EndpointDetached {
        network: String,
        name: String,
    },
    NodeJoined {
        node: NodeId,
        name: String,
    },
    /// Left, was removed, or was evicted.
    NodeGone {
        node: NodeId,
        name: String,
    },
    /// This node takes part no longer.
    Evicted {
        reason: String,
    },
    NetworkCreated {
        name: String,
    },
    NetworkRemoved {
        name: String,
    },
    EpochStaged {
        epoch: EpochName,
    },
    EpochActivated {
        epoch: EpochName,
    },
    EpochRetired {
        epoch: EpochName,
    },
    /// Somebody must act.
    Alarm {
        text: String,
    },
    /// What another node tells is not believed.
    Doubt {
        text: String,
    },
    /// Others changed what is ours in the kernel, or what it stands on.
    Drift {
        text: String,
    },
    /// Something is not as it should be.
    Problem {
        text: String,
    },
    /// And is again.
    Solved {
        text: String,
    },
}

impl What {
    /// Its kind, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EndpointAttached { .. } => "endpoint-attached",
            Self::EndpointDetached { .. } => "endpoint-detached",
            Self::NodeJoined { .. } => "node-joined",
            Self::NodeGone { .. } => "node-gone",
            Self::Evicted { .. } => "evicted",
            Self::NetworkCreated { .. } => "network-created",
            Self::NetworkRemoved { .. } => "network-removed",
            Self::EpochStaged { .. } => "epoch-staged",
            Self::EpochActivated { .. } => "epoch-activated",
            Self::EpochRetired { .. } => "epoch-retired",
            Self::Alarm { .. } => "alarm",
            Self::Doubt { .. } => "doubt",
            Self::Drift { .. } => "drift",
            Self::Problem { .. } => "problem",
            Self::Solved { .. } => "solved",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointAttached {
                network,
                name,
                addresses,
            } => {
                write!(f, "endpoint {name} attached to network {network}")?;
                addresses.iter().try_for_each(|ip| write!(f, " {ip}"))
            }
            Self::EndpointDetached { network, name } => {
                write!(f, "endpoint {name} detached from network {network}")
            }
            Self::NodeJoined { node, name } => write!(f, "node {name} joined ({node})"),
            Self::NodeGone { node, name } => write!(f, "node {name} is gone ({node})"),
            Self::Evicted { reason } => write!(f, "this node takes part no longer: {reason}"),
            Self::NetworkCreated { name } => write!(f, "network {name} created"),
            Self::NetworkRemoved { name } => write!(f, "network {name} removed"),
            Self::EpochStaged { epoch } => write!(f, "epoch {epoch} staged"),
            Self::EpochActivated { epoch } => write!(f, "epoch {epoch} activated"),
            Self::EpochRetired { epoch } => write!(f, "epoch {epoch} retired"),
            Self::Alarm { text } => write!(f, "alarm: {text}"),
            Self::Doubt { text } => write!(f, "doubt: {text}"),
            Self::Drift { text } => f.write_str(text),
            Self::Problem { text } => write!(f, "problem: {text}"),
            Self::Solved { text } => write!(f, "solved: {text}"),
        }
    }
}

/// Numbers events and passes them on. Who does not keep up misses some and is told so.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    events: VecDeque<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(KEPT).0,
            kept: Mutex::default(),
        }
    }
}

impl Events {
    pub fn add(&self, time: Timestamp, what: What) {
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        let event = Event { number, time, what };
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(event.clone());
        // Nobody may be there to hear it.
        let _heard = self.sender.send(event);
    }

    /// Those that are kept, and all that come.
    pub fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept();
        (
            kept.events.iter().cloned().collect(),
            self.sender.subscribe(),
        )
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one view says that the one before did not.
pub fn changes(before: &View, now: &View) -> Vec<What> {
    let mut out = Vec::new();
    let names = |view: &View| -> BTreeMap<NodeId, String> {
        let peers = view.peers.iter();
        peers
            .map(|(id, peer)| (*id, peer.name.to_string()))
            .collect()
    };
    let (old, new) = (names(before), names(now));
    for (node, name) in new.iter().filter(|(id, _)| !old.contains_key(id)) {
        out.push(What::NodeJoined {
            node: *node,
            name: name.clone(),
        });
    }
    for (node, name) in old.iter().filter(|(id, _)| !new.contains_key(id)) {
        out.push(What::NodeGone {
            node: *node,
            name: name.clone(),
        });
    }
    for (vni, network) in &now.networks {
        if !before.networks.contains_key(vni) {
            let name = network.name.to_string();
            out.push(What::NetworkCreated { name });
        }
    }
    for (vni, network) in &before.networks {
        if !now.networks.contains_key(vni) {
            let name = network.name.to_string();
            out.push(What::NetworkRemoved { name });
        }
    }
    let staged = |view: &View| match view.epochs.phase {
        Phase::Staging { next, .. } => Some(next),
        _ => None,
    };
    if let Some(epoch) = staged(now).filter(|epoch| staged(before) != Some(*epoch)) {
        out.push(What::EpochStaged { epoch });
    }
    if before.epochs.current != now.epochs.current {
        let epoch = now.epochs.current;
        out.push(What::EpochActivated { epoch });
    }
    for epoch in &before.epochs.kept {
        if !now.epochs.kept.contains(epoch) {
            out.push(What::EpochRetired { epoch: *epoch });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    const TIME: Timestamp = Timestamp::from_secs(1);

    fn problem(number: usize) -> What {
        What::Problem {
            text: number.to_string(),
        }
    }

    #[test]
    fn events_are_numbered_kept_up_to_a_bound_and_passed_on() {
        let events = Events::default();
        for number in 0..KEPT + 5 {
            events.add(TIME, problem(number));
        }
        let (kept, mut coming) = events.follow();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].number, 6);
        assert_eq!(kept.last().map(|event| event.number), Some(KEPT as u64 + 5));
        events.add(TIME, problem(0));
        assert_eq!(
            coming.try_recv().map(|event| event.number),
            Ok(KEPT as u64 + 6)
        );
    }

    #[test]
    fn views_tell_who_came_and_who_went() {
        let before = testing::view();
        assert_eq!(changes(&before, &before), []);
        let mut now = before.clone();
        let (gone, _) = now.peers.pop_last().unwrap();
        now.networks.pop_first();
        let seen = changes(&before, &now);
        assert!(
            matches!(&seen[..], [What::NodeGone { node, .. }, What::NetworkRemoved { .. }] if *node == gone),
            "{seen:?}"
        );
        let back = changes(&now, &before);
        assert!(
            matches!(
                &back[..],
                [What::NodeJoined { .. }, What::NetworkCreated { .. }]
            ),
            "{back:?}"
        );
    }
}
