//! Unencrypted networks on a host and an underlay with rules of their own.

use anyhow::{Context as _, Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, Spec,
    checks::{self, Load, MARKER, netfilter},
    traffic::transfer,
    wire::{Capture, Direction},
};

const NETWORK: &str = "green";

fn pair(spec: Spec, family: Family) -> Spec {
    let node = || NodeSpec::new().family(family);
    spec.network(NetworkSpec::plain(NETWORK, 4097))
        .node(node().container("a", &[NETWORK]))
        .node(node().container("b", &[NETWORK]))
}

#[test]
fn a_router_with_a_smaller_mtu_is_heard_in_the_container() -> Result<()> {
    // 1400 − 20 or 40 (outer IP) − 30 (UDP, VXLAN, Ethernet).
    for (family, inside) in [(Family::V4, 1350), (Family::V6, 1330)] {
        let lab = Lab::up(pair(Spec::new().routed(), family))?;
        checks::narrowing_is_told(&lab, NETWORK, 1400, inside)
            .with_context(|| format!("{family:?} underlay"))?;
    }
    Ok(())
}

#[test]
fn nat_and_connection_tracking_leave_the_underlay_alone() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::new(pair(Spec::new(), family))?;
        netfilter::nat_everything(&lab)?;
        lab.apply()?;
        checks::traffic(&lab, "a", "b", NETWORK, Load::LIGHT)
            .with_context(|| format!("{family:?} underlay"))?;
        netfilter::underlay_is_left_alone(&lab, family)?;
    }
    Ok(())
}

#[test]
fn xdp_passes_jumbo_frames() -> Result<()> {
    for mode in ["generic", "native"] {
        let spec = Spec::new().mtu(9000).setting("xdp", mode);
        let lab = Lab::up(pair(spec, Family::V4)).with_context(|| format!("xdp = {mode}"))?;
        let link = lab.nodes[0].netns.ip("-d link show dev wire0")?;
        ensure!(link.contains("prog/xdp"), "no XDP program: {link}");
        ensure!(checks::mtu(lab.container("a")?, NETWORK)? == 8950);
        checks::traffic(&lab, "a", "b", NETWORK, Load::LIGHT)
            .with_context(|| format!("xdp = {mode}"))?;
    }
    Ok(())
}

/// What arrives in the container is larger than what any wire of the underlay carries.
#[test]
fn segments_are_joined_again_before_decapsulation() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(pair(Spec::new(), family))?;
        let (a, b) = (lab.netns("a")?, lab.netns("b")?);
        let ip = lab.ip("b", NETWORK)?;
        lab.ping("a", "b", NETWORK)?.count(2).run()?;
        let inside = Capture::start(b, &["eth0".to_owned()], Direction::Received)?;
        transfer(a, b, ip, 4 << 20, MARKER)?;
        let joined = inside.stop()?.largest();
        ensure!(joined > 3000, "{joined} bytes at most over {family:?}");
    }
    Ok(())
}
