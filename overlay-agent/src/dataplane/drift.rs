//! What others changed, and when to look.
//!
//! The kernel is compared with what it held when we last left it, and not with what is wanted: so
//! our own doing is never an alarm, and neither is what the operator asked for in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use overlay_ebpf::abi::{MacAddr, SaDirection};

use super::{
    objects::{
        Attachment, EndpointLink, Firewall, Link, MapEntries, Objects, PolicyAction, State,
        UnderlayFacts,
    },
    step::address_of,
};

/// What differs between the objects as we left them and as they are, in words.
pub fn alarms(left: &Objects, found: &Objects) -> Vec<String> {
    let mut out = Vec::new();
    if left.programs.is_some() && found.programs.is_none() {
        out.push("the programs and maps are gone".to_owned());
        return out;
    }
    maps(
        &mut out,
        &left.policies,
        &found.policies,
        |key, policy| match policy.action {
            PolicyAction::Block => format!("block policy {key}"),
            PolicyAction::Encrypt { .. } | PolicyAction::Other => format!("policy {key}"),
        },
    );
    // The key is not part of what is observed.
    let comparable = |state: &State| {
        (
            state.mode,
            state.reqid,
            state.replay_window,
            state.hard_byte_limit,
            state.encap,
        )
    };
    let states = |objects: &Objects| -> BTreeMap<_, _> {
        let states = objects.states.iter();
        states.map(|(key, s)| (*key, comparable(s))).collect()
    };
    maps(
        &mut out,
        &states(left),
        &states(found),
        |key, (mode, ..)| format!("{mode} SA {key}"),
    );
    links(&mut out, &left.links, &found.links);
    if left.firewall != found.firewall {
        out.push(firewall(left.firewall.as_ref(), found.firewall.as_ref()));
    }
    for (path, value) in &left.sysctls {
        match found.sysctls.get(path) {
            Some(now) if now != value => {
                out.push(format!("sysctl {path} was changed from {value} to {now}"));
            }
            Some(_) => {}
            None => out.push(format!("sysctl {path} is gone")),
        }
    }
    sets(
        &mut out,
        &left.attachments,
        &found.attachments,
        |Attachment { program, device }| format!("{program} on {device}"),
    );
    sets(&mut out, &left.addresses, &found.addresses, |a| {
        format!("address {}/{} of {}", a.address, a.prefix_length, a.device)
    });
    sets(&mut out, &left.neighbours, &found.neighbours, |n| {
        format!("neighbour {} on {}", n.address, n.device)
    });
    endpoints(&mut out, &left.endpoints, &found.endpoints);
    map_entries(&mut out, &left.maps, &found.maps);
    out
}

fn maps<K: Ord, V: PartialEq>(
    out: &mut Vec<String>,
    left: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    name: impl Fn(&K, &V) -> String,
) {
    for (key, value) in left {
        match found.get(key) {
            None => out.push(format!("{} is gone", name(key, value))),
            Some(now) if now != value => {
                out.push(format!("{} was changed", name(key, value)));
            }
            Some(_) => {}
        }
    }
    for (key, value) in found {
        if !left.contains_key(key) {
            out.push(format!("{} appeared", name(key, value)));
        }
    }
}

fn sets<T: Ord>(
    out: &mut Vec<String>,
    left: &BTreeSet<T>,
    found: &BTreeSet<T>,
    name: impl Fn(&T) -> String,
) {
    let gone = left
        .difference(found)
        .map(|item| format!("{} is gone", name(item)));
    let new = found
        .difference(left)
        .map(|item| format!("{} appeared", name(item)));
    out.extend(gone.chain(new));
}

fn links(out: &mut Vec<String>, left: &BTreeMap<String, Link>, found: &BTreeMap<String, Link>) {
    for (name, link) in left {
        match found.get(name) {
            None => out.push(format!("device {name} is gone")),
            Some(now) if now == link => {}
            Some(Link::Altered(why)) => out.push(format!("device {name} was changed: {why}")),
            Some(_) => out.push(format!("device {name} was changed")),
        }
    }
    for name in found.keys().filter(|name| !left.contains_key(*name)) {
        out.push(format!("device {name} appeared"));
    }
}

fn firewall(left: Option<&Firewall>, found: Option<&Firewall>) -> String {
    match (left, found) {
        (_, None) => "the firewall table inet overlay is gone".to_owned(),
        (None, Some(_)) => "a firewall table inet overlay appeared".to_owned(),
        (Some(_), Some(now)) => match now.altered.as_ref().or(now.displaced.as_ref()) {
            Some(why) => format!("the firewall was changed: {why}"),
            None => "the firewall was changed".to_owned(),
        },
    }
}

