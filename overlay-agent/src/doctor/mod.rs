//! Pre-flight checks: what this host can do, and what helps where it cannot.
//!
//! [`gather`] looks, [`evaluate`] judges; only the first needs a kernel.

pub mod evaluate;
pub mod gather;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kernel::modules::{Module, Presence};

/// What was found on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Effective capabilities (`CapEff` of /proc/self/status).
    pub capabilities: u64,
    /// `uname -r`.
    pub release: String,
    /// This binary carries the BPF programs.
    pub bpf_object: bool,
    /// `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// A BPF file system at or above the pin directory.
    pub bpffs: bool,
    pub jit: bool,
    pub tcx: bool,
    pub decap_l3: bool,
    pub modules: Vec<(Module, Presence)>,
    /// Installing SAs and an xfrm interface, for all families of the kernel.
    /// `None` if it worked, else why not.
    pub ipsec_error: Option<String>,
    /// Driver of `rfc4106(gcm(aes))` with the highest priority (/proc/crypto).
    pub aes_gcm: Option<String>,
    pub devices: BTreeMap<String, Device>,
    /// Devices of other software that take VXLAN on our port.
    pub other_vxlan: Vec<String>,
    /// XFRM objects of other software: whether traffic could pass in clear, and what.
    pub conflicts: Vec<(bool, String)>,
    /// Programs of other software that run before ours at the same place.
    pub programs_before: Vec<String>,
    pub rp_filter_all: u8,
    pub disable_xfrm: Vec<String>,
    /// Chains of other software that re-entered packets pass.
    pub foreign_chains: Vec<String>,
    pub nft: bool,
    /// The directory of what must survive a reboot, if it is in memory and would not.
    pub volatile_state: Option<String>,
    pub ipv6: bool,
    pub force_forwarding: bool,
    pub ipv6_forwarding: bool,
    pub port: u16,
    /// 0 is plain ESP.
    pub esp_in_udp_port: u16,
}

/// An underlay candidate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub mtu: u32,
    /// A NIC, and not a device made by software.
    pub hardware: bool,
    /// Generic receive offload; `None` if the device does not say.
    pub gro: Option<bool>,
    /// Segmentation by the kernel and by the NIC, and of UDP tunnels (`ethtool -k`).
    pub offloads: BTreeMap<String, bool>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, slower or with care.
    Warn,
    /// Something stays closed.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub check: &'static str,
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What helps; `None` if nothing is to be done.
    pub remedy: Option<String>,
}
