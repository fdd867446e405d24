//! What is on this host. Looking may load kernel modules and changes nothing else.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use super::{Device, Findings};
use crate::{
    dataplane::{
        desired::Settings,
        objects::{Attachment, GRO},
    },
    kernel::{
        bpf, ethtool, features, firewall,
        host::Directories,
        links, modules, rtnl, sysctl,
        xfrm::{self, Severity},
    },
};

/// Looks at everything. What cannot be looked at counts as missing.
pub async fn gather(
    directories: &Directories,
    settings: &Settings,
    vteps: &[std::net::IpAddr],
) -> Findings {
    let pins = &directories.pins;
    let modules = modules::load_wanted();
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let nft = features::nft();
    let (devices, other_vxlan) = devices(settings.port).await;
    let disable_xfrm = std::iter::once("all")
        .chain(devices.keys().map(String::as_str))
        .filter(|device| number(&format!("net/ipv4/conf/{device}/disable_xfrm")) > 0)
        .map(str::to_owned)
        .collect();
    let foreign_chains = if nft {
        firewall::View::default()
            .foreign_chains()
            .await
            .unwrap_or_default()
    } else {
        Default::default()
    };
    let ipsec_error = features::probe_ipsec(settings, ipv6)
        .await
        .err()
        .map(|error| error.to_string());
    Findings {
        capabilities: capabilities(),
        release: sysctl::read("kernel/osrelease")
            .ok()
            .flatten()
            .unwrap_or_default(),
        bpf_object: crate::bpf_object::BPF_OBJECT.is_some(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        bpffs: is_bpffs(pins),
        // Only the first network namespace shows the setting.
        jit: sysctl::read("net/core/bpf_jit_enable")
            .ok()
            .flatten()
            .is_none_or(|value| value != "0"),
        tcx: bpf::supports_tcx().unwrap_or(false),
        decap_l3: bpf::supports_decap_l3().unwrap_or(false),
        modules,
        // After the attempt above, which makes the kernel instantiate the algorithm.
        aes_gcm: fs::read_to_string("/proc/crypto")
            .ok()
            .and_then(|crypto| aes_gcm(&crypto)),
        ipsec_error,
        devices,
        other_vxlan,
        conflicts: conflicts(settings, vteps).await,
        programs_before: programs_before(pins).await,
        rp_filter_all: number("net/ipv4/conf/all/rp_filter"),
        disable_xfrm,
        foreign_chains: foreign_chains
            .into_iter()
            .map(|chain| format!("{} {}", chain.table, chain.chain))
            .collect(),
        nft,
        volatile_state: is_volatile(&directories.state)
            .then(|| directories.state.display().to_string()),
        ipv6,
        force_forwarding: Path::new("/proc/sys/net/ipv6/conf/default/force_forwarding").exists(),
        ipv6_forwarding: number("net/ipv6/conf/all/forwarding") > 0,
        port: settings.port,
        esp_in_udp_port: settings.esp_in_udp_port.unwrap_or(0),
    }
}

fn number(path: &str) -> u8 {
    sysctl::read(path)
        .ok()
        .flatten()
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

fn capabilities() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("CapEff:"))?;
            u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()
        })
        .unwrap_or(0)
}

/// Whether it is, or would be made, on a BPF file system.
fn is_bpffs(pins: &Path) -> bool {
    // BPF_FS_MAGIC, include/uapi/linux/magic.h
    file_system(pins) == Some(0xcafe_4a11)
}

/// Whether it is, or would be made, in memory.
fn is_volatile(state: &Path) -> bool {
    // TMPFS_MAGIC and RAMFS_MAGIC, include/uapi/linux/magic.h
    matches!(file_system(state), Some(0x0102_1994 | 0x8584_58f6))
}

/// The magic number of the file system that the nearest existing directory is on.
fn file_system(path: &Path) -> Option<i64> {
    path.ancestors()
        .find_map(|path| rustix::fs::statfs(path).ok())
        .map(|status| status.f_type)
}

