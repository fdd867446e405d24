//! Traffic over encrypted networks: it passes, and the wire sees ESP alone.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, Spec,
    checks::{self, Load, MARKER},
    traffic::{Iperf, Stream, UdpEcho, transfer},
    wire::{Capture, Direction, Esp, Wire},
};

const BLUE: u32 = 4096;
const GREEN: u32 = 4097;

fn pair(family: Family) -> Spec {
    let node = || NodeSpec::new().family(family);
    Spec::new()
        .lanes(2)
        .network(NetworkSpec::encrypted("blue", BLUE))
        .network(NetworkSpec::plain("green", GREEN))
        .node(node().container("a", &["blue", "green"]))
        .node(node().container("b", &["blue", "green"]))
}

/// One node of ours and one of the stock kernel.
fn with_stock(spec: Spec, family: Family) -> Spec {
    spec.network(NetworkSpec::encrypted("blue", BLUE).mtu(1360))
        .node(NodeSpec::new().family(family).container("ours", &["blue"]))
        .node(
            NodeSpec::stock()
                .family(family)
                .container("theirs", &["blue"]),
        )
}

/// A packet too large is answered, and a second apply changes nothing.
fn mtu_is_told_and_nothing_is_left_to_do(lab: &Lab) -> Result<()> {
    checks::too_big_is_answered(lab, "a", "b", "blue").with_context(|| checks::drops(lab))?;
    for node in &lab.nodes {
        let again = node.apply(&lab.keyring)?;
        ensure!(again.changes()? == 0, "a second apply: {again:?}");
    }
    Ok(())
}

/// Of the encrypted network there is ESP and nothing else, and none of our nodes uses a nonce twice.
fn only_esp(lab: &Lab, wire: &Wire) -> Result<()> {
    wire.complete()?;
    ensure!(wire.esp() > 100, "{}", wire.summary());
    ensure!(wire.vxlan(BLUE) == 0, "in clear: {}", wire.summary());
    // A stock node over IPv6 does: `esp6_xmit` (net/ipv6/esp6_offload.c) builds the IVs of a GSO packet
    // from the next sequence number, and sends the last ones again. See docs/decisions.md.
    let ours = |esp: &Esp| lab.nodes.iter().any(|node| node.index == esp.spi >> 12);
    let mut repeated = wire.repeated_nonces();
    repeated.retain(ours);
    ensure!(repeated.is_empty(), "nonces repeated: {repeated:?}");
    Ok(())
}

fn all_traffic(family: Family) -> Result<()> {
    let lab = Lab::up(pair(family))?;
    let capture = lab.capture()?;
    checks::traffic(&lab, "a", "b", "blue", Load::FULL)?;
    let wire = capture.stop()?;
    only_esp(&lab, &wire)?;
    ensure!(
        wire.frames_with(MARKER) == 0,
        "the plaintext is on the wire"
    );

    // The same, unencrypted, is found: the search works.
    let capture = lab.capture()?;
    checks::traffic(&lab, "a", "b", "green", Load::LIGHT)?;
    let wire = capture.stop()?;
    ensure!(wire.vxlan(GREEN) > 100, "{}", wire.summary());
    ensure!(wire.esp() == 0, "{}", wire.summary());
    ensure!(wire.frames_with(MARKER) > 100, "the search finds nothing");

    mtu_is_told_and_nothing_is_left_to_do(&lab)
}

#[test]
fn all_traffic_passes_over_ipv4_and_the_wire_sees_esp_alone() -> Result<()> {
    all_traffic(Family::V4)
}

#[test]
fn all_traffic_passes_over_ipv6_and_the_wire_sees_esp_alone() -> Result<()> {
    all_traffic(Family::V6)
}

/// Traffic passes, and the wire sees ESP in UDP alone, from one port per lane. No agent runs: `apply`
/// has ended.
fn esp_in_udp(family: Family, xdp: &str) -> Result<()> {
    const PORT: u16 = 4500;
    let spec = pair(family)
        .setting("esp_in_udp_port", PORT)
        .setting("xdp", xdp);
    let lab = Lab::up(spec)?;
    let capture = lab.capture()?;
    checks::traffic(&lab, "a", "b", "blue", Load::LIGHT)?;
    let wire = capture.stop()?;
    only_esp(&lab, &wire)?;
    ensure!(
        wire.frames_with(MARKER) == 0,
        "the plaintext is on the wire"
    );
    let plain_esp = wire
        .esp_headers()
        .filter(|esp| esp.udp_source_port.is_none());
    ensure!(plain_esp.count() == 0, "{}", wire.summary());
    let flows: BTreeSet<(IpAddr, u32, Option<u16>)> = wire
        .esp_headers()
        .map(|esp| (esp.source, esp.spi, esp.udp_source_port))
        .collect();
    let ports: BTreeSet<_> = flows
        .iter()
        .map(|(source, _, port)| (source, port))
        .collect();
    ensure!(
        flows.len() == 4 && ports.len() == 4,
        "two nodes with two lanes each: {flows:x?}"
    );

    mtu_is_told_and_nothing_is_left_to_do(&lab)
}

