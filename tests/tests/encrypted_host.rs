//! Encrypted networks on a host and an underlay with rules of their own.

use std::{net::Ipv6Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    lab::{
        Family, Lab, NetworkSpec, Node, NodeSpec, RawSocket, Spec, WIRE,
        checks::{self, Load, netfilter},
        eventually,
    },
    testrun::frames,
};

const NETWORK: &str = "blue";
const PATIENCE: Duration = Duration::from_secs(20);

fn pair(spec: Spec, family: Family) -> Spec {
    let node = || NodeSpec::new().family(family);
    spec.network(NetworkSpec::encrypted(NETWORK, 4096))
        .node(node().container("a", &[NETWORK]))
        .node(node().container("b", &[NETWORK]))
}

#[test]
fn a_router_with_a_smaller_mtu_is_heard_in_the_container() -> Result<()> {
    // 1400 − 20 or 40 (outer IP) − 32 (ESP, IV, ICV), a multiple of 4, − 30 (UDP, VXLAN, Ethernet)
    // − 2 (ESP trailer).
    for (family, inside) in [(Family::V4, 1316), (Family::V6, 1296)] {
        let lab = Lab::up(pair(Spec::new().routed(), family))?;
        checks::narrowing_is_told(&lab, NETWORK, 1400, inside)
            .with_context(|| format!("{family:?} underlay"))?;
    }
    Ok(())
}

/// In an order in which a chain that drops what is forwarded is there before the overlay is.
#[test]
fn nat_connection_tracking_and_a_dropping_forward_chain_leave_the_underlay_alone() -> Result<()> {
    for (family, settings) in [
        (Family::V4, Spec::new()),
        (Family::V6, Spec::new()),
        (Family::V4, Spec::new().setting("esp_in_udp_port", 4500)),
    ] {
        let lab = Lab::new(pair(settings, family))?;
        netfilter::nat_everything(&lab)?;
        for node in &lab.nodes {
            let drop = "table inet docker {
                chain forward { type filter hook forward priority 0; policy drop; }
            }\n";
            netfilter::nft(&node.netns, drop)?;
        }
        lab.apply()?;
        checks::traffic(&lab, "a", "b", NETWORK, Load::LIGHT)
            .with_context(|| format!("{family:?} underlay"))?;
        let passed = netfilter::underlay_is_left_alone(&lab, family)?;
        ensure!(
            passed > 100,
            "the hooks saw {passed} packets of the underlay"
        );
        // Of what others forward, nothing is accepted.
        let chain = lab.nodes[0]
            .netns
            .run("nft", "list chain inet docker forward")?;
        ensure!(
            chain.contains("policy drop") && chain.matches("accept").count() == 1,
            "{chain}"
        );
        ensure!(chain.contains("ovl-in"), "{chain}");
    }
    Ok(())
}

/// All that the sysctls of the node's devices say.
fn sysctls(node: &Node) -> Result<Vec<String>> {
    let text = node
        .netns
        .run("sysctl", "-a -r ^net\\.ipv[46]\\.(conf|ip_forward)")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A router advertisement of a prefix for addresses (RFC 4861 sections 4.2 and 4.6.2), as a frame.
fn router_advertisement(prefix: Ipv6Addr) -> Vec<u8> {
    let source = "fe80::fe".parse::<Ipv6Addr>().expect("an address").octets();
    let group = "ff02::1".parse::<Ipv6Addr>().expect("an address").octets();
    // Prefix information: 64 bits, on link and for addresses, valid for an hour.
    let mut option = vec![3, 4, 64, 0xc0];
    option.extend(3600_u32.to_be_bytes());
    option.extend(3600_u32.to_be_bytes());
    option.extend([0; 4]);
    option.extend(prefix.octets());
    // Reachable and retransmission times: unspecified.
    let rest = [&[0; 8][..], &option].concat();
    // Hop limit 64, no flags, no default router.
    let message = frames::icmpv6(source, group, (134, 0), [64, 0, 0, 0], &rest);
    let header = frames::V6 {
        hop_limit: 255,
        ..frames::V6::default()
    };
    let packet = header.packet(source, group, 58, &message);
    let mac = [0x02, 0, 0, 0, 0, 0xfe];
    frames::ethernet(frames::group_mac(group), mac, frames::IPV6, &packet)
}

/// Before Linux 6.17 an IPv6 VTEP needs global forwarding, and a router hears no advertisements unless
/// told to.
#[test]
fn forwarding_of_ipv6_keeps_router_advertisements_working_and_ends_with_the_overlay() -> Result<()>
{
    let lab = Lab::new(pair(Spec::new(), Family::V6))?;
    let node = &lab.nodes[0];
    let before = sysctls(node)?;
    lab.apply()?;
    checks::traffic(&lab, "a", "b", NETWORK, Load::LIGHT)?;
    let forwarding = node.netns.sysctl("net/ipv6/conf/all/forwarding")?;
    let own = node.netns.sysctl("net/ipv6/conf/ovl-in/force_forwarding");
    ensure!(
        (forwarding.trim() == "1") != own.is_ok(),
        "all.forwarding = {forwarding}, and force_forwarding: {own:?}"
    );

    let router = RawSocket::open(&lab.underlay.netns, "port1")?;
    let prefix = "2001:db8:77::".parse()?;
    eventually(PATIENCE, || {
        router.send(&router_advertisement(prefix))?;
        let addresses = node.netns.ip(&format!("-6 addr show dev {WIRE}"))?;
        ensure!(addresses.contains("2001:db8:77:"), "{addresses}");
        Ok(())
    })?;

    node.clear()?;
    let after = sysctls(node)?;
    let differs: Vec<_> = after
        .iter()
        .filter(|line| !before.contains(line))
        .chain(before.iter().filter(|line| !after.contains(line)))
        .collect();
    ensure!(differs.is_empty(), "not as before: {differs:#?}");
    Ok(())
}
