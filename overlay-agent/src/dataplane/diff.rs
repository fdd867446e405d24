//! The steps from what is to what shall be, in an order in which nothing is ever sent in clear and
//! nothing that could be received is refused.
//!
//! 1. **Close** what is open and must not stay so: a peer that loses its slot or a prerequisite, a
//!    network that goes or changes encryption. A peer that only changes its slot stays open.
//! 2. **Barriers**: block policies, firewall, `underlay_audit`; then devices and sysctls.
//! 3. **Make**: endpoints behind `endpoint_tx`; inbound SAs, outbound SAs, their policies; maps.
//! 4. **Open**: networks, then peers (one write moves a peer to its new slot), then local ports.
//! 5. **Break** what is no longer wanted, in the reverse order; barriers last.

use std::{
    collections::{BTreeMap, BTreeSet},
    ptr,
};

use overlay_ebpf::abi::{self, NetworkFlags};

use super::{
    compile::CLOSED,
    guard,
    objects::{Attachment, Link, Objects, PeerEntry, PolicyAction, Program, State, StateMode},
    step::{MapWrite, Step},
};

/// The steps that turn `observed` into `wanted`. Empty if nothing differs.
pub fn diff(wanted: &Objects, observed: &Objects) -> Vec<Step> {
    let mut diff = Diff {
        wanted,
        current: observed.clone(),
        steps: Vec::new(),
    };
    diff.load();
    diff.close();
    diff.barriers();
    diff.host();
    diff.endpoints();
    diff.security_associations();
    diff.configuration();
    diff.open();
    diff.break_maps();
    diff.break_security_associations();
    diff.break_host();
    diff.break_barriers();
    diff.steps
}

struct Diff<'a> {
    wanted: &'a Objects,
    /// What the kernel holds after the steps so far; SAs with their entries, and entries of endpoints, as they were
    /// before.
    current: Objects,
    steps: Vec<Step>,
}

