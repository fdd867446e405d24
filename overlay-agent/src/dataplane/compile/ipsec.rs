//! Block policies, SAs and the policies that lead to them.

use overlay_ebpf::abi::{self, SaDirection};

use super::plan::{PeerPlan, Plan};
use crate::dataplane::{
    desired::{Direction, Keying, SecurityAssociation},
    guard::block_policy_key,
    key_id::KeyId,
    objects::{Encap, Objects, Policy, PolicyAction, PolicyKey, State, StateKey, StateMode},
    problem::{Problem, Subject},
};

/// Packets the anti-replay window spans: enough for reordering between CPUs that send on one SA.
pub const REPLAY_WINDOW: u32 = 1024;

pub fn compile(plan: &Plan<'_>, objects: &mut Objects, problems: &mut Vec<Problem>) {
    let settings = &plan.desired.settings;
    if plan.encrypted_desired {
        for &vtep in &plan.desired.node.vteps {
            objects.policies.insert(
                block_policy_key(vtep, settings.port),
                Policy {
                    priority: settings.block_priority,
                    action: PolicyAction::Block,
                },
            );
        }
    }
    if !plan.ipsec {
        return;
    }
    for peer in plan.peers.values().filter(|peer| peer.encrypted) {
        if peer.peer.sas.is_empty() && peer.peer.transmit.is_none() {
            problems.push(Problem::warning(
                Subject::Peer(peer.peer.index, peer.peer.name.clone()),
                "it shares an encrypted network and has no SA: nothing can be received from it",
                "add keys for the pair to the keys file (`overlay dataplane keygen`)",
            ));
        }
        for sa in &peer.peer.sas {
            install(plan, peer, sa, objects);
        }
    }
}

fn install(plan: &Plan<'_>, peer: &PeerPlan<'_>, sa: &SecurityAssociation, objects: &mut Objects) {
    let settings = &plan.desired.settings;
    let (own, other) = (plan.desired.node.index, peer.peer.index);
    let spi = sa.spi(own, other);
    let (source, destination, mode, receiver, direction) = match sa.direction {
        Direction::Out => (
            peer.local_vtep,
            peer.peer.vtep,
            StateMode::Transport,
            other,
            SaDirection::Out,
        ),
        Direction::In => (
            peer.peer.vtep,
            peer.local_vtep,
            StateMode::Beet {
                if_id: settings.if_id,
            },
            own,
            SaDirection::In,
        ),
    };
    let key_id = match &sa.keying {
        Keying::Keyed(material) => KeyId::of(material).0,
        // The entry of the agent that installed it is taken over by `admit`.
        Keying::Adopted => [0; 8],
    };
    objects.states.insert(
        StateKey {
            source,
            destination,
            spi,
        },
        State {
            mode,
            reqid: settings.reqid,
            replay_window: REPLAY_WINDOW,
            hard_byte_limit: settings.hard_byte_limit,
            encap: settings
                .esp_in_udp_port
                .filter(|_| sa.direction == Direction::Out)
                .map(|port| Encap::new(spi, port)),
            keying: sa.keying.clone(),
        },
    );
    objects.maps.sas.insert(
        abi::SecurityAssociationKey {
            spi: spi.get(),
            receiver: receiver.get(),
        },
        abi::SecurityAssociation {
            direction,
            peer: other.get(),
            epoch: sa.epoch.get(),
            slot: sa.slot.get(),
            lane: sa.lane.get(),
            reserved: [0; 2],
            sender_generation: sa.sender_generation,
            receiver_generation: sa.receiver_generation,
            key_id,
        },
    );
    if sa.direction == Direction::Out {
        objects.policies.insert(
            PolicyKey {
                source,
                destination: Some(destination),
                udp_port: Some(settings.port),
                mark: settings.mark.mark(sa.slot.get(), sa.lane.get()),
                mark_mask: settings.mark.mask,
            },
            Policy {
                priority: settings.policy_priority,
                action: PolicyAction::Encrypt {
                    spi,
                    reqid: settings.reqid,
                },
            },
        );
    }
}
