//! What must stand before a peer or a network may be open, and what an open one forbids.
//!
//! The order of `diff` keeps these rules by itself. They are checked again before every step against
//! what has been done so far, so that a step which failed keeps closed what depends on it.

use std::{cell::OnceCell, collections::BTreeMap, net::IpAddr};

use overlay_ebpf::abi::{NetworkFlags, PeerKey, Spi, VtepRole};

use super::{
    objects::{
        Attachment, Firewall, HOP, Link, Objects, PeerEntry, PolicyAction, PolicyKey, Program,
        REENTRY, StateKey, StateMode, XFRM, policies_between,
    },
    step::{MapWrite, Step, address_of},
};

/// The block policy of a VTEP (barrier 2).
pub fn block_policy_key(vtep: IpAddr, port: u16) -> PolicyKey {
    PolicyKey {
        source: vtep,
        destination: None,
        udp_port: Some(port),
        mark: 0,
        mark_mask: 0,
    }
}

fn blocks(objects: &Objects, vtep: IpAddr, port: u16) -> bool {
    objects
        .policies
        .get(&block_policy_key(vtep, port))
        .is_some_and(|policy| policy.action == PolicyAction::Block)
}

fn attached(objects: &Objects, program: Program, device: &str) -> bool {
    objects.attachments.contains(&Attachment {
        program,
        device: device.to_owned(),
    })
}

/// The audits on a device: for a moment two, when it has changed its link layer.
fn audits<'a>(objects: &'a Objects, device: &'a str) -> impl Iterator<Item = Program> + 'a {
    [Program::UnderlayAudit, Program::UnderlayAuditL3]
        .into_iter()
        .filter(move |program| attached(objects, *program, device))
}

/// Why the peer may not transmit encrypted frames as `entry` says; `None` if it may, or does not.
pub fn peer_blocked(objects: &Objects, entry: &PeerEntry) -> Option<String> {
    if entry.tx.lanes == 0 {
        return None;
    }
    let Some(config) = objects.maps.config else {
        return Some("the data plane is not configured".into());
    };
    let (local, remote) = (address_of(&entry.local_vtep), address_of(&entry.vtep));
    if !blocks(objects, local, config.port) {
        return Some(format!("the block policy of {local} is missing"));
    }
    if !firewall_stands(objects, local, config.port) {
        return Some("the firewall rules are missing".into());
    }
    if audits(objects, &entry.underlay_device).next().is_none() {
        return Some(format!(
            "underlay_audit is not attached to {}",
            entry.underlay_device
        ));
    }
    if let Some(why) = device_missing(objects) {
        return Some(why);
    }
    // It asks where a packet comes from, and for its segment count: without it XFRM takes what anybody
    // puts on the device, and nonces may repeat.
    if !attached(objects, Program::Reentry, REENTRY) {
        return Some(format!("reentry is not attached to {REENTRY}"));
    }
    for lane in 0..entry.tx.lanes {
        let key = PolicyKey {
            source: local,
            destination: Some(remote),
            udp_port: Some(config.port),
            mark: config.mark.mark(entry.tx.slot, lane),
            mark_mask: config.mark.mask,
        };
        let Some(PolicyAction::Encrypt { spi, .. }) =
            objects.policies.get(&key).map(|policy| policy.action)
        else {
            return Some(format!(
                "the policy of slot {} lane {lane} is missing",
                entry.tx.slot
            ));
        };
        if !has_outbound(objects, local, remote, spi) {
            return Some(format!("outbound SA {spi} is missing"));
        }
    }
    None
}

/// Whether the rules are as we set them, for this port and VTEP.
fn covers(firewall: &Firewall, vtep: IpAddr, port: u16) -> bool {
    firewall.altered.is_none() && firewall.port == port && firewall.local_vteps.contains(&vtep)
}

fn firewall_stands(objects: &Objects, vtep: IpAddr, port: u16) -> bool {
    let firewall = objects.firewall.as_ref();
    firewall.is_some_and(|firewall| covers(firewall, vtep, port))
}

fn device_missing(objects: &Objects) -> Option<String> {
    [HOP, XFRM]
        .into_iter()
        .find_map(|device| match objects.links.get(device) {
            None => Some(format!("device {device} is missing")),
            Some(Link::Altered(why)) => Some(format!("device {device} was changed: {why}")),
            Some(_) => None,
        })
}

