//! Frames of an encrypted network that are not one packet of the common size to one address: other
//! Ethertypes, broadcast and multicast, jumbo frames, joined segments, congestion marks.

use anyhow::{Context as _, Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, RawSocket, Spec,
    checks::{self, Load, MARKER},
    command, eventually,
    traffic::{Ping, transfer},
    wire::{Capture, Direction, Wire},
};

const VNI: u32 = 4096;
const NETWORK: &str = "blue";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn pair(spec: Spec, family: Family) -> Spec {
    let node = || NodeSpec::new().family(family);
    spec.lanes(2)
        .network(NetworkSpec::encrypted(NETWORK, VNI))
        .node(node().container("a", &[NETWORK]))
        .node(node().container("b", &[NETWORK]))
}

/// Nothing of the network is on the wire but ESP.
fn only_esp(wire: &Wire) -> Result<()> {
    wire.complete()?;
    ensure!(
        wire.esp() > 0 && wire.vxlan(VNI) == 0 && wire.frames_with(MARKER) == 0,
        "{}",
        wire.summary()
    );
    Ok(())
}

#[test]
fn frames_of_any_ethertype_and_length_pass_over_ipv4_and_ipv6() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(pair(Spec::new(), family))?;
        // Raw frames make no node resolve its peer.
        eventually(PATIENCE, || lab.ping("a", "b", NETWORK)?.lossless())?;
        let capture = lab.capture()?;
        checks::frames_of_every_length(&lab, NETWORK, &[("a", "b"), ("b", "a")])
            .with_context(|| format!("{family:?} underlay"))?;
        only_esp(&capture.stop()?)?;
    }
    Ok(())
}

#[test]
fn broadcast_and_multicast_are_replicated_as_esp() -> Result<()> {
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::encrypted(NETWORK, VNI).replicate())
            .node(
                NodeSpec::new()
                    .dual()
                    .container("a", &[NETWORK])
                    .container("a2", &[NETWORK]),
            )
            .node(NodeSpec::new().container("b", &[NETWORK]))
            .node(NodeSpec::new().v6().container("c", &[NETWORK])),
    )?;
    let capture = lab.capture()?;
    checks::replicated(&lab, NETWORK, "a", &["a2", "b", "c"])?;
    only_esp(&capture.stop()?)
}

#[test]
fn jumbo_frames_pass_as_esp_in_one_piece() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(pair(Spec::new().mtu(9000), family))?;
        let mtu = checks::mtu(lab.container("a")?, NETWORK)?;
        ensure!(mtu > 8800, "MTU {mtu} over {family:?}");
        let capture = lab.capture()?;
        checks::traffic(&lab, "a", "b", NETWORK, Load::LIGHT)
            .with_context(|| format!("{family:?} underlay"))?;
        let wire = capture.stop()?;
        only_esp(&wire)?;
        ensure!(wire.largest() > 8900, "{} bytes at most", wire.largest());
        checks::too_big_is_answered(&lab, "a", "b", NETWORK)
            .with_context(|| checks::drops(&lab))?;
    }
    Ok(())
}

/// What arrives in the container is larger than what any wire of the underlay carries.
#[test]
fn segments_are_joined_again_behind_esp() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(pair(Spec::new(), family))?;
        let (a, b) = (lab.netns("a")?, lab.netns("b")?);
        let ip = lab.ip("b", NETWORK)?;
        eventually(PATIENCE, || lab.ping("a", "b", NETWORK)?.lossless())?;
        let inside = Capture::start(b, &["eth0".to_owned()], Direction::Received)?;
        transfer(a, b, ip, 4 << 20, MARKER)?;
        let joined = inside.stop()?.largest();
        ensure!(joined > 3000, "{joined} bytes at most over {family:?}");
    }
    Ok(())
}

/// RFC 6040: congestion that ESP met on its way reaches who can hear of it, and drops for others.
#[test]
fn congestion_on_the_way_is_told_inside() -> Result<()> {
    /// ECT(0), and CE, of the ECN field.
    const CAPABLE: &str = "2";
    const EXPERIENCED: u8 = 3;
    for (family, rule) in [
        (Family::V4, "ip protocol esp ip ecn set ce"),
        (Family::V6, "ip6 nexthdr esp ip6 ecn set ce"),
    ] {
        let lab = Lab::up(pair(Spec::new(), family))?;
        let (a, ip) = (lab.netns("a")?, lab.ip("b", NETWORK)?);
        eventually(PATIENCE, || lab.ping("a", "b", NETWORK)?.lossless())?;
        let node = lab.node(2)?;
        // In the switch: on the receiver's own device, GRO decrypts before any rule sees ESP.
        let mut nft = lab.underlay.netns.command("nft");
        nft.args(["-f", "-"]);
        let table = format!(
            "table netdev congested {{ chain in {{
               type filter hook ingress device port1 priority -500
               {rule}
             }}
             }}\n"
        );
        command::feed(&mut nft, &table)?;

        let inside = RawSocket::open_receiver(lab.netns("b")?, "eth0")?;
        Ping::new(a, ip).option("-Q").option(CAPABLE).lossless()?;
        let request = inside.wait_for(PATIENCE, |frame| {
            frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(23) == Some(&1)
        })?;
        let request = request.context("no ping in the container")?;
        ensure!(
            request[15] & 3 == EXPERIENCED,
            "{family:?}: TOS {:#x} inside",
            request[15]
        );

        let before = node.drops("EcnCongestion")?;
        let deaf = Ping::new(a, ip).count(3).run()?;
        ensure!(deaf.received == 0, "{}", deaf.output);
        let dropped = node.drops("EcnCongestion")? - before;
        ensure!(dropped >= 3, "{family:?}: {dropped} drops for congestion");
    }
    Ok(())
}
