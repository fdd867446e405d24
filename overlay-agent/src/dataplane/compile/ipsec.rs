//! Block policies, SAs and the policies that lead to them.

use overlay_ebpf::abi::{self, SaDirection};

use super::{
    plan::{PeerPlan, Plan},
    same_or_new,
};
use crate::dataplane::{
    desired::{Direction, Keying, SecurityAssociation},
    guard::block_policy_key,
    key_id::KeyId,
    objects::{Encap, Objects, Policy, PolicyAction, PolicyKey, State, StateKey, StateMode},
    problem::{Problem, Subject},
};

/// Packets the anti-replay window spans: enough for reordering between CPUs that send on one SA.
pub const REPLAY_WINDOW: u32 = 1024;

/// `known`: what comes out as it is there is the same one.
pub fn compile(
    plan: &Plan<'_>,
    known: &Objects,
    objects: &mut Objects,
    problems: &mut Vec<Problem>,
) {
    let peers = || {
        let peers = plan.peers.values();
        peers.filter(|peer| plan.ipsec && peer.encrypted)
    };
    for peer in peers() {
        if peer.peer.sas.is_empty() && peer.peer.transmit.is_none() {
            problems.push(Problem::warning(
                Subject::Peer(peer.peer.index, peer.peer.name.clone()),
                "it shares an encrypted network and has no SA: nothing can be received from it",
                "add keys for the pair to the keys file (`overlay dataplane keygen`)",
            ));
        }
    }
    let sas = || {
        peers().flat_map(move |peer| {
            let sas = peer.peer.sas.iter();
            sas.map(move |sa| Installed::new(plan, peer, sa))
        })
    };
    let about = sas().count();
    objects.policies = same_or_new(&known.policies, about, || {
        blocks(plan).chain(sas().filter_map(|sa| sa.policy()))
    });
    objects.states = same_or_new(&known.states, about, || sas().map(|sa| sa.state()));
    objects.maps.sas = same_or_new(&known.maps.sas, about, || sas().map(|sa| sa.entry()));
}

/// Barrier 2.
fn blocks(plan: &Plan<'_>) -> impl Iterator<Item = (PolicyKey, Policy)> {
    let settings = &plan.desired.settings;
    let block = Policy {
        priority: settings.block_priority,
        action: PolicyAction::Block,
    };
    let vteps = plan.desired.node.vteps.iter();
    vteps
        .filter(|_| plan.encrypted_desired)
        .map(move |&vtep| (block_policy_key(vtep, settings.port), block))
}

/// An SA of a peer, as the kernel has it.
struct Installed<'a> {
    plan: &'a Plan<'a>,
    peer: &'a PeerPlan<'a>,
    sa: &'a SecurityAssociation,
    key: StateKey,
}

impl<'a> Installed<'a> {
    fn new(plan: &'a Plan<'a>, peer: &'a PeerPlan<'a>, sa: &'a SecurityAssociation) -> Self {
        let (own, other) = (peer.local_vtep, peer.peer.vtep);
        let (source, destination) = match sa.direction {
            Direction::Out => (own, other),
            Direction::In => (other, own),
        };
        let key = StateKey {
            source,
            destination,
            spi: sa.spi(plan.desired.node.index, peer.peer.index),
        };
        Self {
            plan,
            peer,
            sa,
            key,
        }
    }

    fn state(&self) -> (StateKey, State) {
        let settings = &self.plan.desired.settings;
        let (mode, encap) = match self.sa.direction {
            Direction::Out => {
                let port = settings.esp_in_udp_port;
                let encap = port.map(|port| Encap::new(self.key.spi, port));
                (StateMode::Transport, encap)
            }
            Direction::In => {
                let if_id = settings.if_id;
                (StateMode::Beet { if_id }, None)
            }
        };
        let state = State {
            mode,
            reqid: settings.reqid,
            replay_window: REPLAY_WINDOW,
            hard_byte_limit: settings.hard_byte_limit,
            encap,
            keying: self.sa.keying.clone(),
        };
        (self.key, state)
    }

    fn entry(&self) -> (abi::SecurityAssociationKey, abi::SecurityAssociation) {
        let Self { sa, .. } = self;
        let (own, other) = (self.plan.desired.node.index, self.peer.peer.index);
        let (receiver, direction) = match sa.direction {
            Direction::Out => (other, SaDirection::Out),
            Direction::In => (own, SaDirection::In),
        };
        let key = abi::SecurityAssociationKey {
            spi: self.key.spi.get(),
            receiver: receiver.get(),
        };
        let entry = abi::SecurityAssociation {
            direction,
            peer: other.get(),
            epoch: sa.epoch.get(),
            slot: sa.slot.get(),
            lane: sa.lane.get(),
            reserved: [0; 2],
            sender_generation: sa.sender_generation,
            receiver_generation: sa.receiver_generation,
            key_id: match &sa.keying {
                Keying::Keyed(material) => KeyId::of(material).0,
                // The entry of the agent that installed it is taken over by `admit`.
                Keying::Adopted => [0; 8],
            },
        };
        (key, entry)
    }

    /// What leads to it, if it is an outbound one.
    fn policy(&self) -> Option<(PolicyKey, Policy)> {
        let settings = &self.plan.desired.settings;
        let key = PolicyKey {
            source: self.key.source,
            destination: Some(self.key.destination),
            udp_port: Some(settings.port),
            mark: (settings.mark).mark(self.sa.slot.get(), self.sa.lane.get()),
            mark_mask: settings.mark.mask,
        };
        let policy = Policy {
            priority: settings.policy_priority,
            action: PolicyAction::Encrypt {
                spi: self.key.spi,
                reqid: settings.reqid,
            },
        };
        (self.sa.direction == Direction::Out).then_some((key, policy))
    }
}
