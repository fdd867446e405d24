//! How this node is, as the API asks for it: state, drops, peers, events.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{Stream, StreamExt as _, stream};
use overlay_cluster::{
    gossip::engine::Counters,
    log::{epochs::Phase as LogPhase, member::Availability, view::View},
    rotation::status::PeerStatus,
};
use overlay_ebpf::abi::{DropReason, Vni};
use tokio::sync::broadcast;

use super::{Agent, ManagerState, Part, Running, errors, keys::name};
use crate::{
    api::{
        ApiError, Time,
        event::{Event, EventQuery, Kind},
        keys::Phase,
        node::NodeStatus,
        status::{
            ClosedPeer, Drop, Encryption, Endpoints, EpochStatus, Layer, Managers, Nodes, Peer,
            Problem, SelfNode, Severity, State, Status,
        },
    },
    daemon::{
        managers::status::{ManagerPlace, ManagerStatus, Status as ManagersStatus},
        node::{self, What},
    },
    dataplane::step::address_of,
    kernel::{
        bpf::Pinned,
        drops::{self, BLOCK_POLICY},
    },
};

impl Agent {
    pub(super) async fn do_status(&self) -> Result<Status, ApiError> {
        let (drops, mut problems) = self.drops().await;
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            state: State::NoCluster,
            cluster: None,
            node: None,
            encryption: Encryption::default(),
            epoch: None,
            managers: None,
            nodes: Nodes::default(),
            endpoints: Endpoints::default(),
            drops,
            problems: Vec::new(),
        };
        let running = match self.part() {
            Part::None => {
                status.problems = problems;
                return Ok(status);
            }
            Part::Broken(why) => {
                problems.push(Problem::new(Severity::Error, &errors::broken(&why)));
                status.problems = problems;
                return Ok(status);
            }
            Part::Node(running) => running,
        };
        let node = running.node.status();
        let view = running.node.view();
        status.state = match running.manager_state() {
            _ if node.put_out.is_some() => State::Evicted,
            ManagerState::Locked => State::Locked,
            ManagerState::Worker | ManagerState::Running => State::Member,
        };
        status.cluster = Some(view.cluster);
        status.node = view.peers.get(&view.node).map(|own| SelfNode {
            id: view.node.to_string(),
            name: own.name.to_string(),
            index: own.index,
            role: own.role,
            availability: own.availability.into(),
        });
        status.drops.extend(refused(&node.gossip.refused));
        status
            .drops
            .sort_by_key(|drop| std::cmp::Reverse(drop.packets));
        status.encryption = encryption(&running, &view, &node, &status.drops);
        let now = Time::now();
        let interval = view.epochs.policy.interval;
        status.epoch = Some(EpochStatus {
            number: view.epochs.current.number,
            phase: match view.epochs.phase {
                LogPhase::Stable => Phase::Stable,
                LogPhase::Staging { .. } => Phase::Staging,
                LogPhase::Activated { .. } => Phase::Activated,
            },
            age_seconds: Time(view.epochs.rotated).age(now).as_secs(),
            next_rotation: Time(view.epochs.rotated.saturating_add(interval)),
        });
        let managers = managers(&running, &view, &node);
        problems.extend(undecided(&running, &managers));
        status.managers = Some(managers);
        status.nodes = nodes(&view, &node);
        status.endpoints = Endpoints {
            local: running.node.endpoints().len(),
            remote: running.node.remote_endpoints(),
        };
        self.troubles(&running, &node, &mut problems);
        status.problems = problems;
        Ok(status)
    }

    fn troubles(&self, running: &Running, node: &node::Status, problems: &mut Vec<Problem>) {
        let mut add = |severity, texts: &mut dyn Iterator<Item = String>| {
            problems.extend(texts.map(|text| Problem::new(severity, &text)));
        };
        add(Severity::Alarm, &mut node.alarms.iter().cloned());
        add(Severity::Error, &mut node.put_out.iter().cloned());
        add(Severity::Error, &mut running.trouble().into_iter());
        add(Severity::Error, &mut node.managers.error.iter().cloned());
        add(Severity::Error, &mut node.problems.iter().cloned());
        add(Severity::Error, &mut node.kernel.problems.iter().cloned());
        add(Severity::Warning, &mut node.doubts.iter().cloned());
        if let Some(managers) = running.managers() {
            let status = managers.status();
            add(Severity::Error, &mut status.notes.into_iter());
        }
    }

    /// What was dropped, the largest count first, and what could not be read of it.
    async fn drops(&self) -> (Vec<Drop>, Vec<Problem>) {
        let mut problems = Vec::new();
        let pins = self.options.directories.pins.clone();
        let read = tokio::task::spawn_blocking(move || match Pinned::open(&pins)? {
            Some(pinned) => pinned.drops(),
            None => Ok(BTreeMap::new()),
        });
        let mut all = Vec::new();
        match read.await {
            Ok(Ok(counts)) => {
                let seen = counts.into_iter().filter(|(_, count)| count.packets > 0);
                all.extend(seen.map(|((reason, direction), count)| Drop {
                    layer: Layer::Program,
                    reason: reason.name().into(),
                    direction: direction.name().into(),
                    packets: count.packets,
                    bytes: Some(count.bytes),
                    text: reason.text().into(),
                }));
            }
            Ok(Err(error)) => problems.push(Problem::new(Severity::Error, &error)),
            Err(error) => problems.push(Problem::new(Severity::Error, &error)),
        }
        match drops::read().await {
            Ok(counters) => {
                let seen = counters
                    .into_iter()
                    .filter_map(|counter| Some((counter.packets.filter(|it| *it > 0)?, counter)));
                all.extend(seen.map(|(packets, counter)| Drop {
                    layer: Layer::Kernel,
                    reason: counter.counter,
                    direction: String::new(),
                    packets,
                    bytes: counter.bytes,
                    text: counter.text.into(),
                }));
            }
            Err(error) => problems.push(Problem::new(Severity::Error, &error)),
        }
        all.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
        (all, problems)
    }

    pub(super) fn list_peers(&self) -> Result<Vec<Peer>, ApiError> {
        let running = self.running()?;
        let status = running.node.status();
        let view = running.node.view();
        let Some(pinned) =
            Pinned::open(&self.options.directories.pins).map_err(|error| errors::host(&error))?
        else {
            return Ok(Vec::new());
        };
        let maps = pinned
            .observe_maps()
            .map_err(|error| errors::host(&error))?;
        let stats = pinned.peer_stats().map_err(|error| errors::host(&error))?;
        let peers = maps.peers.iter().map(|(key, entry)| {
            let found = view
                .peers
                .iter()
                .find(|(_, peer)| peer.index.get() == key.peer);
            let stats = stats.get(key).copied().unwrap_or_default();
            let rotation = status.peers.iter().find(|peer| peer.peer.get() == key.peer);
            let closed = rotation.and_then(closed);
            let carries = entry.tx.lanes > 0;
            Some(Peer {
                index: found?.1.index,
                name: found?.1.name.to_string(),
                status: if status.gossip.up.contains(found?.0) {
                    NodeStatus::Ready
                } else if status.gossip.down.contains(found?.0) {
                    NodeStatus::Down
                } else {
                    NodeStatus::Unknown
                },
                vtep: address_of(&entry.vtep),
                device: device_name(entry.underlay_ifindex),
                path_mtu: Some(entry.underlay_mtu),
                epoch: carries.then_some(entry.tx.epoch),
                slot: carries.then_some(entry.tx.slot),
                lanes: entry.tx.lanes,
                closed,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
            })
        });
        Ok(peers.flatten().collect())
    }
}