fn endpoints(
    out: &mut Vec<String>,
    left: &BTreeMap<String, EndpointLink>,
    found: &BTreeMap<String, EndpointLink>,
) {
    for (name, link) in left {
        let interface = &link.interface;
        match found.get(name) {
            None => out.push(format!("endpoint {name} ({interface}) is gone")),
            Some(now) if now == link => {}
            Some(now) => {
                let why = now.altered.as_deref().unwrap_or("it is another one");
                out.push(format!("endpoint {name} ({interface}) was changed: {why}"));
            }
        }
    }
}

fn map_entries(out: &mut Vec<String>, left: &MapEntries, found: &MapEntries) {
    if left.config != found.config {
        out.push("map config was changed, or names devices that are gone".to_owned());
    }
    let entry = |map: &str, key: &dyn Display| format!("map entry {map}[{key}]");
    maps(out, &left.networks, &found.networks, |key, _| {
        entry("networks", &key.vni)
    });
    // An entry whose device went shows under no name: it is told as gone and as new.
    maps(out, &left.local_ports, &found.local_ports, |key, _| {
        entry("local_ports", key)
    });
    maps(out, &left.endpoints, &found.endpoints, |key, _| {
        let mac = MacAddr(key.mac);
        entry("endpoints", &format_args!("{} {mac}", key.vni))
    });
    maps(out, &left.addresses, &found.addresses, |key, _| {
        let address = address_of(&key.address);
        entry("addresses", &format_args!("{} {address}", key.vni))
    });
    maps(out, &left.peers, &found.peers, |key, _| {
        entry("peers", &key.peer)
    });
    maps(out, &left.vteps, &found.vteps, |key, _| {
        entry("vteps", &address_of(&key.address))
    });
    maps(out, &left.memberships, &found.memberships, |key, _| {
        entry(
            "memberships",
            &format_args!("{} peer {}", key.vni, key.peer),
        )
    });
    maps(out, &left.flood_lists, &found.flood_lists, |key, _| {
        entry("flood_lists", &format_args!("{} {}", key.vni, key.position))
    });
    maps(out, &left.sas, &found.sas, |key, value| {
        let direction = match value.direction {
            SaDirection::Out => "out",
            SaDirection::In => "in",
        };
        entry("sas", &format_args!("{:#010x} {direction}", key.spi))
    });
}

/// What changed below the overlay, in words: no alarm, but what is done next follows from it.
pub fn underlay(before: &UnderlayFacts, now: &UnderlayFacts) -> Vec<String> {
    let mut out = Vec::new();
    sets(&mut out, &before.devices, &now.devices, |device| {
        format!("underlay device {device}")
    });
    let routes = before.routes.keys().chain(now.routes.keys());
    for vtep in routes.collect::<BTreeSet<_>>() {
        let (old, new) = (before.routes.get(vtep), now.routes.get(vtep));
        if old == new {
            continue;
        }
        out.push(match new {
            None => format!("there is no route to {vtep} any more"),
            Some(route) => format!(
                "the route to {vtep} leads to {} over {}, MTU {}",
                route.next_hop, route.device, route.mtu
            ),
        });
    }
    for (vtep, device) in &now.vteps {
        if before.vteps.get(vtep) != Some(device) {
            out.push(format!(
                "VTEP {vtep} is on {} with MTU {}",
                device.device, device.mtu
            ));
        }
    }
    for vtep in before.vteps.keys() {
        if !now.vteps.contains_key(vtep) {
            out.push(format!("VTEP {vtep} is on no device any more"));
        }
    }
    out
}

/// XFRM objects of other software that meet our traffic and were not there before, in words: an SA on
/// our `if_id`, or a policy ahead of ours. They are not ours to remove, so nothing else follows.
pub fn conflicts(before: &UnderlayFacts, now: &UnderlayFacts) -> Vec<String> {
    now.conflicts
        .iter()
        .filter(|conflict| !before.conflicts.contains(conflict))
        .map(|conflict| format!("{}: {}", conflict.object, conflict.effect))
        .collect()
}

/// How a check of everything ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Complete,
    /// A step failed, or the kernel could not be observed.
    Failed,
}

/// When to check everything. Time is given, from any fixed start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// No check before it.
    rested: Duration,
    /// What was heard since the last check asks for one at this time.
    heard: Option<Duration>,
    /// The next without anything heard.
    regular: Duration,
}

