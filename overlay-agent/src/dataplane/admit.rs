//! What the kernel already holds, and what was used before, decides which SAs may be installed.
//!
//! **No (key, nonce) pair is ever used twice.** An outbound SA starts its sequence numbers, and with
//! them its nonces, at 1. **No packet is ever accepted twice.** An inbound SA starts with an empty
//! replay window. So a key that was installed once, in either direction, is never installed again.
//! An SA that is in the kernel is left as it is, whatever the input says.

use std::collections::BTreeSet;

use overlay_ebpf::abi::{self, PeerIndex};

use super::{
    compile::{CLOSED, Compiled},
    desired::{DataPlane, Keying},
    key_id::KeyId,
    objects::{Objects, PolicyAction, State, StateKey, StateMode, policies_between},
    problem::{Problem, Subject},
};

const NEW_SLOT: &str = "make keys for a new slot with `overlay dataplane keygen --slot …` on every node of the pair and name the slot in `transmit`";

/// Takes out of `compiled` what must not be installed, closes the peers that would send with it, and
/// reports each. `used` are the keys ever installed on this node.
pub fn admit(
    compiled: &mut Compiled,
    desired: &DataPlane,
    observed: &Objects,
    used: &BTreeSet<KeyId>,
) {
    map_sizes(compiled, observed);
    let keys: Vec<StateKey> = compiled.objects.states.keys().copied().collect();
    for key in keys {
        let wanted = compiled.objects.states[&key].clone();
        let outbound = wanted.mode == StateMode::Transport;
        let Some((map_key, map_value)) = map_entry(compiled, &key, outbound) else {
            continue;
        };
        let known = observed.maps.sas.get(&map_key);
        let refusal = match observed.states.get(&key) {
            Some(live) => {
                // It stays, as it is, under the name that its installer gave it.
                if *live != wanted {
                    compiled.objects.states.insert(key, live.clone());
                }
                match known {
                    Some(entry) => compiled.objects.maps.sas.insert(map_key, *entry),
                    None => compiled.objects.maps.sas.remove(&map_key),
                };
                refuse_live(&wanted, &map_value, live, known)
            }
            None => {
                let refusal = refuse_new(&wanted, &map_value, outbound, used);
                if refusal.is_some() {
                    compiled.objects.states.remove(&key);
                    compiled.objects.maps.sas.remove(&map_key);
                }
                refusal
            }
        };
        if let Some((reason, remedy)) = refusal {
            refuse(
                compiled, desired, &key, &map_value, outbound, reason, remedy,
            );
        }
    }
}

/// The entry of `sas` that belongs to a wanted state.
fn map_entry(
    compiled: &Compiled,
    key: &StateKey,
    outbound: bool,
) -> Option<(abi::SecurityAssociationKey, abi::SecurityAssociation)> {
    let direction = if outbound {
        abi::SaDirection::Out
    } else {
        abi::SaDirection::In
    };
    let maps = &compiled.objects.maps;
    let destination = abi::VtepKey {
        address: super::step::mapped_bytes(key.destination),
    };
    // One sender uses the same SPI to each of its peers: the receiver tells them apart.
    let map_key = abi::SecurityAssociationKey {
        spi: key.spi.get(),
        receiver: maps.vteps.get(&destination)?.peer,
    };
    let value = maps.sas.get(&map_key)?;
    (value.direction == direction).then_some((map_key, *value))
}

type Refusal = (String, String);