/// Why nothing of an encrypted network goes to a peer, if so.
fn closed(peer: &PeerStatus) -> Option<String> {
    if peer.sends.is_some() {
        return None;
    }
    Some(peer.lag.map_or_else(
        || "its SAs are being made".to_owned(),
        |lag| lag.to_string(),
    ))
}

/// What gossip has refused since the agent's start.
fn refused(counters: &Counters) -> impl Iterator<Item = Drop> {
    // Not sent is not refused.
    let Counters {
        limited,
        unopened,
        replayed,
        forged,
        malformed,
        lies,
        quota,
        unsent: _,
    } = *counters;
    [
        (
            limited,
            "Limited",
            "datagrams beyond the rate limit of their source",
        ),
        (
            unopened,
            "Unopened",
            "datagrams of strangers, or under keys that this node does not have",
        ),
        (replayed, "Replayed", "datagrams seen before, or too old"),
        (forged, "Forged", "datagrams with a wrong tag"),
        (
            malformed,
            "Malformed",
            "payloads or records that no honest member writes",
        ),
        (
            lies,
            "Lies",
            "records without their owner's signature, or of no member",
        ),
        (quota, "Quota", "records beyond their owner's quota"),
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, reason, text)| Drop {
        layer: Layer::Gossip,
        reason: reason.into(),
        direction: "Gossip".into(),
        packets: count,
        bytes: None,
        text: text.into(),
    })
}

