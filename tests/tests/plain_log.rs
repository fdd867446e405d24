//! Every drop, as events tell it and as programs that were built with logging tell it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_agent::kernel::bpf::Loader;
use overlay_ebpf::abi::{Direction, DropReason, program};
use overlay_tests::lab::{
    Lab, NetworkSpec, Node, NodeSpec, Spec, Watcher,
    command::{QUICK, run},
};

const VNI: u32 = 4097;

fn pair() -> Result<Lab> {
    Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI))
            .node(NodeSpec::new().container("a", &["green"]))
            .node(NodeSpec::new().container("b", &["green"])),
    )
}

/// Asks for a neighbour that no endpoint is.
fn ask_for_nobody(lab: &Lab) -> Result<()> {
    let nobody = match lab.ip("b", "green")? {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) + 77).to_string(),
        ip => bail!("{ip} is not IPv4"),
    };
    let mut ping = lab.netns("a")?.command("ping");
    let said = run(ping.args(["-c1", "-W1", &nobody]), QUICK)?;
    ensure!(!said.status.success(), "{nobody} answers: {}", said.stdout);
    Ok(())
}

/// Takes the data plane of a node over with programs that log; the id of one.
fn load_with_logging(node: &Node) -> Result<u32> {
    let path = std::env::var_os("OVERLAY_LOG_OBJECT")
        .context("OVERLAY_LOG_OBJECT is not set: run `cargo xtask test plain_log`")?;
    let object = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let load = || -> Result<u32> {
        let bpf = Loader::new(node.pins()).object(&object).load()?;
        bpf.program_id(program::ENDPOINT_TX).context("no program")
    };
    node.netns.enter(load)?
}

fn log_command(node: &Node) -> Result<Command> {
    let mut command = node.overlay()?;
    command.args(["dataplane", "log"]);
    Ok(command)
}

#[test]
fn a_drop_is_told_as_an_event_in_names() -> Result<()> {
    let lab = pair()?;
    ask_for_nobody(&lab)?;
    let mut events = lab.node(1)?.overlay()?;
    events.args(["dataplane", "events", "--format", "json"]);
    let said = run(&mut events, QUICK)?;
    ensure!(said.status.success(), "{}", said.stderr);
    // The container's own IPv6 asks for neighbours, too.
    let event = said
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|event| {
            event["reason"] == DropReason::UnknownNeighbour.name()
                && event["ether_type"] == "0x0806"
        })
        .with_context(|| format!("no such event in {}", said.stdout))?;
    ensure!(
        event["network"] == "green"
            && event["vni"] == VNI
            && event["direction"] == Direction::FromEndpoint.name(),
        "{event}"
    );
    Ok(())
}

#[test]
fn programs_with_logging_log_every_drop_and_one_reader_goes_on_across_loads() -> Result<()> {
    let lab = pair()?;
    let node = lab.node(1)?;
    let refused = run(&mut log_command(node)?, QUICK)?;
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains("cargo xtask build --log"),
        "{refused:?}"
    );

    let first = load_with_logging(node)?;
    lab.ping("a", "b", "green")?.lossless()?;
    let line = format!(
        "drop reason={} direction={} vni={VNI}",
        DropReason::UnknownNeighbour as u32,
        Direction::FromEndpoint as u32
    );
    ask_for_nobody(&lab)?;
    // What nobody has read yet comes first.
    let log = Watcher::start(&mut log_command(node)?, &line)?;
    ensure!(load_with_logging(node)? == first, "the same was replaced");
    let since = Instant::now();
    ask_for_nobody(&lab)?;
    log.heard(since, &[&line], QUICK)?;

    // Programs without logging end it, and it says why.
    node.apply(&lab.keyring)?;
    log.heard(since, &["cargo xtask build --log"], QUICK)?;
    Ok(())
}
