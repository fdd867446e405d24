//! What others change is seen, told, and repaired: the part that needs no IPsec.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use overlay_tests::{
    hostile::damage,
    lab::{Family, Lab, NetworkSpec, NodeSpec, Spec, WIRE, Watcher, eventually, in_test_vm},
};

/// For each, on a machine that may be emulated and busy.
const LIMIT: Duration = Duration::from_secs(20);
/// What half of the repairs must keep on the running kernel.
const SECOND: Duration = Duration::from_secs(1);

fn pair() -> Result<Lab> {
    Lab::new(
        Spec::new()
            .network(NetworkSpec::plain("green", 4097))
            .node(NodeSpec::new().container("a", &["green"]))
            .node(NodeSpec::new().container("b", &["green"])),
    )
}

/// Does damage, and waits for the alarm and the repair.
fn repaired(
    watch: &Watcher,
    what: &str,
    alarm: &[&str],
    repair: &[&str],
    damage: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let since = Instant::now();
    damage()?;
    let seen = watch.heard(since, alarm, LIMIT)?;
    let repaired = watch.heard(since, &[&["repaired: "], repair].concat(), LIMIT)?;
    println!(
        "{what}: seen after {} ms, repaired after {} ms",
        seen.as_millis(),
        repaired.as_millis()
    );
    Ok(repaired)
}

#[test]
fn what_others_change_is_told_and_repaired_and_the_watch_leaves_the_data_path() -> Result<()> {
    let lab = pair()?;
    lab.nodes[1].apply(&lab.keyring)?;
    let node = &lab.nodes[0];
    let watch = node.watch(&lab.keyring)?;
    lab.ping("a", "b", "green")?.lossless()?;

    let mut times = vec![repaired(
        &watch,
        "underlay_audit detached",
        &["alarm: ", "underlay_audit on ", "is gone"],
        &["attach underlay_audit"],
        || damage::detach_audit_with_qdisc(node),
    )?];
    times.push(repaired(
        &watch,
        "new underlay device",
        &["underlay: ", "extra0 appeared"],
        &["attach underlay_audit to extra0"],
        || {
            node.netns
                .ip("link add extra0 type veth peer name extra1")?;
            Ok(())
        },
    )?);
    times.push(repaired(
        &watch,
        "MTU of the wire lowered",
        &["underlay: ", "MTU 1400"],
        &["peers[2]"],
        || {
            node.netns.ip(&format!("link set {WIRE} mtu 1400"))?;
            Ok(())
        },
    )?);
    let peer = lab.underlay.vtep(2, Family::V4)?;
    times.push(repaired(
        &watch,
        "route with a smaller MTU",
        &["underlay: ", &format!("the route to {peer} "), "MTU 1300"],
        &["peers[2]"],
        || {
            let route = format!("route add {peer}/32 dev {WIRE} mtu 1300");
            node.netns.ip(&route)?;
            Ok(())
        },
    )?);
    times.push(repaired(
        &watch,
        "firewall table deleted",
        &["alarm: ", "the firewall table inet overlay is gone"],
        &["set firewall table"],
        || {
            node.netns.run("nft", "delete table inet overlay")?;
            Ok(())
        },
    )?);
    times.push(repaired(
        &watch,
        "device of ours set down",
        &["alarm: ", "device ovl-hop was changed"],
        &["create device ovl-hop"],
        || {
            node.netns.ip("link set ovl-hop down")?;
            Ok(())
        },
    )?);
    times.sort_unstable();
    let median = times[times.len() / 2];
    ensure!(
        median <= SECOND || in_test_vm()?,
        "half took {median:?} or more"
    );
    lab.ping("a", "b", "green")?.lossless()?;
    // It ends and leaves everything in place.
    watch.stop()?;
    lab.ping("a", "b", "green")?.lossless()?;
    Ok(())
}

#[test]
fn endpoint_goes_with_its_namespace_and_comes_back_with_it() -> Result<()> {
    let lab = pair()?;
    lab.nodes[1].apply(&lab.keyring)?;
    let node = &lab.nodes[0];
    let watch = node.watch(&lab.keyring)?;
    let name = lab.netns("a")?.name().to_owned();
    let since = Instant::now();
    overlay_tests::lab::command::shell("ip", &format!("netns del {name}"))?;
    watch.heard(since, &["its network namespace is gone"], LIMIT)?;
    eventually(LIMIT, || {
        let shown = node.show()?;
        let local = shown["endpoints"].to_string();
        ensure!(!local.contains("local"), "{local}");
        Ok(())
    })?;
    let since = Instant::now();
    overlay_tests::lab::command::shell("ip", &format!("netns add {name}"))?;
    watch.heard(since, &["repaired: create endpoint"], LIMIT)?;
    watch.stop()
}
