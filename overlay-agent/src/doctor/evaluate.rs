//! From what was found to verdicts and remedies.

use overlay_ebpf::packet::mtu::{Carrier, Family, MIN_INNER_IPV6, inner_mtu};

use super::{Check, Findings, Verdict};
use crate::kernel::modules::Presence;

/// Judges every finding, in the order in which a data plane would stumble over them.
pub fn evaluate(found: &Findings) -> Vec<Check> {
    let mut checks = vec![
        capabilities(found),
        kernel(found),
        programs(found),
        bpf(found),
        tcx(found),
        programs_before(found),
    ];
    checks.extend(modules(found));
    checks.push(ipsec(found));
    checks.push(aes_gcm(found));
    checks.push(conflicts(found));
    checks.push(disable_xfrm(found));
    checks.push(rp_filter(found));
    checks.push(firewall(found));
    checks.push(forward(found));
    checks.push(vxlan_port(found));
    checks.push(ledger(found));
    checks.push(ipv6(found));
    checks.extend(devices(found));
    if !missing_capabilities(found).is_empty() {
        for check in &mut checks {
            if PRIVILEGED.contains(&check.check) {
                *check = bad(
                    Verdict::Warn,
                    check.check,
                    "not checked: looking takes the privileges that are missing",
                    "run this as root",
                );
            }
        }
    }
    checks
}

/// Checks whose findings mean nothing without privileges: what may not be looked at seems not to be there.
const PRIVILEGED: [&str; 6] = ["TCX", "program order", "IPsec", "XFRM", "nft", "FORWARD"];

fn ok(check: &'static str, detail: impl Into<String>) -> Check {
    Check {
        check,
        verdict: Verdict::Ok,
        detail: detail.into(),
        remedy: None,
    }
}

fn bad(
    verdict: Verdict,
    check: &'static str,
    detail: impl Into<String>,
    remedy: impl Into<String>,
) -> Check {
    Check {
        check,
        verdict,
        detail: detail.into(),
        remedy: Some(remedy.into()),
    }
}

fn missing_capabilities(found: &Findings) -> Vec<&'static str> {
    // include/uapi/linux/capability.h
    [
        (12, "CAP_NET_ADMIN"),
        (21, "CAP_SYS_ADMIN"),
        (39, "CAP_BPF"),
    ]
    .into_iter()
    .filter(|(bit, _)| found.capabilities >> bit & 1 == 0)
    .map(|(_, name)| name)
    .collect()
}

