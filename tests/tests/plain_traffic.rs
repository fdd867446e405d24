//! Traffic over unencrypted networks between nodes of ours.

use anyhow::{Context as _, Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, Spec,
    checks::{self, Load, MARKER},
};

const VNI: u32 = 4097;

fn pair(spec: Spec, family: Family) -> Spec {
    let node = || NodeSpec::new().family(family);
    spec.network(NetworkSpec::plain("green", VNI))
        .node(node().container("a", &["green"]))
        .node(node().container("b", &["green"]))
}

fn all_traffic(spec: Spec, family: Family) -> Result<()> {
    let lab = Lab::up(pair(spec, family))?;
    let capture = lab.capture()?;
    checks::traffic(&lab, "a", "b", "green", Load::FULL)?;
    let wire = capture.stop()?;
    ensure!(wire.vxlan(VNI) > 1000, "{}", wire.summary());
    ensure!(wire.frames_with(MARKER) > 1000, "{}", wire.summary());
    ensure!(wire.esp() == 0, "{}", wire.summary());
    let largest = wire.largest();
    ensure!(
        (1..=lab.spec.mtu as usize + 14).contains(&largest),
        "larger than the wire's MTU: {largest}"
    );
    checks::too_big_is_answered(&lab, "a", "b", "green").with_context(|| checks::drops(&lab))
}

#[test]
fn all_traffic_passes_over_ipv4() -> Result<()> {
    all_traffic(Spec::new(), Family::V4)
}

#[test]
fn all_traffic_passes_over_ipv6() -> Result<()> {
    all_traffic(Spec::new(), Family::V6)
}

#[test]
fn all_traffic_passes_through_a_router() -> Result<()> {
    all_traffic(Spec::new().routed(), Family::V4)?;
    all_traffic(Spec::new().routed(), Family::V6)
}

#[test]
fn all_traffic_passes_with_jumbo_frames() -> Result<()> {
    let lab = Lab::up(pair(Spec::new().mtu(9000), Family::V4))?;
    ensure!(checks::mtu(lab.container("a")?, "green")? == 8950);
    checks::traffic(&lab, "a", "b", "green", Load::FULL)?;
    checks::too_big_is_answered(&lab, "a", "b", "green").with_context(|| checks::drops(&lab))
}

#[test]
fn all_traffic_passes_with_offloads_on_the_wire() -> Result<()> {
    let lab = Lab::up(pair(Spec::new().offloads(), Family::V4))?;
    checks::traffic(&lab, "a", "b", "green", Load::FULL)
}

#[test]
fn containers_of_one_node_talk_without_the_wire() -> Result<()> {
    let spec = Spec::new()
        .network(NetworkSpec::plain("green", VNI))
        .node(
            NodeSpec::new()
                .container("a", &["green"])
                .container("b", &["green"]),
        )
        .node(NodeSpec::new());
    let lab = Lab::up(spec)?;
    let capture = lab.capture()?;
    checks::traffic(&lab, "a", "b", "green", Load::LIGHT)?;
    let wire = capture.stop()?;
    wire.complete()?;
    ensure!(wire.vxlan(VNI) == 0, "{}", wire.summary());
    Ok(())
}

#[test]
fn xdp_changes_nothing_but_the_path() -> Result<()> {
    for mode in ["generic", "native"] {
        let spec = pair(Spec::new().setting("xdp", mode), Family::V4);
        let lab = Lab::up(spec).with_context(|| format!("xdp = {mode}"))?;
        let link = lab.nodes[0].netns.ip("-d link show dev wire0")?;
        ensure!(link.contains("prog/xdp"), "no XDP program: {link}");
        ensure!(link.contains("xdpgeneric") == (mode == "generic"), "{link}");
        checks::traffic(&lab, "a", "b", "green", Load::LIGHT)
            .with_context(|| format!("xdp = {mode}"))?;
    }
    Ok(())
}