/// The driver that the kernel would take: the one with the highest priority.
fn aes_gcm(crypto: &str) -> Option<String> {
    crypto
        .split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| {
                block.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    (key.trim() == name).then(|| value.trim())
                })
            };
            (field("name")? == "rfc4106(gcm(aes))")
                .then(|| Some((field("priority")?.parse::<u32>().ok()?, field("driver")?)))?
        })
        .max()
        .map(|(_, driver)| driver.to_owned())
}

async fn devices(port: u16) -> (BTreeMap<String, Device>, Vec<String>) {
    let Ok(rtnl) = rtnl::Handle::open() else {
        return Default::default();
    };
    let other_vxlan = links::all(&rtnl)
        .await
        .unwrap_or_default()
        .into_values()
        .filter(|device| device.name != GRO)
        .filter(|device| matches!(&device.kind, links::Kind::Vxlan(vxlan) if vxlan.port == port))
        .map(|device| device.name)
        .collect();
    let devices = links::underlay_candidates(&rtnl)
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|(name, device)| {
            let found = Device {
                mtu: device.mtu,
                hardware: Path::new("/sys/class/net")
                    .join(&name)
                    .join("device")
                    .exists(),
                gro: ethtool::gro(&name).ok(),
                offloads: offloads(&name),
            };
            (name, found)
        })
        .collect();
    (devices, other_vxlan)
}

/// The segmentation offloads by `ethtool -k`; none where the command is missing.
fn offloads(device: &str) -> BTreeMap<String, bool> {
    let Ok(output) = Command::new("ethtool").args(["-k", device]).output() else {
        return BTreeMap::new();
    };
    parse_offloads(&String::from_utf8_lossy(&output.stdout))
}

fn parse_offloads(text: &str) -> BTreeMap<String, bool> {
    const WANTED: [&str; 3] = [
        "generic-segmentation-offload",
        "tcp-segmentation-offload",
        "tx-udp_tnl-segmentation",
    ];
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once(':')?;
            WANTED
                .contains(&name)
                .then(|| (name.to_owned(), value.trim().starts_with("on")))
        })
        .collect()
}

async fn conflicts(settings: &Settings, vteps: &[std::net::IpAddr]) -> Vec<(bool, String)> {
    let Ok(xfrm) = xfrm::Handle::open(xfrm::Ownership::of(settings)) else {
        return Vec::new();
    };
    xfrm.foreign(vteps)
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|foreign| (foreign.severity == Severity::Opens, foreign.to_string()))
        .collect()
}

/// None where no data plane is loaded.
async fn programs_before(pins: &Path) -> Vec<String> {
    let (Ok(Some(pinned)), Ok(rtnl)) = (bpf::Pinned::open(pins), rtnl::Handle::open()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for attachment in pinned.observe_attachments().unwrap_or_default() {
        let Ok(index) = links::index(&rtnl, &attachment.device).await else {
            continue;
        };
        let before = pinned.programs_before(&attachment, index);
        for other in before.unwrap_or_default() {
            let Attachment { program, device } = &attachment;
            found.push(format!("program {other} runs before {program} on {device}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_with_the_highest_priority_counts() {
        let crypto = "name         : rfc4106(gcm(aes))\ndriver       : slow-generic\npriority     : 100\n\n\
                      name         : gcm(aes)\ndriver       : other\npriority     : 900\n\n\
                      name         : rfc4106(gcm(aes))\ndriver       : rfc4106-gcm-aesni\npriority     : 400\n";
        assert_eq!(aes_gcm(crypto).as_deref(), Some("rfc4106-gcm-aesni"));
        assert_eq!(aes_gcm(""), None);
    }

    #[test]
    fn offloads_are_read_from_ethtool() {
        let text = "Features for eth0:\ntcp-segmentation-offload: on\n\ttx-tcp-segmentation: on\n\
                    generic-segmentation-offload: off [fixed]\n";
        let found = parse_offloads(text);
        assert_eq!(found.len(), 2);
        assert!(found["tcp-segmentation-offload"]);
        assert!(!found["generic-segmentation-offload"]);
    }
}
