//! From the desired data plane and the underlay facts to the kernel objects that must exist.
//!
//! Pure. What this host cannot realise is left out, so that it stays closed, and reported.

mod host;
mod ipsec;
mod maps;
mod plan;

pub use ipsec::REPLAY_WINDOW;
pub use maps::CLOSED;

use overlay_ebpf::abi::ConfigFlags;

use super::{
    desired::{DataPlane, XdpMode},
    objects::{ConfigEntry, Objects, UnderlayFacts},
    problem::Problem,
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
    validate::validate(desired)?;
    let mut problems = validate::mark_warnings(&desired.settings);
    let plan = plan::Plan::new(desired, facts, &mut problems);
    let mut objects = Objects {
        programs: Some(desired.settings.map_sizes),
        ..Objects::default()
    };
    host::compile(&plan, &mut objects, &mut problems);
    ipsec::compile(&plan, &mut objects, &mut problems);
    maps::compile(&plan, &mut objects);
    objects.maps.config = Some(config(desired, facts, &objects));
    let overfull = maps::overfull(&objects.maps, &desired.settings.map_sizes);
    if overfull.is_empty() {
        Ok(Compiled { objects, problems })
    } else {
        Err(overfull)
    }
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