impl Pace {
    /// From the first word of a change to the check: others change several things at once.
    pub const GATHER: Duration = Duration::from_millis(100);
    /// Without word of a change: what no message tells of, such as what is inside a container.
    pub const REGULAR: Duration = Duration::from_secs(10);
    /// After a check that failed, which may itself be what is heard.
    pub const RETRY: Duration = Duration::from_secs(1);
    /// A check that takes long is not followed by the next at once.
    const LONGEST_REST: Duration = Duration::from_millis(400);

    pub fn new(now: Duration) -> Self {
        Self {
            rested: now,
            heard: None,
            regular: now + Self::REGULAR,
        }
    }

    /// A change was heard of.
    pub fn heard(&mut self, now: Duration) {
        self.heard.get_or_insert(now + Self::GATHER);
    }

    /// A difference was seen.
    pub fn seen(&mut self, now: Duration) {
        self.heard = Some(self.heard.map_or(now, |heard| heard.min(now)));
    }

    /// When the next check is due.
    pub fn due(&self) -> Duration {
        let asked = self.heard.map_or(self.regular, |at| at.min(self.regular));
        asked.max(self.rested)
    }

    /// A check began: what is heard from now on asks for another.
    pub fn began(&mut self) {
        self.heard = None;
    }

    /// It ended. Our own steps are heard as well: the check that follows finds nothing, and no other
    /// follows that one.
    pub fn ended(&mut self, now: Duration, took: Duration, checked: Checked) {
        self.regular = now + Self::REGULAR;
        self.rested = now
            + match checked {
                Checked::Complete => took.min(Self::LONGEST_REST),
                Checked::Failed => Self::RETRY,
            };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        objects::{Conflict, PolicyKey, Program, StateMode, XFRM},
        problem::Problem,
        reconcile::reconcile,
        step::Step,
        testing::{SimulatedKernel, example, facts},
    };

    fn applied() -> SimulatedKernel {
        let mut kernel = SimulatedKernel::new();
        repair(&mut kernel);
        kernel
    }

    fn repair(kernel: &mut SimulatedKernel) -> crate::dataplane::reconcile::Report {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(reconcile(kernel, &example(), || false))
            .unwrap()
    }

    fn policy(kernel: &SimulatedKernel, block: bool) -> PolicyKey {
        let mut policies = kernel.objects.policies.iter();
        *policies
            .find(|(_, policy)| (policy.action == PolicyAction::Block) == block)
            .unwrap()
            .0
    }

    #[test]
    fn nothing_changed_is_no_alarm_whatever_keys_we_know() {
        let kernel = applied();
        assert_eq!(
            alarms(&kernel.objects, &kernel.objects),
            Vec::<String>::new()
        );
    }

    #[test]
    fn every_loss_is_named_and_the_peer_is_closed_first_and_open_last() {
        for block in [false, true] {
            let mut kernel = applied();
            let left = kernel.objects.clone();
            let key = policy(&kernel, block);
            kernel.objects.policies.remove(&key);
            let alarms = alarms(&left, &kernel.objects);
            assert_eq!(alarms.len(), 1);
            assert!(
                alarms[0].contains(&key.to_string()) && alarms[0].ends_with("is gone"),
                "{alarms:?}"
            );
            let done = repair(&mut kernel).done;
            let words: Vec<String> = done.iter().map(ToString::to_string).collect();
            assert!(words[0].contains("no encrypted transmission"), "{words:?}");
            assert!(words.last().unwrap().contains("send in slot"), "{words:?}");
            assert_eq!(alarms_after(&left, &kernel), Vec::<String>::new());
        }
    }

    fn alarms_after(left: &Objects, kernel: &SimulatedKernel) -> Vec<String> {
        alarms(left, &kernel.objects)
    }

    #[test]
    fn lost_sas_do_not_come_back_with_their_keys() {
        for (outbound, words) in [(true, "repeat nonces"), (false, "accept replayed packets")] {
            let mut kernel = applied();
            let mut states = kernel.objects.states.iter();
            let key = *states
                .find(|(_, state)| (state.mode == StateMode::Transport) == outbound)
                .unwrap()
                .0;
            kernel.objects.states.remove(&key);
            let report = repair(&mut kernel);
            assert!(!kernel.objects.states.contains_key(&key));
            let names_it =
                |reason: &str| reason.contains(&key.spi.to_string()) && reason.contains(words);
            assert!(
                report
                    .problems
                    .iter()
                    .any(|problem| problem.closes && names_it(&problem.reason)),
                "{report:?}"
            );
            // What the peer may be sent is another matter than what is accepted from it.
            let mut peers = kernel.objects.maps.peers.values();
            assert_eq!(peers.all(|peer| peer.tx.lanes == 0), outbound);
            assert_eq!(repair(&mut kernel).done, []);
        }
    }