fn encryption(running: &Running, view: &View, node: &node::Status, drops: &[Drop]) -> Encryption {
    let endpoints = running.node.endpoints();
    let hosted: BTreeSet<Vni> = endpoints.iter().map(|endpoint| endpoint.vni).collect();
    let networks = hosted.iter().filter_map(|vni| view.networks.get(vni));
    let (encrypted, plain): (Vec<_>, Vec<_>) = networks.partition(|network| network.encrypted);
    let closed: Vec<_> = node
        .peers
        .iter()
        .filter_map(|peer| {
            Some(ClosedPeer {
                name: name(running, peer.peer),
                why: closed(peer)?,
            })
        })
        .collect();
    let barrier = |drop: &&Drop| {
        drop.reason == BLOCK_POLICY || drop.reason == DropReason::CleartextEncryptedVni.name()
    };
    Encryption {
        encrypted_networks: encrypted.len(),
        plain_networks: plain
            .iter()
            .map(|network| network.name.to_string())
            .collect(),
        peers: node.peers.len(),
        open: node.peers.len() - closed.len(),
        closed,
        cleartext_stopped: drops.iter().filter(barrier).map(|drop| drop.packets).sum(),
    }
}

fn managers(running: &Running, view: &View, node: &node::Status) -> Managers {
    let is_manager = |(_, peer): &(_, &overlay_cluster::log::view::Peer)| {
        peer.role == overlay_cluster::identity::Role::Manager
    };
    let all: Vec<_> = view.peers.iter().filter(is_manager).collect();
    let up = |id| id == view.node || node.gossip.up.contains(&id);
    let heard = node.managers.error.is_none();
    // Gossip is hearsay; one that answers is up whatever it says.
    let answers = usize::from(heard && node.managers.heard.is_some());
    let reachable = all.iter().filter(|(id, _)| up(**id)).count().max(answers);
    let own = running.managers().map(|managers| managers.status());
    let leader = own.as_ref().and_then(|own| view.peers.get(&own.leader?));
    let has_vote = |manager: &&ManagerStatus| manager.place == ManagerPlace::Voter;
    let count = |own: &ManagersStatus| own.managers.iter().filter(has_vote).count();
    Managers {
        total: all.len(),
        reachable,
        voters: own.as_ref().map(count),
        quorum: can_decide(own.as_ref(), heard, reachable, all.len()),
        leader: leader.map(|peer| peer.name.to_string()),
    }
}

/// Whether the managers can decide, as far as this node knows. `own` is what the manager on it says,
/// `heard` that some manager answers, `reachable` how many of `all` seem up.
///
/// A leader knows which managers answer. One that has lost the others leads on, and who hears it hears no
/// others; a worker hears any manager.
fn can_decide(own: Option<&ManagersStatus>, heard: bool, reachable: usize, all: usize) -> bool {
    let majority = reachable * 2 > all;
    match own {
        Some(own) if own.leads => own.quorum,
        Some(own) => own.quorum && majority,
        None => heard && majority,
    }
}

/// That the managers cannot decide, where the manager on this node does not say so itself.
fn undecided(running: &Running, managers: &Managers) -> Option<Problem> {
    let says_so = running.managers().is_some_and(|own| !own.has_quorum());
    let Managers {
        total, reachable, ..
    } = managers;
    (!managers.quorum && !says_so).then(|| Problem {
        severity: Severity::Error,
        message: format!(
            "the managers cannot decide: {reachable} of {total} seem to be up. The data path goes on; no key \
             is rotated and nothing changes until more than half are"
        ),
        remedy: "start the others".into(),
    })
}