fn refuse_live(
    wanted: &State,
    named: &abi::SecurityAssociation,
    live: &State,
    known: Option<&abi::SecurityAssociation>,
) -> Option<Refusal> {
    let Some(entry) = known else {
        return Some((
            "the kernel holds an SA with this SPI whose key is not known to be ours".into(),
            format!("{NEW_SLOT}, or remove everything with `overlay dataplane clear`"),
        ));
    };
    if matches!(wanted.keying, Keying::Keyed(_)) && entry.key_id != named.key_id {
        return Some((
            format!(
                "the slot is in use with another key ({} in the kernel, {} in the input)",
                KeyId(entry.key_id),
                KeyId(named.key_id)
            ),
            NEW_SLOT.into(),
        ));
    }
    if (live.mode, live.reqid, live.replay_window)
        != (wanted.mode, wanted.reqid, wanted.replay_window)
    {
        return Some((
            "the SA in the kernel has other settings (mode, if_id, reqid or replay window)".into(),
            NEW_SLOT.into(),
        ));
    }
    // An SA without UDP stays until its slot is retired, so that a node can be told to receive ESP in
    // UDP before anyone sends it. Not the reverse: MTUs no longer leave room for the UDP header.
    if live.encap.is_some() && live.encap != wanted.encap {
        return Some((
            "the SA in the kernel sends ESP in UDP to another port than esp_in_udp_port says"
                .into(),
            NEW_SLOT.into(),
        ));
    }
    None
}

fn refuse_new(
    wanted: &State,
    named: &abi::SecurityAssociation,
    outbound: bool,
    used: &BTreeSet<KeyId>,
) -> Option<Refusal> {
    let key_id = KeyId(named.key_id);
    match wanted.keying {
        Keying::Adopted => Some((
            "it was to be taken over from an earlier agent, and is gone from the kernel".into(),
            NEW_SLOT.into(),
        )),
        Keying::Keyed(_) if used.contains(&key_id) => {
            let harm = if outbound {
                "would repeat nonces"
            } else {
                "could accept replayed packets"
            };
            Some((
                format!(
                    "its key {key_id} was in use before and is gone from the kernel: installing it again {harm}"
                ),
                NEW_SLOT.into(),
            ))
        }
        Keying::Keyed(_) => None,
    }
}

/// Reports a refused SA; an outbound one takes its policy along, and closes the peer if it sends in
/// that slot.
fn refuse(
    compiled: &mut Compiled,
    desired: &DataPlane,
    key: &StateKey,
    named: &abi::SecurityAssociation,
    outbound: bool,
    reason: String,
    remedy: String,
) {
    let mut closes = false;
    if outbound {
        let policies = &mut compiled.objects.policies;
        let of_this = policies_between(policies, key.source, key.destination)
            .filter(|(_, policy)| {
                matches!(policy.action, PolicyAction::Encrypt { spi, .. } if spi == key.spi)
            })
            .map(|(policy_key, _)| *policy_key);
        for policy_key in of_this.collect::<Vec<_>>() {
            policies.remove(&policy_key);
        }
        let peer = abi::PeerKey { peer: named.peer };
        if let Some(entry) = compiled.objects.maps.peers.get_mut(&peer)
            && entry.tx.lanes > named.lane
            && entry.tx.slot == named.slot
        {
            entry.tx = CLOSED;
        }
        // Not `entry.tx.lanes`: the first refused lane has closed the peer for all of them.
        closes = PeerIndex::new(named.peer)
            .ok()
            .and_then(|index| desired.peers.get(&index)?.transmit)
            .is_some_and(|transmit| transmit.slot.get() == named.slot);
    }
    let index = PeerIndex::new(named.peer).ok();
    let name = index
        .and_then(|index| desired.peers.get(&index))
        .map_or_else(String::new, |peer| peer.name.clone());
    let subject = match index {
        Some(index) => Subject::Peer(index, name),
        None => Subject::Node,
    };
    let direction = if outbound { "outbound" } else { "inbound" };
    compiled.problems.push(Problem {
        subject,
        // A refused inbound SA closes too: what the peer sends in that slot does not arrive.
        closes: closes || !outbound,
        reason: format!(
            "{direction} SA {} (slot {} lane {}): {reason}",
            key.spi, named.slot, named.lane
        ),
        remedy,
    });
}

/// Maps cannot grow while programs use them.
fn map_sizes(compiled: &mut Compiled, observed: &Objects) {
    if let (Some(wanted), Some(loaded)) = (compiled.objects.programs, observed.programs)
        && wanted != loaded
    {
        compiled.objects.programs = Some(loaded);
        compiled.problems.push(Problem::warning(
            Subject::Node,
            "map_sizes differ from those of the loaded maps, which stay as they are",
            "`overlay dataplane clear`, then apply again; traffic stops meanwhile",
        ));
    }
}