    #[test]
    fn without_reentry_the_peer_is_closed_until_it_is_attached_again() {
        let mut kernel = applied();
        let reentry = |a: &Attachment| a.program == Program::Reentry;
        kernel.objects.attachments.retain(|a| !reentry(a));
        let done = repair(&mut kernel).done;
        let closed = |step: &Step| step.to_string().contains("no encrypted transmission");
        let position = |found: &dyn Fn(&Step) -> bool| done.iter().position(found).unwrap();
        let attached = position(&|step| matches!(step, Step::Attach(a) if reentry(a)));
        let opened = position(&|step| step.to_string().contains("send in slot"));
        assert!(closed(&done[0]) && attached < opened, "{done:?}");
    }

    #[test]
    fn altered_devices_and_a_flushed_firewall_close_the_peer_until_repaired() {
        let damage: [fn(&mut Objects); 2] = [
            |objects| {
                let altered = Link::Altered("it is down".into());
                objects.links.insert(XFRM.into(), altered);
            },
            |objects| {
                let firewall = objects.firewall.as_mut().unwrap();
                firewall.altered = Some("the table lacks its rules".into());
            },
        ];
        for damage in damage {
            let mut kernel = applied();
            let left = kernel.objects.clone();
            damage(&mut kernel.objects);
            let said = alarms(&left, &kernel.objects);
            assert!(
                said.len() == 1 && said[0].contains("was changed"),
                "{said:?}"
            );
            let done = repair(&mut kernel).done;
            assert!(
                done[0].to_string().contains("no encrypted transmission"),
                "{done:?}"
            );
            assert!(kernel.objects.maps.peers.values().any(|p| p.tx.lanes > 0));
        }
    }

    #[test]
    fn changes_of_the_underlay_are_told() {
        let before = facts(&example());
        let mut now = before.clone();
        now.devices.insert("eth2".into());
        let route = now.routes.values_mut().next().unwrap();
        route.mtu = 1400;
        let said = underlay(&before, &now);
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("eth2 appeared"), "{said:?}");
        assert!(said[1].contains("MTU 1400"), "{said:?}");
    }

    #[test]
    fn a_foreign_sa_on_our_if_id_is_an_alarm_once_and_a_warning_of_every_apply() {
        let mut kernel = applied();
        let before = facts(&example());
        let mut now = before.clone();
        now.conflicts.push(Conflict {
            opens: false,
            object: "state 10.0.0.9 → 10.0.0.1 if_id 0x1".into(),
            effect: "it delivers to the overlay's xfrm interface".into(),
        });
        let said = conflicts(&before, &now);
        assert!(
            said.len() == 1
                && said[0].starts_with("state 10.0.0.9 → 10.0.0.1 if_id 0x1: it delivers"),
            "{said:?}"
        );
        assert_eq!(conflicts(&now, &now), [""; 0]);
        assert_eq!(underlay(&before, &now), [""; 0]);

        kernel.facts = Some(now);
        let report = repair(&mut kernel);
        assert_eq!(report.done, []);
        assert!(report.is_complete());
        let warning = |problem: &Problem| {
            let text = problem.to_string();
            text.contains("warning") && text.contains("state 10.0.0.9")
        };
        assert!(report.problems.iter().any(warning), "{report:?}");
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_one_check_soon_after_its_first_word() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(pace.due(), Pace::REGULAR);
        pace.heard(1000 * MS);
        pace.heard(1090 * MS);
        assert_eq!(pace.due(), 1100 * MS);
        pace.seen(1050 * MS);
        assert_eq!(pace.due(), 1050 * MS);
        pace.began();
        pace.ended(1150 * MS, 50 * MS, Checked::Complete);
        assert_eq!(pace.due(), 1150 * MS + Pace::REGULAR);
    }

    #[test]
    fn our_own_steps_cause_one_more_check_and_failing_ones_no_storm() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.began();
        pace.heard(10 * MS);
        pace.ended(500 * MS, 490 * MS, Checked::Complete);
        assert_eq!(pace.due(), 900 * MS);
        pace.began();
        pace.ended(950 * MS, 50 * MS, Checked::Complete);
        assert_eq!(pace.due(), 950 * MS + Pace::REGULAR);

        pace.began();
        pace.heard(960 * MS);
        pace.ended(970 * MS, 10 * MS, Checked::Failed);
        assert_eq!(pace.due(), 970 * MS + Pace::RETRY);
    }
}