fn has_outbound(objects: &Objects, source: IpAddr, destination: IpAddr, spi: Spi) -> bool {
    let key = StateKey {
        source,
        destination,
        spi,
    };
    objects
        .states
        .get(&key)
        .is_some_and(|state| state.mode == StateMode::Transport)
}

/// Why an encrypted network may not have an entry in `networks`; `None` if it may.
pub fn encrypted_network_blocked(objects: &Objects) -> Option<String> {
    let Some(config) = objects.maps.config else {
        return Some("the data plane is not configured".into());
    };
    for (key, vtep) in &objects.maps.vteps {
        let address = address_of(&key.address);
        if vtep.role == VtepRole::Local && !blocks(objects, address, config.port) {
            return Some(format!("the block policy of {address} is missing"));
        }
    }
    if let Some(why) = device_missing(objects) {
        return Some(why);
    }
    if !attached(objects, Program::DecryptedRx, XFRM) {
        return Some(format!("decrypted_rx is not attached to {XFRM}"));
    }
    None
}

/// Every rule that `objects` break. Empty in every state that the kernel may be in.
pub fn violations(objects: &Objects) -> Vec<String> {
    let mut broken: Vec<String> = objects
        .maps
        .peers
        .iter()
        .filter_map(|(key, entry)| {
            peer_blocked(objects, entry).map(|why| format!("peer {} is open but {why}", key.peer))
        })
        .collect();
    let encrypted = objects
        .maps
        .networks
        .values()
        .any(|network| network.flags & NetworkFlags::ENCRYPTED != 0);
    if encrypted && let Some(why) = encrypted_network_blocked(objects) {
        broken.push(format!("an encrypted network is open but {why}"));
    }
    for (key, policy) in &objects.policies {
        if let (PolicyAction::Encrypt { spi, .. }, Some(destination)) =
            (policy.action, key.destination)
            && !has_outbound(objects, key.source, destination, spi)
        {
            broken.push(format!("policy {key} names SA {spi}, which is missing"));
        }
    }
    broken
}

/// Why `step` must not be done in the state `objects`; `None` if it may.
pub fn step_blocked(objects: &Objects, step: &Step) -> Option<String> {
    Guard::new(objects).step_blocked(step)
}

/// The guard of many steps in one state.
pub struct Guard<'a> {
    objects: &'a Objects,
    /// The peers that are open, by their VTEP.
    open: OnceCell<BTreeMap<IpAddr, Vec<(&'a PeerKey, &'a PeerEntry)>>>,
}

impl<'a> Guard<'a> {
    pub const fn new(objects: &'a Objects) -> Self {
        Self {
            objects,
            open: OnceCell::new(),
        }
    }

    /// As [`step_blocked`].
    pub fn step_blocked(&self, step: &Step) -> Option<String> {
        match step {
            Step::RemovePolicy(key) => self.policy_in_use(key),
            step => blocked(self.objects, step),
        }
    }

    /// Those that send to `vtep`.
    fn open_towards(&self, vtep: IpAddr) -> &[(&'a PeerKey, &'a PeerEntry)] {
        let open = self.open.get_or_init(|| {
            let mut open: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for (key, entry) in &self.objects.maps.peers {
                if entry.tx.lanes > 0 {
                    open.entry(address_of(&entry.vtep))
                        .or_default()
                        .push((key, entry));
                }
            }
            open
        });
        open.get(&vtep).map_or(&[], Vec::as_slice)
    }

    fn policy_in_use(&self, key: &PolicyKey) -> Option<String> {
        let objects = self.objects;
        let config = objects.maps.config?;
        let Some(destination) = key.destination else {
            return block_policy_in_use(objects, key, config.port);
        };
        self.open_towards(destination)
            .iter()
            .find(|(_, entry)| {
                address_of(&entry.local_vtep) == key.source
                    && key.udp_port == Some(config.port)
                    && key.mark_mask == config.mark.mask
                    && (0..entry.tx.lanes)
                        .any(|lane| config.mark.mark(entry.tx.slot, lane) == key.mark)
            })
            .map(|(peer, _)| still_open(peer))
    }
}