fn capabilities(found: &Findings) -> Check {
    let missing = missing_capabilities(found);
    if missing.is_empty() {
        ok("privileges", "CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF")
    } else {
        bad(
            Verdict::Fail,
            "privileges",
            format!("{} missing", missing.join(", ")),
            "run as root, or give the process these capabilities",
        )
    }
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(found: &Findings) -> Check {
    match version(&found.release) {
        Some(version) if version >= (6, 1) => ok("kernel", format!("Linux {}", found.release)),
        _ => bad(
            Verdict::Fail,
            "kernel",
            format!("Linux {}", found.release),
            "use Linux 6.1 or later",
        ),
    }
}

fn programs(found: &Findings) -> Check {
    if found.bpf_object {
        ok("programs", "this binary carries the BPF programs")
    } else {
        bad(
            Verdict::Fail,
            "programs",
            "this binary was built without the BPF programs",
            "build it with `cargo xtask build`",
        )
    }
}

fn bpf(found: &Findings) -> Check {
    if !found.btf {
        return bad(
            Verdict::Warn,
            "BPF",
            "the kernel has no BTF (/sys/kernel/btf/vmlinux)",
            "use a kernel with CONFIG_DEBUG_INFO_BTF: tools print maps by field names then",
        );
    }
    if !found.bpffs {
        return bad(
            Verdict::Warn,
            "BPF",
            "no BPF file system is mounted",
            "`mount -t bpf bpf /sys/fs/bpf`; loading mounts it where it can",
        );
    }
    if !found.jit {
        return bad(
            Verdict::Warn,
            "BPF",
            "the JIT compiler is off: programs are interpreted",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        );
    }
    ok("BPF", "BTF, BPF file system and JIT compiler are there")
}

fn tcx(found: &Findings) -> Check {
    if found.tcx {
        ok("TCX", "programs change atomically")
    } else {
        bad(
            Verdict::Warn,
            "TCX",
            "not there (it came with Linux 6.6): programs are attached by clsact",
            "use Linux 6.6 or later for atomic updates of attached programs",
        )
    }
}

fn programs_before(found: &Findings) -> Check {
    if found.programs_before.is_empty() {
        return ok(
            "program order",
            "no program of other software runs before ours",
        );
    }
    bad(
        Verdict::Warn,
        "program order",
        found.programs_before.join("; "),
        "ours run only if these end with TC_ACT_UNSPEC: see that they do, or attach them after ours \
         (`bpftool net show` and `bpftool prog show id` name them)",
    )
}

fn modules(found: &Findings) -> Vec<Check> {
    found
        .modules
        .iter()
        .map(|(module, presence)| match presence {
            Presence::Loaded => ok("module", format!("{} is there", module.name)),
            // What decides is whether it works: that is checked below.
            Presence::NotLoaded => bad(
                Verdict::Warn,
                "module",
                format!(
                    "{} could not be loaded; it is for {}",
                    module.name, module.purpose
                ),
                format!(
                    "install the kernel's modules (`modprobe {}` says why not)",
                    module.name
                ),
            ),
        })
        .collect()
}

fn ipsec(found: &Findings) -> Check {
    match &found.ipsec_error {
        None => ok(
            "IPsec",
            "SAs with rfc4106(gcm(aes)), ESN and BEET mode can be installed, and an xfrm interface",
        ),
        Some(error) => bad(
            Verdict::Fail,
            "IPsec",
            error.clone(),
            "encrypted networks stay closed: load esp4, esp6 and xfrm_interface, or use a kernel that has them (CONFIG_INET_ESP, CONFIG_XFRM_INTERFACE)",
        ),
    }
}

fn aes_gcm(found: &Findings) -> Check {
    // Portable drivers say so in their names; those of instruction sets and devices do not.
    match &found.aes_gcm {
        None => bad(
            Verdict::Warn,
            "AES-GCM",
            "/proc/crypto names no rfc4106(gcm(aes)) yet",
            "the first SA loads it; if IPsec fails above, the kernel lacks CONFIG_CRYPTO_GCM",
        ),
        Some(driver) if driver.contains("generic") || driver.contains("(ctr(aes-lib") => bad(
            Verdict::Warn,
            "AES-GCM",
            format!("computed in portable code ({driver})"),
            "load the module for this CPU (aesni_intel, ghash_ce…), or use a CPU with AES instructions",
        ),
        Some(driver) => ok("AES-GCM", format!("accelerated: {driver}")),
    }
}

fn conflicts(found: &Findings) -> Check {
    if found.conflicts.is_empty() {
        return ok(
            "XFRM",
            "no policy or SA of other software meets our traffic",
        );
    }
    let opens = found.conflicts.iter().any(|(opens, _)| *opens);
    let list: Vec<&str> = found
        .conflicts
        .iter()
        .map(|(_, what)| what.as_str())
        .collect();
    bad(
        if opens { Verdict::Fail } else { Verdict::Warn },
        "XFRM",
        list.join("; "),
        "remove these, or give them selectors that exclude the VTEPs",
    )
}

fn disable_xfrm(found: &Findings) -> Check {
    if found.disable_xfrm.is_empty() {
        ok("disable_xfrm", "off on every device")
    } else {
        let devices = found.disable_xfrm.join(", ");
        bad(
            Verdict::Fail,
            "disable_xfrm",
            format!("set for {devices}: packets leave there past every IPsec policy"),
            "`sysctl -w net.ipv4.conf.all.disable_xfrm=0` and the same for these devices",
        )
    }
}

fn rp_filter(found: &Findings) -> Check {
    match found.rp_filter_all {
        1 => bad(
            Verdict::Fail,
            "rp_filter",
            "net.ipv4.conf.all.rp_filter = 1 (strict) drops packets on their way to IPsec: encrypted networks over IPv4 stay closed",
            "set it for each device instead and `sysctl -w net.ipv4.conf.all.rp_filter=0`, or use 2 (loose)",
        ),
        value => ok(
            "rp_filter",
            format!("net.ipv4.conf.all.rp_filter = {value}"),
        ),
    }
}

fn firewall(found: &Findings) -> Check {
    if found.nft {
        ok("nft", "the `nft` command works")
    } else {
        bad(
            Verdict::Fail,
            "nft",
            "the `nft` command is missing or refused: encrypted networks stay closed",
            "install nftables (Debian: `apt install nftables`) and run as root",
        )
    }
}

fn forward(found: &Findings) -> Check {
    if found.foreign_chains.is_empty() {
        ok(
            "FORWARD",
            "no chain of other software filters forwarded packets",
        )
    } else {
        ok(
            "FORWARD",
            format!(
                "other software filters forwarded packets ({}): an accept for re-entered packets goes to the head of each",
                found.foreign_chains.join(", ")
            ),
        )
    }
}

fn vxlan_port(found: &Findings) -> Check {
    if found.other_vxlan.is_empty() {
        ok(
            "port",
            format!("no other vxlan device on UDP {}", found.port),
        )
    } else {
        bad(
            Verdict::Fail,
            "port",
            format!(
                "UDP {} is also that of {}",
                found.port,
                found.other_vxlan.join(", ")
            ),
            "remove that device, or set another `port` in settings on every node",
        )
    }
}

fn ledger(found: &Findings) -> Check {
    match &found.volatile_state {
        None => ok("ledger", "the ledger of used keys survives a reboot"),
        Some(directory) => bad(
            Verdict::Warn,
            "ledger",
            format!(
                "{directory} is in memory: after a reboot a used key would be taken for new, and its nonces repeat"
            ),
            "put it on a disk (`--state-dir`), or give every pair new keys before the first apply after a reboot",
        ),
    }
}

fn ipv6(found: &Findings) -> Check {
    if !found.ipv6 {
        return bad(
            Verdict::Warn,
            "IPv6",
            "the kernel has none: no IPv6 VTEPs",
            "boot without ipv6.disable=1 if you want them",
        );
    }
    if found.force_forwarding || found.ipv6_forwarding {
        ok("IPv6", "re-entered packets can be forwarded")
    } else {
        ok(
            "IPv6",
            "an encrypted network over IPv6 VTEPs will set net.ipv6.conf.all.forwarding = 1 and keep router advertisements working, both until removal; the host then forwards IPv6 between its other devices too: filter that, or use Linux 6.17",
        )
    }
}

fn devices(found: &Findings) -> Vec<Check> {
    let mut checks = Vec::new();
    let carrier = Carrier::of(true, found.esp_in_udp_port);
    for (name, device) in &found.devices {
        let inner = inner_mtu(device.mtu, Family::V6, carrier);
        checks.push(match inner {
            Some(mtu) if mtu >= MIN_INNER_IPV6 => ok(
                "MTU",
                format!(
                    "{name}: {} outside leaves {} inside encrypted over IPv4, {mtu} over IPv6",
                    device.mtu,
                    inner_mtu(device.mtu, Family::V4, carrier).unwrap_or(0)
                ),
            ),
            _ => bad(
                Verdict::Warn,
                "MTU",
                format!(
                    "{name}: {} outside leaves less than {MIN_INNER_IPV6} inside, the least for IPv6",
                    device.mtu
                ),
                "raise its MTU if it carries the underlay",
            ),
        });
        let mut off: Vec<&str> = device
            .offloads
            .iter()
            .filter(|(_, on)| !**on)
            .map(|(name, _)| name.as_str())
            .collect();
        if device.gro == Some(false) {
            off.push("generic-receive-offload");
        }
        if !device.hardware {
            continue;
        }
        checks.push(if device.offloads.is_empty() {
            bad(
                Verdict::Warn,
                "offloads",
                format!("{name}: not checked: the `ethtool` command says nothing"),
                "install ethtool",
            )
        } else if off.is_empty() {
            ok("offloads", format!("{name}: GRO, GSO and TSO are on"))
        } else {
            bad(
                Verdict::Warn,
                "offloads",
                format!("{name}: {} off", off.join(", ")),
                format!("`ethtool -K {name} gro on gso on tso on`, where the NIC can"),
            )
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::Device, kernel::modules::WANTED};

    fn good() -> Findings {
        Findings {
            capabilities: u64::MAX,
            release: "6.12.30-amd64".into(),
            bpf_object: true,
            btf: true,
            bpffs: true,
            jit: true,
            tcx: true,
            decap_l3: true,
            modules: WANTED.map(|module| (module, Presence::Loaded)).into(),
            aes_gcm: Some("rfc4106-gcm-aesni".into()),
            devices: [(
                "eth0".to_owned(),
                Device {
                    mtu: 1500,
                    hardware: true,
                    gro: Some(true),
                    offloads: [("tcp-segmentation-offload".to_owned(), true)].into(),
                },
            )]
            .into(),
            nft: true,
            ipv6: true,
            port: 4789,
            esp_in_udp_port: 0,
            ..Findings::default()
        }
    }

    fn verdict(found: &Findings, name: &str) -> Verdict {
        evaluate(found)
            .into_iter()
            .filter(|check| check.check == name)
            .map(|check| {
                assert_eq!(check.remedy.is_none(), check.verdict == Verdict::Ok);
                check.verdict
            })
            .max()
            .unwrap()
    }

    #[test]
    fn good_host_passes_every_check() {
        for check in evaluate(&good()) {
            assert_eq!(check.verdict, Verdict::Ok, "{check:?}");
        }
    }

    #[test]
    fn each_shortcoming_is_found_and_has_a_remedy() {
        type Spoil = fn(&mut Findings);
        let cases: [(&str, Verdict, Spoil); 19] = [
            ("privileges", Verdict::Fail, |f| f.capabilities = 0),
            ("kernel", Verdict::Fail, |f| f.release = "5.15.0-91".into()),
            ("kernel", Verdict::Fail, |f| f.release = "unknown".into()),
            ("programs", Verdict::Fail, |f| f.bpf_object = false),
            ("BPF", Verdict::Warn, |f| f.btf = false),
            ("BPF", Verdict::Warn, |f| f.bpffs = false),
            ("TCX", Verdict::Warn, |f| f.tcx = false),
            ("program order", Verdict::Warn, |f| {
                f.programs_before.push("program x runs first".into());
            }),
            ("module", Verdict::Warn, |f| {
                f.modules[0].1 = Presence::NotLoaded;
            }),
            ("IPsec", Verdict::Fail, |f| {
                f.ipsec_error = Some("no ESP".into())
            }),
            ("AES-GCM", Verdict::Warn, |f| {
                f.aes_gcm = Some("rfc4106(gcm_base(ctr(aes-generic),ghash-generic))".into());
            }),
            ("XFRM", Verdict::Fail, |f| {
                f.conflicts.push((true, "policy".into()));
            }),
            ("XFRM", Verdict::Warn, |f| {
                f.conflicts.push((false, "policy".into()));
            }),
            ("disable_xfrm", Verdict::Fail, |f| {
                f.disable_xfrm.push("eth0".into());
            }),
            ("rp_filter", Verdict::Fail, |f| f.rp_filter_all = 1),
            ("nft", Verdict::Fail, |f| f.nft = false),
            ("ledger", Verdict::Warn, |f| {
                f.volatile_state = Some("/run/overlay".into());
            }),
            ("port", Verdict::Fail, |f| {
                f.other_vxlan.push("vxlan0".into());
            }),
            ("offloads", Verdict::Warn, |f| {
                for device in f.devices.values_mut() {
                    device.gro = Some(false);
                }
            }),
        ];
        for (name, wanted, spoil) in cases {
            let mut found = good();
            spoil(&mut found);
            assert_eq!(verdict(&found, name), wanted, "{name}");
        }
        // What cannot be looked at is not called good.
        let nobody = Findings {
            capabilities: 0,
            ..good()
        };
        for name in PRIVILEGED {
            assert_eq!(verdict(&nobody, name), Verdict::Warn, "{name}");
        }
        let mut found = good();
        found.devices.get_mut("eth0").unwrap().offloads.clear();
        assert_eq!(verdict(&found, "offloads"), Verdict::Warn);
        let mut found = good();
        found.rp_filter_all = 2;
        assert_eq!(verdict(&found, "rp_filter"), Verdict::Ok);
    }
}
