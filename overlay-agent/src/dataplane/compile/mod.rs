//! From the desired data plane and the underlay facts to the kernel objects that must exist.
//!
//! Pure. What this host cannot realise is left out, so that it stays closed, and reported.

mod host;
mod ipsec;
mod maps;
mod plan;

pub use ipsec::REPLAY_WINDOW;
pub use maps::CLOSED;

use std::{borrow::Cow, collections::BTreeMap};

use overlay_ebpf::abi::ConfigFlags;

use super::{
    copy_on_write::CopyOnWrite,
    desired::{DataPlane, XdpMode},
    endpoint_name::host_device_name,
    objects::{ConfigEntry, Objects, UnderlayFacts},
    problem::{Problem, Subject},
    validate::{self, Invalid},
};

/// What a desired data plane asks of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    pub objects: Objects,
    /// What is left out and why.
    pub problems: Vec<Problem>,
}

/// Derives the wanted objects. Errors are contradictions in the input; then nothing is wanted.
pub fn compile(desired: &DataPlane, facts: &UnderlayFacts) -> Result<Compiled, Vec<Invalid>> {
    compile_beside(desired, facts, &Objects::default())
}

/// As [`compile`]: the same objects, but what grows with the cluster and comes out as it is in `known` is not made anew.
pub fn compile_beside(
    desired: &DataPlane,
    facts: &UnderlayFacts,
    known: &Objects,
) -> Result<Compiled, Vec<Invalid>> {
    validate::validate(desired)?;
    let mut problems = validate::mark_warnings(&desired.settings);
    let present = present(desired, facts, &mut problems);
    let desired = present.as_ref();
    let plan = plan::Plan::new(desired, facts, &mut problems);
    let mut objects = Objects {
        programs: Some(desired.settings.map_sizes),
        ..Objects::default()
    };
    host::compile(&plan, &mut objects, &mut problems);
    ipsec::compile(&plan, known, &mut objects, &mut problems);
    maps::compile(&plan, &known.maps, &mut objects);
    objects.maps.config = Some(config(desired, facts, &objects));
    let overfull = maps::overfull(&objects.maps, &desired.settings.map_sizes);
    if overfull.is_empty() {
        Ok(Compiled { objects, problems })
    } else {
        Err(overfull)
    }
}

/// The map of these entries, about so many, whose keys differ: `known` if it is that, else a new one.
fn same_or_new<K: Ord, V: PartialEq, I: Iterator<Item = (K, V)>>(
    known: &CopyOnWrite<BTreeMap<K, V>>,
    about: usize,
    entries: impl Fn() -> I,
) -> CopyOnWrite<BTreeMap<K, V>> {
    let mut count = 0;
    let is_known = |(key, value)| {
        count += 1;
        known.get(&key) == Some(&value)
    };
    if entries().all(is_known) && count == known.len() {
        return known.clone();
    }
    // Made at once, the tree is full; made entry by entry, it is half empty.
    let mut all = Vec::with_capacity(about);
    all.extend(entries());
    all.into_iter().collect()
}

/// The data plane without the endpoints whose namespace is gone: nothing of theirs shall be in the kernel.
fn present<'a>(
    desired: &'a DataPlane,
    facts: &UnderlayFacts,
    problems: &mut Vec<Problem>,
) -> Cow<'a, DataPlane> {
    if facts.gone.is_empty() {
        return Cow::Borrowed(desired);
    }
    let mut present = desired.clone();
    present.local_endpoints.retain(|endpoint| {
        let gone = facts
            .gone
            .contains(&host_device_name(endpoint.vni, endpoint.mac));
        if gone {
            problems.push(Problem::closes(
                Subject::Endpoint(endpoint.name.clone()),
                "its network namespace is not there, so nothing of it is in the kernel",
                "make the namespace and apply again, or take the endpoint out",
            ));
        }
        !gone
    });
    Cow::Owned(present)
}

fn config(desired: &DataPlane, facts: &UnderlayFacts, objects: &Objects) -> ConfigEntry {
    let settings = &desired.settings;
    let native = objects
        .attachments
        .iter()
        .any(|a| a.program == super::objects::Program::UnderlayRxXdpNative);
    let mut flags = 0;
    if facts.features.redirect_peer {
        flags |= ConfigFlags::REDIRECT_PEER;
    }
    if facts.features.decap_l3 {
        flags |= ConfigFlags::DECAP_L3;
    }
    if native && settings.xdp != XdpMode::Off {
        flags |= ConfigFlags::XDP_DECAP;
    }
    ConfigEntry {
        node: desired.node.index.get(),
        flags,
        event_sample: settings.event_sample,
        mark: settings.mark,
        port: settings.port,
        esp_in_udp_port: settings.esp_in_udp_port.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
