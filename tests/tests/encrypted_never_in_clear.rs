//! Frames of an encrypted network never leave in clear: whatever is taken from a node while traffic
//! runs, each barrier alone stops them; and applying again repairs.

use std::{
    fs::File,
    io::Read as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    hostile::{Barriers, MARKER, Siege, VNI, damage, maps, stays_encrypted},
    lab::{
        Family, Node,
        command::Running,
        wire::{Capture, Direction, Wire},
    },
};

/// For packets to meet a barrier.
const MEANWHILE: Duration = Duration::from_millis(1500);

fn first(siege: &Siege) -> Result<&Node> {
    siege.lab.node(1)
}

/// What is on the wire, and what the barriers of node 1 drop, while its traffic runs on.
fn watch(siege: &Siege) -> Result<(Wire, Barriers)> {
    let node = first(siege)?;
    let before = Barriers::of(node)?;
    let capture = siege.lab.capture()?;
    thread::sleep(MEANWHILE);
    let wire = siege.stop(capture)?;
    Ok((wire, Barriers::of(node)?.since(before)))
}

/// Nothing leaves in clear, and this barrier alone is why.
fn holds_alone(siege: &Siege, barrier: usize) -> Result<()> {
    let (wire, dropped) = watch(siege)?;
    stays_encrypted(&wire)?;
    dropped.only(barrier)
}

#[test]
fn without_any_barrier_the_watch_sees_cleartext() -> Result<()> {
    for family in Family::BOTH {
        let siege = Siege::lay(family)?;
        let node = first(&siege)?;
        damage::flush_policies(node)?;
        damage::detach_audit(node)?;
        let (wire, dropped) = watch(&siege)?;
        ensure!(
            wire.vxlan(VNI) > 10 && wire.frames_with(MARKER) > 10,
            "{family:?}: a watch that sees nothing proves nothing: {dropped:?}\n{}",
            wire.summary()
        );
        ensure!(stays_encrypted(&wire).is_err());
    }
    Ok(())
}

#[test]
fn endpoint_tx_alone_stops_what_has_no_outbound_sa() -> Result<()> {
    for family in Family::BOTH {
        let mut siege = Siege::lay(family)?;
        for peer in &mut siege.lab.node_mut(1)?.desired.peers {
            peer.transmit = None;
        }
        let node = first(&siege)?;
        let applied = node.try_apply(&siege.lab.keyring)?;
        ensure!(
            applied.status == 1 && applied.stderr.contains("no transmit slot"),
            "{applied:?}"
        );
        damage::flush_policies(node)?;
        damage::detach_audit(node)?;
        holds_alone(&siege, 1).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

#[test]
fn the_block_policy_alone_stops_what_no_policy_encrypts() -> Result<()> {
    for family in Family::BOTH {
        let siege = Siege::lay(family)?;
        let node = first(&siege)?;
        damage::delete_allow_policies(node)?;
        damage::detach_audit(node)?;
        holds_alone(&siege, 2).with_context(|| format!("{family:?}: policies gone"))?;
        damage::flush_states(node)?;
        holds_alone(&siege, 2).with_context(|| format!("{family:?}: SAs gone, too"))?;
    }
    Ok(())
}

#[test]
fn the_block_policy_alone_stops_what_lost_its_mark() -> Result<()> {
    for family in Family::BOTH {
        let siege = Siege::lay(family)?;
        let node = first(&siege)?;
        damage::detach_audit(node)?;
        damage::clear_marks(node)?;
        holds_alone(&siege, 2).with_context(|| format!("{family:?}"))?;
        damage::keep_marks(node)?;
        siege.flows()?;
    }
    Ok(())
}

#[test]
fn underlay_audit_alone_stops_what_xfrm_lets_pass() -> Result<()> {
    for family in Family::BOTH {
        let siege = Siege::lay(family)?;
        let node = first(&siege)?;
        damage::flush_policies(node)?;
        holds_alone(&siege, 3).with_context(|| format!("{family:?}: policies gone"))?;
        damage::flush_states(node)?;
        holds_alone(&siege, 3).with_context(|| format!("{family:?}: SAs gone, too"))?;
    }
    Ok(())
}

#[test]
fn deleting_policies_and_sas_opens_nothing_and_is_repaired() -> Result<()> {
    let mut siege = Siege::lay(Family::V4)?;
    siege.strike("block policies", |siege| {
        damage::delete_block_policies(first(siege)?)
    });
    siege.strike("policies into SAs", |siege| {
        damage::delete_allow_policies(first(siege)?)
    });
    siege.strike("all policies", |siege| {
        damage::flush_policies(first(siege)?)
    });
    siege.strike("all SAs", |siege| damage::flush_states(first(siege)?));
    siege.strike("all SAs of the peer", |siege| {
        siege.strikes(2);
        damage::flush_states(siege.lab.node(2)?)
    });
    siege.strike("XFRM as a whole on both nodes", |siege| {
        siege.strikes(2);
        for node in &siege.lab.nodes {
            damage::flush_policies(node)?;
            damage::flush_states(node)?;
        }
        Ok(())
    });
    siege.lift()
}

#[test]
fn deleting_map_entries_opens_nothing_and_is_repaired() -> Result<()> {
    let mut siege = Siege::lay(Family::V4)?;
    for map in [
        "peers",
        "sas",
        "vteps",
        "networks",
        "endpoints",
        "addresses",
        "memberships",
        "local_ports",
    ] {
        siege.strike(map, |siege| maps::empty(first(siege)?, map));
    }
    siege.strike("config", |siege| maps::zero_config(first(siege)?));
    siege.strike("lanes", |siege| maps::set_lanes(first(siege)?, 0));
    siege.strike("lanes that have no SA", |siege| {
        maps::set_lanes(first(siege)?, 16)
    });
    siege.lift()
}

#[test]
fn deleting_devices_and_rules_opens_nothing_and_is_repaired() -> Result<()> {
    let mut siege = Siege::lay(Family::V4)?;
    for device in ["ovl-xfrm", "ovl-hop", "ovl-in", "ovl-gro"] {
        siege.strike(device, |siege| damage::delete_device(first(siege)?, device));
    }
    siege.strike("firewall", |siege| damage::flush_firewall(first(siege)?));
    siege.strike("audit", |siege| damage::detach_audit(first(siege)?));
    siege.lift()
}

/// A process in the middle of its work leaves what it had done. The order of steps keeps every such
/// state closed, and the next apply goes on from it.
#[test]
fn an_apply_killed_at_any_moment_opens_nothing_and_the_next_one_repairs() -> Result<()> {
    const KILLS: u32 = 8;
    let mut siege = Siege::lay(Family::V4)?;
    // How long an apply takes that has everything to do, and one that changes keys.
    siege.lab.node(1)?.clear()?;
    let started = Instant::now();
    siege.rekey()?;
    siege.lab.node(1)?.apply(&siege.lab.keyring)?;
    let whole = started.elapsed();
    for number in 0..KILLS {
        let from_nothing = number % 2 == 0;
        let after = whole * (number + random(KILLS)?) / (2 * KILLS);
        let name = format!(
            "killed after {} ms of {}",
            after.as_millis(),
            whole.as_millis()
        );
        siege.strike(&name, |siege| {
            if from_nothing {
                first(siege)?.clear()?;
            }
            siege.rekey()?;
            let mut apply = first(siege)?.apply_command(&siege.lab.keyring)?;
            let running = Running::spawn(&mut apply)?;
            thread::sleep(after);
            let said = running.kill();
            eprintln!("  {} lines done", said.stdout.lines().count());
            Ok(())
        });
    }
    siege.lift()
}

/// Not to kill at the same moments in every run.
fn random(below: u32) -> Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes) % below)
}

