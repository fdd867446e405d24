//! Kernel modules: loaded if the kernel has them as modules and lets us.

use std::{cell::LazyCell, collections::BTreeSet, path::Path, process::Command};

/// A module and what is missing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    pub name: &'static str,
    /// A function of it: what is built in shows in /proc/kallsyms and may show nowhere else.
    pub symbol: &'static str,
    pub purpose: &'static str,
    /// Encrypted networks stay closed without it.
    pub for_ipsec: bool,
}

/// The modules that a data plane asks for, in the order in which a packet meets them.
pub const WANTED: [Module; 9] = [
    Module {
        name: "veth",
        symbol: "veth_xmit",
        purpose: "endpoints, and the hop on the way to IPsec",
        for_ipsec: false,
    },
    Module {
        name: "vxlan",
        symbol: "vxlan_xmit",
        purpose: "VXLAN GRO",
        for_ipsec: false,
    },
    Module {
        name: "nf_tables",
        symbol: "nft_do_chain",
        purpose: "the firewall against local injection",
        for_ipsec: false,
    },
    Module {
        name: "esp4",
        symbol: "esp_init_state",
        purpose: "ESP over IPv4",
        for_ipsec: true,
    },
    Module {
        name: "esp6",
        symbol: "esp6_init_state",
        purpose: "ESP over IPv6",
        for_ipsec: true,
    },
    Module {
        name: "esp4_offload",
        symbol: "esp4_gso_segment",
        purpose: "GSO through ESP over IPv4 (speed)",
        for_ipsec: false,
    },
    Module {
        name: "esp6_offload",
        symbol: "esp6_gso_segment",
        purpose: "GSO through ESP over IPv6 (speed)",
        for_ipsec: false,
    },
    Module {
        name: "xfrm_interface",
        symbol: "xfrmi_newlink",
        purpose: "the device on which decrypted packets appear",
        for_ipsec: true,
    },
    Module {
        name: "xfrm_user",
        symbol: "xfrm_user_rcv_msg",
        purpose: "IPsec by netlink",
        for_ipsec: true,
    },
];

/// Where a module's code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// In the kernel: built in, or loaded.
    Loaded,
    /// Neither, and `modprobe` did not change that.
    NotLoaded,
}

/// Loads what a data plane asks for. Whether a feature works is found by trying it, not by this.
pub fn load_wanted() -> Vec<(Module, Presence)> {
    let presence = load_all(&WANTED);
    for (module, presence) in WANTED.iter().zip(&presence) {
        if *presence == Presence::NotLoaded {
            tracing::debug!(module = module.name, "not loaded");
        }
    }
    WANTED.into_iter().zip(presence).collect()
}

fn load_all(modules: &[Module]) -> Vec<Presence> {
    // A list of some hundred thousand lines: read only where something is not loaded as a module.
    let symbols = LazyCell::new(|| symbols(modules));
    modules
        .iter()
        .map(|module| {
            let loaded = Path::new("/sys/module").join(module.name).exists()
                || symbols.contains(module.symbol)
                // It succeeds for built-in code, too.
                || Command::new("modprobe")
                    .args(["--quiet", "--", module.name])
                    .output()
                    .is_ok_and(|output| output.status.success());
            if loaded {
                Presence::Loaded
            } else {
                Presence::NotLoaded
            }
        })
        .collect()
}

/// Those of the modules' symbols that the kernel has.
fn symbols(modules: &[Module]) -> BTreeSet<&'static str> {
    let list = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    list.lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .filter_map(|name| {
            let module = modules.iter().find(|module| module.symbol == name)?;
            Some(module.symbol)
        })
        .collect()
}