fn blocked(objects: &Objects, step: &Step) -> Option<String> {
    match step {
        Step::Map(MapWrite::Peer(_, Some(entry))) => peer_blocked(objects, entry),
        Step::Map(MapWrite::Network(key, Some(network))) => {
            let known = objects.maps.networks.get(key).map(|network| network.flags);
            let was = known.map(|flags| flags & NetworkFlags::ENCRYPTED != 0);
            let encrypted = network.flags & NetworkFlags::ENCRYPTED != 0;
            match was {
                Some(was) if was != encrypted => {
                    Some("a network does not change encryption while it is open".into())
                }
                _ if encrypted => encrypted_network_blocked(objects),
                _ => None,
            }
        }
        // A network that opened while this VTEP was unknown relies on its block policy from now on.
        Step::Map(MapWrite::Vtep(key, Some(vtep))) if vtep.role == VtepRole::Local => {
            let (address, port) = (address_of(&key.address), objects.maps.config?.port);
            (open_network(objects).is_some() && !blocks(objects, address, port))
                .then(|| format!("the block policy of {address} is missing"))
        }
        Step::SetPolicy(key, policy) => match (policy.action, key.destination) {
            (PolicyAction::Encrypt { spi, .. }, Some(destination)) => {
                (!has_outbound(objects, key.source, destination, spi))
                    .then(|| format!("outbound SA {spi} is missing"))
            }
            _ => None,
        },
        Step::AddState(key, _) if objects.states.contains_key(key) => {
            Some("the SA exists, and an SA is never re-keyed".into())
        }
        Step::RemoveState(key) => policies_between(&objects.policies, key.source, key.destination)
            .find(|(_, value)| {
                matches!(value.action, PolicyAction::Encrypt { spi, .. } if spi == key.spi)
            })
            .map(|(policy, _)| format!("policy {policy} still uses the SA")),
        Step::Detach(attachment) => match attachment.program {
            program if program.is_audit() => {
                if audits(objects, &attachment.device).any(|other| other != program) {
                    return None;
                }
                open_peer(objects, |entry| entry.underlay_device == attachment.device)
            }
            Program::Reentry => open_peer(objects, |_| true),
            Program::DecryptedRx => open_network(objects),
            _ => None,
        },
        Step::SetFirewall(firewall) => open_peer(objects, |entry| {
            let local = address_of(&entry.local_vtep);
            objects
                .maps
                .config
                .is_none_or(|config| !covers(firewall, local, config.port))
        }),
        Step::RemoveFirewall | Step::UnloadPrograms => open_peer(objects, |_| true),
        Step::Map(MapWrite::Config(new)) => {
            let rekeyed = match (objects.maps.config, new) {
                (Some(old), Some(new)) => (old.port, old.mark) != (new.port, new.mark),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if rekeyed {
                open_peer(objects, |_| true).or_else(|| open_network(objects))
            } else {
                None
            }
        }
        Step::DeleteLink(name) if [HOP, XFRM].contains(&name.as_str()) => {
            open_peer(objects, |_| true).or_else(|| open_network(objects))
        }
        _ => None,
    }
}

fn open_peer(objects: &Objects, concerns: impl Fn(&PeerEntry) -> bool) -> Option<String> {
    objects
        .maps
        .peers
        .iter()
        .find(|(_, entry)| entry.tx.lanes > 0 && concerns(entry))
        .map(|(key, _)| still_open(key))
}

fn still_open(peer: &PeerKey) -> String {
    format!("peer {} is still open", peer.peer)
}

fn open_network(objects: &Objects) -> Option<String> {
    objects
        .maps
        .networks
        .iter()
        .find(|(_, network)| network.flags & NetworkFlags::ENCRYPTED != 0)
        .map(|(key, _)| format!("encrypted network {} is still open", key.vni))
}

fn block_policy_in_use(objects: &Objects, key: &PolicyKey, port: u16) -> Option<String> {
    open_peer(objects, |entry| {
        address_of(&entry.local_vtep) == key.source && key.udp_port == Some(port)
    })
    .or_else(|| {
        // An encrypted network is open only behind the block policies of the VTEPs it knows.
        let local = objects.maps.vteps.iter().any(|(vtep, value)| {
            value.role == VtepRole::Local && address_of(&vtep.address) == key.source
        });
        let block = *key == block_policy_key(key.source, port);
        if local && block {
            open_network(objects)
        } else {
            None
        }
    })
}