#[test]
fn start_and_stop_under_traffic_open_nothing() -> Result<()> {
    let mut siege = Siege::prepare(Family::V4)?;
    siege.strike("start", |siege| {
        siege.strikes(2);
        Ok(())
    });
    siege.strike("stop and start of one node", |siege| {
        first(siege)?.clear()?;
        siege.rekey()
    });
    siege.strike("stop and start of both nodes", |siege| {
        for node in &siege.lab.nodes {
            node.clear()?;
        }
        siege.rekey()
    });
    siege.strike("keys change", Siege::rekey);
    siege.lift()
}

/// `underlay_audit` is where the last apply found a device: a newer one has the other two barriers
/// until the next.
#[test]
fn a_route_that_moves_to_a_new_device_opens_nothing() -> Result<()> {
    const WIRE: &str = "wire1";
    const PORT: &str = "port1new";
    let siege = Siege::lay(Family::V4)?;
    let (node, switch) = (first(&siege)?, &siege.lab.underlay.netns);
    let peer = siege.lab.underlay.vtep(2, Family::V4)?;
    switch.ip(&format!(
        "link add {PORT} type veth peer name {WIRE} netns {}",
        node.netns.name()
    ))?;
    for (netns, device) in [(switch, PORT), (&node.netns, WIRE)] {
        netns.run("ethtool", &format!("-K {device} tx off tso off gso off"))?;
    }
    switch.ip(&format!("link set {PORT} master br0 up"))?;
    let capture = || Capture::start(switch, &[PORT.to_owned()], Direction::Received);
    let on_new = capture()?;
    let on_old = siege.lab.capture()?;
    node.netns.ip(&format!("link set {WIRE} up"))?;
    node.netns.ip(&format!("route add {peer}/32 dev {WIRE}"))?;
    siege.flows()?;
    stays_encrypted(&siege.stop(on_old)?)?;
    let wire = siege.stop(on_new)?;
    stays_encrypted(&wire)?;
    ensure!(wire.esp() > 0, "the route did not move: {}", wire.summary());

    damage::delete_allow_policies(node)?;
    let on_new = capture()?;
    holds_alone(&siege, 2)?;
    stays_encrypted(&siege.stop(on_new)?)?;

    node.apply(&siege.lab.keyring)?;
    siege.flows()?;
    damage::flush_policies(node)?;
    let on_new = capture()?;
    holds_alone(&siege, 3).context("the new device has no audit")?;
    stays_encrypted(&siege.stop(on_new)?)
}