/// Entries of `wanted` that `current` lacks or holds with another value.
fn changed<K: Ord + Clone, V: PartialEq + Clone>(
    wanted: &BTreeMap<K, V>,
    current: &BTreeMap<K, V>,
) -> Vec<(K, V)> {
    // The large ones seldom differ, and this is one walk at most.
    if ptr::eq(wanted, current) || wanted == current {
        return Vec::new();
    }
    wanted
        .iter()
        .filter(|(key, value)| current.get(key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Keys of `current` that `wanted` lacks.
fn surplus<K: Ord + Clone, V>(wanted: &BTreeMap<K, V>, current: &BTreeMap<K, V>) -> Vec<K> {
    if ptr::eq(wanted, current) || wanted.keys().eq(current.keys()) {
        return Vec::new();
    }
    current
        .keys()
        .filter(|key| !wanted.contains_key(key))
        .cloned()
        .collect()
}

fn missing<T: Ord + Clone>(wanted: &BTreeSet<T>, current: &BTreeSet<T>) -> Vec<T> {
    wanted.difference(current).cloned().collect()
}

impl Diff<'_> {
    fn emit(&mut self, step: Step) {
        // What would be a copy of all SAs and endpoints, which nobody asks for: those that are made are wanted, and those
        // that go are looked for once.
        let asked_for = !matches!(
            step,
            Step::AddState(..)
                | Step::RemoveState(_)
                | Step::Map(MapWrite::Sa(..) | MapWrite::Endpoint(..) | MapWrite::Address(..))
        );
        if asked_for {
            self.current.apply(&step);
        }
        self.steps.push(step);
    }

    fn emit_all(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            self.emit(step);
        }
    }

    fn load(&mut self) {
        if let Some(sizes) = self.wanted.programs
            && self.current.programs.is_none()
        {
            self.emit(Step::LoadPrograms(sizes));
        }
    }

    fn close(&mut self) {
        let shut_all = self.reconfigures();
        let peers = self.current.maps.peers.clone();
        for (&key, entry) in &peers {
            let Some(wanted) = self.wanted.maps.peers.get(&key) else {
                self.emit(Step::Map(MapWrite::Peer(key, None)));
                continue;
            };
            if entry.tx.lanes == 0 {
                continue;
            }
            let moves = (entry.vtep, entry.local_vtep) != (wanted.vtep, wanted.local_vtep);
            let broken = guard::peer_blocked(&self.current, entry).is_some();
            if wanted.tx.lanes == 0 || moves || broken || shut_all {
                let closed = PeerEntry {
                    tx: CLOSED,
                    ..entry.clone()
                };
                self.emit(Step::Map(MapWrite::Peer(key, Some(closed))));
            }
        }
        let barrier = guard::encrypted_network_blocked(&self.current).is_some();
        for (key, network) in self.current.maps.networks.clone() {
            let encrypted = network.flags & NetworkFlags::ENCRYPTED != 0;
            let stays =
                self.wanted.maps.networks.get(&key).is_some_and(|wanted| {
                    (wanted.flags & NetworkFlags::ENCRYPTED != 0) == encrypted
                });
            if !stays || (encrypted && (barrier || shut_all)) {
                self.emit(Step::Map(MapWrite::Network(key, None)));
            }
        }
    }

    /// Whether something changes that all open peers and networks rely on.
    fn reconfigures(&self) -> bool {
        let config = match (self.current.maps.config, self.wanted.maps.config) {
            (Some(old), Some(new)) => {
                (old.port, old.mark, old.node) != (new.port, new.mark, new.node)
            }
            (Some(_), None) => true,
            (None, _) => false,
        };
        let relink = self
            .current
            .links
            .iter()
            .any(|(name, link)| replaces(link, self.wanted.links.get(name)));
        config || relink
    }

    fn barriers(&mut self) {
        let block: Vec<Step> = changed(&self.wanted.policies, &self.current.policies)
            .into_iter()
            .filter(|(_, policy)| policy.action == PolicyAction::Block)
            .map(|(key, policy)| Step::SetPolicy(key, policy))
            .collect();
        self.emit_all(block);
        if let Some(firewall) = &self.wanted.firewall
            && self.current.firewall.as_ref() != Some(firewall)
        {
            self.emit(Step::SetFirewall(Box::new(firewall.clone())));
        }
        self.attach(Program::is_audit);
    }

    fn attach(&mut self, chosen: impl Fn(Program) -> bool) {
        for attachment in missing(&self.wanted.attachments, &self.current.attachments) {
            if !chosen(attachment.program) {
                continue;
            }
            // A device runs one XDP program in one mode.
            if let Some(other) = other_xdp_mode(&attachment)
                && self.current.attachments.contains(&other)
            {
                self.emit(Step::Detach(other));
            }
            self.emit(Step::Attach(attachment));
        }
    }

    fn host(&mut self) {
        for (name, link) in self.current.links.clone() {
            if replaces(&link, self.wanted.links.get(&name))
                && self.wanted.links.contains_key(&name)
            {
                self.emit(Step::DeleteLink(name));
            }
        }
        let links = changed(&self.wanted.links, &self.current.links);
        self.emit_all(
            links
                .into_iter()
                .map(|(name, link)| Step::CreateLink(name, link)),
        );
        // Before anything else is done to the devices: until then they are devices of the host.
        self.attach(|program| !program.is_audit() && program != Program::EndpointTx);
        let addresses = missing(&self.wanted.addresses, &self.current.addresses);
        self.emit_all(addresses.into_iter().map(Step::AddAddress));
        let mut sysctls = changed(&self.wanted.sysctls, &self.current.sysctls);
        sysctls.sort_by_key(|(path, _)| forwards(path));
        self.emit_all(
            sysctls
                .into_iter()
                .map(|(path, value)| Step::SetSysctl(path, value)),
        );
    }

    fn endpoints(&mut self) {
        for (name, link) in changed(&self.wanted.endpoints, &self.current.endpoints) {
            let moved = self.current.endpoints.get(&name).is_some_and(|known| {
                known.netns != link.netns || known.interface != link.interface
            });
            if moved {
                self.emit(Step::RemoveEndpoint(name.clone()));
            }
            self.emit(Step::CreateEndpoint(name, Box::new(link)));
        }
        self.attach(|program| program == Program::EndpointTx);
    }

    fn security_associations(&mut self) {
        // `sas` first: `decrypted_rx` refuses what an SA without an entry has decrypted.
        let entries = changed(&self.wanted.maps.sas, &self.current.maps.sas);
        self.emit_all(
            entries
                .into_iter()
                .map(|(key, value)| Step::Map(MapWrite::Sa(key, Some(value)))),
        );
        let mut new: Vec<_> = self
            .wanted
            .states
            .iter()
            .filter(|(key, _)| !self.current.states.contains_key(key))
            .map(|(key, state)| (*key, state.clone()))
            .collect();
        let outbound = |state: &State| state.mode == StateMode::Transport;
        new.sort_by_key(|(key, state)| (outbound(state), *key));
        self.emit_all(
            new.into_iter()
                .map(|(key, state)| Step::AddState(key, state)),
        );
        let policies = changed(&self.wanted.policies, &self.current.policies);
        self.emit_all(
            policies
                .into_iter()
                .map(|(key, policy)| Step::SetPolicy(key, policy)),
        );
    }

    fn configuration(&mut self) {
        let wanted = &self.wanted.maps;
        if wanted.config.is_some() && wanted.config != self.current.maps.config {
            self.emit(Step::Map(MapWrite::Config(wanted.config)));
        }
        let mut writes: Vec<MapWrite> = Vec::new();
        let current = &self.current.maps;
        for (key, value) in changed(&wanted.vteps, &current.vteps) {
            writes.push(MapWrite::Vtep(key, Some(value)));
        }
        for (key, value) in changed(&wanted.memberships, &current.memberships) {
            writes.push(MapWrite::Membership(key, Some(value)));
        }
        for (key, value) in changed(&wanted.endpoints, &current.endpoints) {
            writes.push(MapWrite::Endpoint(key, Some(value)));
        }
        for (key, value) in changed(&wanted.addresses, &current.addresses) {
            writes.push(MapWrite::Address(key, Some(value)));
        }
        for (key, value) in changed(&wanted.flood_lists, &current.flood_lists) {
            writes.push(MapWrite::Flood(key, Some(value)));
        }
        self.emit_all(writes.into_iter().map(Step::Map));
        let neighbours = missing(&self.wanted.neighbours, &self.current.neighbours);
        self.emit_all(neighbours.into_iter().map(Step::AddNeighbour));
    }

    fn open(&mut self) {
        let networks = changed(&self.wanted.maps.networks, &self.current.maps.networks);
        self.emit_all(
            networks
                .into_iter()
                .map(|(key, value)| Step::Map(MapWrite::Network(key, Some(value)))),
        );
        let peers = changed(&self.wanted.maps.peers, &self.current.maps.peers);
        self.emit_all(
            peers
                .into_iter()
                .map(|(key, value)| Step::Map(MapWrite::Peer(key, Some(value)))),
        );
        let ports = changed(
            &self.wanted.maps.local_ports,
            &self.current.maps.local_ports,
        );
        self.emit_all(
            ports
                .into_iter()
                .map(|(key, value)| Step::Map(MapWrite::LocalPort(key, Some(value)))),
        );
    }

    fn break_maps(&mut self) {
        let (wanted, current) = (&self.wanted.maps, &self.current.maps);
        let mut writes: Vec<MapWrite> = Vec::new();
        for key in surplus(&wanted.local_ports, &current.local_ports) {
            writes.push(MapWrite::LocalPort(key, None));
        }
        // From the end, so that positions stay dense.
        for key in surplus(&wanted.flood_lists, &current.flood_lists)
            .into_iter()
            .rev()
        {
            writes.push(MapWrite::Flood(key, None));
        }
        for key in surplus(&wanted.addresses, &current.addresses) {
            writes.push(MapWrite::Address(key, None));
        }
        for key in surplus(&wanted.endpoints, &current.endpoints) {
            writes.push(MapWrite::Endpoint(key, None));
        }
        for key in surplus(&wanted.memberships, &current.memberships) {
            writes.push(MapWrite::Membership(key, None));
        }
        for key in surplus(&wanted.vteps, &current.vteps) {
            writes.push(MapWrite::Vtep(key, None));
        }
        self.emit_all(writes.into_iter().map(Step::Map));
        let neighbours = missing(&self.current.neighbours, &self.wanted.neighbours);
        self.emit_all(neighbours.into_iter().map(Step::RemoveNeighbour));
    }

    fn break_security_associations(&mut self) {
        let policies: Vec<Step> = surplus(&self.wanted.policies, &self.current.policies)
            .into_iter()
            .filter(|key| self.current.policies[key].action != PolicyAction::Block)
            .map(Step::RemovePolicy)
            .collect();
        self.emit_all(policies);
        let mut states = surplus(&self.wanted.states, &self.current.states);
        states.sort_by_key(|key| self.current.states[key].mode != StateMode::Transport);
        self.emit_all(states.into_iter().map(Step::RemoveState));
        let entries: Vec<abi::SecurityAssociationKey> =
            surplus(&self.wanted.maps.sas, &self.current.maps.sas);
        self.emit_all(
            entries
                .into_iter()
                .map(|key| Step::Map(MapWrite::Sa(key, None))),
        );
    }

    fn break_host(&mut self) {
        let surplus_attachments = missing(&self.current.attachments, &self.wanted.attachments);
        let (audits, others): (Vec<_>, Vec<_>) = surplus_attachments
            .into_iter()
            .partition(|a| a.program.is_audit());
        // The program stays in front of the endpoint until the endpoint is gone.
        let (endpoints, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|a| {
            a.program == Program::EndpointTx && self.current.endpoints.contains_key(&a.device)
        });
        let names = surplus(&self.wanted.endpoints, &self.current.endpoints);
        self.emit_all(names.into_iter().map(Step::RemoveEndpoint));
        let links = surplus(&self.wanted.links, &self.current.links);
        let going = self.devices(&links);
        for attachment in endpoints.into_iter().chain(others) {
            // A device of ours has its program to the end, and takes it along.
            if self.current.attachments.contains(&attachment) && !going.contains(&attachment.device)
            {
                self.emit(Step::Detach(attachment));
            }
        }
        let mut sysctls = surplus(&self.wanted.sysctls, &self.current.sysctls);
        sysctls.sort_by_key(|path| !forwards(path));
        self.emit_all(sysctls.into_iter().map(Step::RestoreSysctl));
        let addresses = missing(&self.current.addresses, &self.wanted.addresses);
        self.emit_all(addresses.into_iter().map(Step::RemoveAddress));
        self.emit_all(links.into_iter().map(Step::DeleteLink));
        self.emit_all(audits.into_iter().map(Step::Detach));
    }

    /// The devices that go with these links: of a pair, both.
    fn devices(&self, links: &[String]) -> BTreeSet<String> {
        let peers = links
            .iter()
            .filter_map(|name| match &self.current.links[name] {
                Link::Veth { peer, .. } => Some(peer),
                _ => None,
            });
        links.iter().chain(peers).cloned().collect()
    }

    fn break_barriers(&mut self) {
        if self.wanted.firewall.is_none() && self.current.firewall.is_some() {
            self.emit(Step::RemoveFirewall);
        }
        if self.wanted.maps.config.is_none() && self.current.maps.config.is_some() {
            self.emit(Step::Map(MapWrite::Config(None)));
        }
        let policies = surplus(&self.wanted.policies, &self.current.policies);
        self.emit_all(policies.into_iter().map(Step::RemovePolicy));
        if self.wanted.programs.is_none() && self.current.programs.is_some() {
            self.emit(Step::UnloadPrograms);
        }
    }
}

/// Whether a device must go before what is wanted under its name can be made. What others altered is
/// repaired in place.
fn replaces(current: &Link, wanted: Option<&Link>) -> bool {
    !matches!(current, Link::Altered(_)) && wanted != Some(current)
}

fn other_xdp_mode(attachment: &Attachment) -> Option<Attachment> {
    let program = match attachment.program {
        Program::UnderlayRxXdpNative => Program::UnderlayRxXdpGeneric,
        Program::UnderlayRxXdpGeneric => Program::UnderlayRxXdpNative,
        _ => return None,
    };
    Some(Attachment {
        program,
        device: attachment.device.clone(),
    })
}

/// The global IPv6 switch: written after `accept_ra`, which keeps router advertisements working, and
/// restored before it (`addrconf_fixup_forwarding` purges routes, net/ipv6/addrconf.c).
fn forwards(path: &str) -> bool {
    path == "net/ipv6/conf/all/forwarding"
}