#[test]
fn esp_in_udp_over_ipv4_has_a_port_per_lane() -> Result<()> {
    esp_in_udp(Family::V4, "off")
}

#[test]
fn esp_in_udp_over_ipv6_has_a_port_per_lane() -> Result<()> {
    esp_in_udp(Family::V6, "off")
}

#[test]
fn esp_in_udp_passes_generic_xdp() -> Result<()> {
    esp_in_udp(Family::V4, "generic")
}

#[test]
fn a_stock_node_with_esp_in_udp_and_ours_exchange_all_traffic() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(with_stock(
            Spec::new().setting("esp_in_udp_port", 4500),
            family,
        ))?;
        let capture = lab.capture()?;
        checks::traffic(&lab, "ours", "theirs", "blue", Load::LIGHT)
            .with_context(|| format!("{family:?} underlay"))?;
        let wire = capture.stop()?;
        only_esp(&lab, &wire)?;
        ensure!(wire.frames_with(MARKER) == 0);
        let plain_esp = wire
            .esp_headers()
            .filter(|esp| esp.udp_source_port.is_none());
        ensure!(plain_esp.count() == 0, "{}", wire.summary());
    }
    Ok(())
}

#[test]
fn large_packets_stay_whole_until_esp() -> Result<()> {
    let lab = Lab::up(pair(Family::V4))?;
    let (a, b, ip) = (lab.netns("a")?, lab.netns("b")?, lab.ip("b", "blue")?);
    // TCP sizes a packet by the rate it has measured, which a slow machine keeps low: large packets may
    // need a second transfer, and never come where something segments before ESP.
    let mut sizes = Vec::new();
    loop {
        let inside = Capture::start(&lab.nodes[0].netns, &["ovl-in".into()], Direction::Both)?;
        let capture = lab.capture()?;
        transfer(a, b, ip, 4 << 20, MARKER)?;
        let before_esp = inside.stop()?.largest();
        let wire = capture.stop()?;
        only_esp(&lab, &wire)?;
        let on_the_wire = wire.largest();
        ensure!(on_the_wire <= 1514, "{on_the_wire} bytes on the wire");
        sizes.push((before_esp, on_the_wire));
        if before_esp > 3 * on_the_wire {
            break;
        }
        ensure!(sizes.len() < 4, "segmented before ESP: {sizes:?} bytes");
    }
    // Repeated sequence numbers would cost segments in every run, a busy machine in one.
    let mut results = Vec::new();
    for _ in 0..3 {
        let result = Iperf::new(a, b, ip).seconds(2).run()?;
        if result.retransmits == 0 {
            return Ok(());
        }
        results.push(result);
    }
    bail!("segments sent again: {results:?}")
}

#[test]
fn a_stock_node_with_transport_mode_and_ours_exchange_all_traffic() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(with_stock(Spec::new().lanes(2), family))?;
        let capture = lab.capture()?;
        checks::traffic(&lab, "ours", "theirs", "blue", Load::LIGHT)
            .with_context(|| format!("{family:?} underlay"))?;
        checks::traffic(&lab, "theirs", "ours", "blue", Load::LIGHT)
            .with_context(|| format!("{family:?} underlay"))?;
        let wire = capture.stop()?;
        only_esp(&lab, &wire)?;
        ensure!(wire.frames_with(MARKER) == 0);
    }
    Ok(())
}

#[test]
fn keys_are_replaced_under_traffic_without_loss() -> Result<()> {
    let mut lab = Lab::up(pair(Family::V4))?;
    lab.ping("a", "b", "blue")?.count(2).run()?;
    let echo = UdpEcho::start(lab.netns("b")?, lab.ip("b", "blue")?, 7)?;
    let capture = lab.capture()?;
    // Few enough for an emulated CPU to apply beside it.
    let stream = Stream::start(lab.netns("a")?, echo.address, 50, 300, MARKER)?;
    let rotation = |lab: &mut Lab| -> Result<()> {
        for (epoch, slot) in [(2, 2), (3, 3)] {
            lab.stage(epoch, slot)?;
            lab.activate(epoch, slot)?;
            std::thread::sleep(Duration::from_millis(200));
            lab.retire(slot - 1)?;
        }
        Ok(())
    };
    let rotated = rotation(&mut lab);
    std::thread::sleep(Duration::from_millis(200));
    let result = stream.stop()?;
    rotated?;
    result.lossless().with_context(|| checks::drops(&lab))?;
    let wire = capture.stop()?;
    only_esp(&lab, &wire)?;
    let mut slots: Vec<u32> = wire.esp_headers().map(|esp| esp.spi >> 4 & 0xff).collect();
    slots.sort_unstable();
    slots.dedup();
    ensure!(slots == [1, 2, 3], "slots on the wire: {slots:?}");
    for node in &lab.nodes {
        let states = node.netns.ip("xfrm state")?;
        let count = states.matches("proto esp spi").count();
        ensure!(
            count == 4,
            "{count} SAs of 2 lanes and 2 directions: {states}"
        );
    }
    Ok(())
}
