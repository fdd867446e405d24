//! What others change of an encrypted network is seen, told, and repaired, and nothing goes out in
//! clear meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use overlay_tests::{
    hostile::damage,
    lab::{
        Family, Lab, NetworkSpec, Node, NodeSpec, Spec, Watcher, eventually,
        traffic::{Stream, UdpEcho},
    },
};

const VNI: u32 = 4098;
/// The design asks for one second, which `plain_drift` shows on the running kernel; this machine may be
/// emulated and busy.
const LIMIT: Duration = Duration::from_secs(60);
const MARKER: &[u8] = b"never-in-clear-on-the-wire";

struct Damage {
    what: &'static str,
    alarm: &'static [&'static str],
    repair: &'static str,
    /// Whether encrypted traffic must stop until it is repaired.
    closes: bool,
    /// `SELF` and `PEER` stand for the VTEPs.
    command: &'static str,
}

const DAMAGE: [Damage; 7] = [
    Damage {
        what: "outbound policy deleted",
        alarm: &["alarm: policy ", "is gone"],
        repair: "set policy",
        closes: true,
        command: "ip xfrm policy deleteall src SELF/32 dst PEER/32 dir out",
    },
    Damage {
        what: "block policy deleted",
        alarm: &["alarm: block policy ", "is gone"],
        repair: "set block policy",
        closes: true,
        command: "ip xfrm policy deleteall dir out action block",
    },
    Damage {
        what: "xfrm interface deleted",
        alarm: &["alarm: device ovl-xfrm is gone"],
        repair: "ovl-xfrm",
        closes: true,
        command: "ip link del ovl-xfrm",
    },
    Damage {
        what: "xfrm interface set down",
        alarm: &["alarm: device ovl-xfrm was changed"],
        repair: "ovl-xfrm",
        closes: true,
        command: "ip link set ovl-xfrm down",
    },
    Damage {
        what: "firewall table flushed",
        alarm: &["alarm: the firewall was changed"],
        repair: "set firewall",
        closes: true,
        command: "nft flush table inet overlay",
    },
    Damage {
        what: "sysctl changed",
        alarm: &["alarm: sysctl net/ipv4/conf/ovl-in/accept_local"],
        repair: "set sysctl net/ipv4/conf/ovl-in/accept_local",
        closes: false,
        command: "sysctl -w net.ipv4.conf.ovl-in.accept_local=0",
    },
    Damage {
        what: "new underlay device",
        alarm: &["underlay: ", "extra0 appeared"],
        repair: "attach underlay_audit to extra0",
        closes: false,
        command: "ip link add extra0 type veth peer name extra1",
    },
];

/// On the default `if_id` of the settings.
const FOREIGN_SA: &str = "ip xfrm state add src 192.0.2.1 dst SELF proto esp spi 0xbad reqid 99 \
    if_id 0x6f766c mode transport aead rfc4106(gcm(aes)) \
    0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223 128";

fn damage(lab: &Lab, node: &Node, command: &str) -> Result<()> {
    let vtep = |index| lab.underlay.vtep(index, Family::V4);
    let command = command
        .replace("SELF", &vtep(1)?.to_string())
        .replace("PEER", &vtep(2)?.to_string());
    let (program, arguments) = command.split_once(' ').unwrap_or((&command, ""));
    node.netns.run(program, arguments)?;
    Ok(())
}

fn follow(watch: &Watcher, since: Instant, damage: &Damage) -> Result<()> {
    let seen = watch.heard(since, damage.alarm, LIMIT)?;
    let mut closed = String::new();
    if damage.closes {
        let at = watch.heard(since, &["repaired: write peers", "no encrypted"], LIMIT)?;
        watch.heard(since, &["repaired: write peers", "send in slot"], LIMIT)?;
        closed = format!("closed after {} ms, ", at.as_millis());
    }
    let repaired = watch.heard(since, &["repaired: ", damage.repair], LIMIT)?;
    println!(
        "{}: seen after {} ms, {closed}repaired after {} ms",
        damage.what,
        seen.as_millis(),
        repaired.as_millis()
    );
    Ok(())
}

#[test]
fn drift_is_repaired_and_nothing_is_in_clear_meanwhile() -> Result<()> {
    let lab = Lab::new(
        Spec::new()
            .network(NetworkSpec::encrypted("red", VNI))
            .node(NodeSpec::new().container("a", &["red"]))
            .node(NodeSpec::new().container("b", &["red"])),
    )?;
    lab.nodes[1].apply(&lab.keyring)?;
    let node = &lab.nodes[0];
    let watch = node.watch(&lab.keyring)?;
    lab.ping("a", "b", "red")?.lossless()?;

    let capture = lab.capture()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    let echo = UdpEcho::start(b, lab.ip("b", "red")?, 7)?;
    let stream = Stream::start(a, echo.address, 50, 200, MARKER)?;

    let works = || eventually(LIMIT, || lab.ping("a", "b", "red")?.lossless());
    for case in &DAMAGE {
        let since = Instant::now();
        damage(&lab, node, case.command)?;
        follow(&watch, since, case)?;
        works()?;
    }
    // Not ours to remove.
    let since = Instant::now();
    damage(&lab, node, FOREIGN_SA)?;
    watch.heard(since, &["alarm: state ", "reqid 99"], LIMIT)?;
    works()?;
    let states = node.netns.ip("xfrm state")?;
    ensure!(states.contains("reqid 99"), "it was removed: {states}");

    let since = Instant::now();
    damage::detach_audit_with_qdisc(node)?;
    let detached = Damage {
        what: "underlay_audit detached",
        alarm: &["alarm: underlay_audit on ", "is gone"],
        repair: "attach underlay_audit",
        closes: true,
        command: "",
    };
    follow(&watch, since, &detached)?;
    works()?;

    // Its replay window is lost with it: it does not come back with the same key.
    let since = Instant::now();
    damage(&lab, node, "ip xfrm state deleteall src PEER dst SELF")?;
    watch.heard(since, &["alarm: inbound SA ", "is gone"], LIMIT)?;
    watch.heard(since, &["could accept replayed packets", "closed"], LIMIT)?;
    ensure!(lab.ping("a", "b", "red")?.run()?.received == 0);

    // Nor does this one, and the peer stays closed with the reason.
    let since = Instant::now();
    damage(&lab, node, "ip xfrm state deleteall src SELF dst PEER")?;
    watch.heard(since, &["alarm: outbound SA ", "is gone"], LIMIT)?;
    watch.heard(since, &["would repeat nonces", "closed"], LIMIT)?;
    let shown = node.show()?;
    ensure!(shown["peers"][0]["lanes"] == 0, "{}", shown["peers"]);
    ensure!(lab.ping("a", "b", "red")?.run()?.received == 0);

    let lost = stream.stop()?.lost.len();
    let wire = capture.stop()?;
    println!("{lost} datagrams lost; on the wire:\n{}", wire.summary());
    wire.complete()?;
    ensure!(
        wire.vxlan(VNI) == 0 && wire.frames_with(MARKER) == 0,
        "{}",
        wire.summary()
    );
    ensure!(wire.esp() > 0);
    ensure!(wire.repeated_nonces().is_empty());
    watch.stop()
}
