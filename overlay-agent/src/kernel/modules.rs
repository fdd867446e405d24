//! Kernel modules: loaded if the kernel has them as modules and lets us.

use std::{path::Path, process::Command};

/// A module and what is missing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    pub name: &'static str,
    pub purpose: &'static str,
    /// Encrypted networks stay closed without it.
    pub for_ipsec: bool,
}

/// The modules that a data plane asks for, in the order in which a packet meets them.
pub const WANTED: [Module; 9] = [
    Module {
        name: "veth",
        purpose: "endpoints, and the hop on the way to IPsec",
        for_ipsec: false,
    },
    Module {
        name: "vxlan",
        purpose: "VXLAN GRO",
        for_ipsec: false,
    },
    Module {
        name: "nf_tables",
        purpose: "the firewall against local injection",
        for_ipsec: false,
    },
    Module {
        name: "esp4",
        purpose: "ESP over IPv4",
        for_ipsec: true,
    },
    Module {
        name: "esp6",
        purpose: "ESP over IPv6",
        for_ipsec: true,
    },
    Module {
        name: "esp4_offload",
        purpose: "GSO through ESP over IPv4 (speed)",
        for_ipsec: false,
    },
    Module {
        name: "esp6_offload",
        purpose: "GSO through ESP over IPv6 (speed)",
        for_ipsec: false,
    },
    Module {
        name: "xfrm_interface",
        purpose: "the device on which decrypted packets appear",
        for_ipsec: true,
    },
    Module {
        name: "xfrm_user",
        purpose: "IPsec by netlink",
        for_ipsec: true,
    },
];

/// Where a module's code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// In the kernel: built in, or loaded.
    Loaded,
    /// `modprobe` did not find or load it. The kernel may still have it built in without saying so.
    NotLoaded,
}

/// Loads a module unless it is there. Whether a feature works is found by trying it, not by this.
pub fn load(name: &str) -> Presence {
    if is_loaded(name) {
        return Presence::Loaded;
    }
    // It succeeds for built-in code, too.
    let loaded = Command::new("modprobe")
        .args(["--quiet", "--", name])
        .output()
        .is_ok_and(|output| output.status.success());
    if loaded || is_loaded(name) {
        Presence::Loaded
    } else {
        Presence::NotLoaded
    }
}

/// Loads what a data plane asks for.
pub fn load_wanted() {
    for module in WANTED {
        if load(module.name) == Presence::NotLoaded {
            tracing::debug!(module = module.name, "not loaded");
        }
    }
}

fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists() || is_builtin(name)
}

fn is_builtin(name: &str) -> bool {
    let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else {
        return false;
    };
    let list = format!("/lib/modules/{}/modules.builtin", release.trim());
    std::fs::read_to_string(list).is_ok_and(|list| {
        list.lines()
            .any(|line| line.ends_with(&format!("/{name}.ko")))
    })
}