fn nodes(view: &View, node: &node::Status) -> Nodes {
    let count = |is: &dyn Fn(&overlay_cluster::id::NodeId) -> bool| {
        view.peers.keys().filter(|id| is(id)).count()
    };
    Nodes {
        total: view.peers.len(),
        ready: count(&|id| *id == view.node || node.gossip.up.contains(id)),
        down: count(&|id| node.gossip.down.contains(id)),
        drained: count(&|id| view.peers[id].availability == Availability::Drain),
    }
}

/// The name of a network device; `None` if it is gone.
fn device_name(index: u32) -> Option<String> {
    use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};

    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    index_to_name(any, index).ok()
}

/// The events that the agent remembers, and with `follow` all that come.
pub(super) fn events(
    agent: &Agent,
    query: EventQuery,
) -> Result<impl Stream<Item = Event> + Send + 'static, ApiError> {
    let running = agent.running()?;
    let (kept, receiver) = running.node.events();
    let after = query.after.unwrap_or(0);
    let last = kept.last().map_or(0, |event| event.number);
    let before = stream::iter(kept).filter(move |event| std::future::ready(event.number > after));
    let coming = stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((event, receiver)),
                // The next number tells how many are missing.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
    .filter(move |event| std::future::ready(event.number > after.max(last)));
    let coming = if query.follow {
        coming.left_stream()
    } else {
        stream::empty().right_stream()
    };
    Ok(before.chain(coming).map(event))
}

fn event(event: node::Event) -> Event {
    let mut attributes = BTreeMap::new();
    let mut attribute = |key: &str, value: String| {
        attributes.insert(key.to_owned(), value);
    };
    let (kind, action, name) = match event.what {
        What::EndpointAttached {
            network,
            name,
            addresses,
        } => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            attribute("network", network);
            attribute("addresses", addresses.join(","));
            (Kind::Endpoint, "attach", name)
        }
        What::EndpointDetached { network, name } => {
            attribute("network", network);
            (Kind::Endpoint, "detach", name)
        }
        What::NodeJoined { node, name } => {
            attribute("id", node.to_string());
            (Kind::Node, "join", name)
        }
        What::NodeGone { node, name } => {
            attribute("id", node.to_string());
            (Kind::Node, "remove", name)
        }
        What::Evicted { reason } => {
            attribute("reason", reason);
            (Kind::Alarm, "evicted", "self".into())
        }
        What::NetworkCreated { name } => (Kind::Network, "create", name),
        What::NetworkRemoved { name } => (Kind::Network, "remove", name),
        What::EpochStaged { epoch } => (Kind::Keys, "stage", epoch.to_string()),
        What::EpochActivated { epoch } => (Kind::Keys, "activate", epoch.to_string()),
        What::EpochRetired { epoch } => (Kind::Keys, "retire", epoch.to_string()),
        What::Alarm { text } => (Kind::Alarm, "alarm", text),
        What::Doubt { text } => (Kind::Alarm, "doubt", text),
        What::Drift { text } => (Kind::Agent, "repair", text),
        What::Problem { text } => (Kind::Agent, "problem", text),
        What::Solved { text } => (Kind::Agent, "solved", text),
    };
    Event {
        sequence: event.number,
        time: Time(event.time),
        kind,
        action: action.into(),
        name,
        attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_a_leader_that_has_lost_the_others_takes_that_for_no_majority() {
        let manager = |leads, quorum| ManagersStatus {
            leader: None,
            leads,
            term: 1,
            quorum,
            last_log: 0,
            applied: 0,
            managers: Vec::new(),
            failure: None,
            notes: Vec::new(),
        };
        let (leader, follower) = (manager(true, true), manager(false, true));
        // Two managers of five are left.
        assert!(!can_decide(Some(&manager(true, false)), true, 2, 5));
        assert!(!can_decide(Some(&follower), true, 2, 5));
        assert!(!can_decide(None, true, 2, 5));
        // All are back, and gossip has not told of them yet.
        assert!(can_decide(Some(&leader), true, 2, 5));
        assert!(can_decide(Some(&follower), true, 3, 5));
        assert!(!can_decide(Some(&manager(false, false)), true, 3, 5));
        assert!(can_decide(None, true, 3, 5));
        assert!(!can_decide(None, false, 5, 5));
    }
}
