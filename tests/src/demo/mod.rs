//! The demo: three nodes, an encrypted and a plain network, and what is on the wire between them.

mod explore;
mod report;
mod tables;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::report::Report;
use crate::lab::{
    Lab, NetworkSpec, NodeSpec, Spec,
    traffic::{Iperf, Stream, UdpEcho, transfer},
    wire::Wire,
};

/// What `apply` says of an encrypted network where the kernel cannot encrypt.
const NO_IPSEC: &str = "this kernel cannot do IPsec";
const BLUE: u32 = 4096;
const GREEN: u32 = 4097;
/// What containers say; it must be found in clear on the plain network only.
const SECRET: &[u8] = b"the launch code is 0451";
const PUBLIC: &[u8] = b"nothing to hide over here";

/// Runs it; whether every check held. `without_ipsec` allows a kernel that cannot encrypt: then the
/// encrypted network must stay closed.
pub fn run(keep: bool, without_ipsec: bool) -> Result<bool> {
    let mut report = Report::new();
    report.title("An encrypted overlay network of three nodes");
    report.say("blue   encrypted, VNI 4096, ESP AES-256-GCM, two lanes per pair and direction");
    report.say("green  plain, VNI 4097, for comparison");
    let networks = ["blue", "green"];
    let mut lab = Lab::new(
        Spec::new()
            .lanes(2)
            .network(NetworkSpec::encrypted("blue", BLUE))
            .network(NetworkSpec::plain("green", GREEN))
            .node(NodeSpec::new().container("a", &networks))
            .node(NodeSpec::new().container("b", &networks))
            .node(NodeSpec::new().container("c", &networks)),
    )?;
    let mut closed = false;
    for node in &lab.nodes {
        let applied = node.try_apply(&lab.keyring)?;
        let what = format!("node {}: overlay dataplane apply", node.index);
        match applied.status {
            0 => report.check(&what, true, &format!("{} changes", applied.changes()?)),
            1 if without_ipsec && applied.stderr.contains(NO_IPSEC) => {
                report.say(&format!("{what}: {}", applied.stderr.trim()));
                closed = true;
            }
            status => report.check(
                &what,
                false,
                &format!("status {status}: {}", applied.stderr),
            ),
        }
        let again = node.try_apply(&lab.keyring)?;
        let changes = again.changes().unwrap_or(usize::MAX);
        report.check(
            "  a second time",
            changes == 0,
            &format!("{changes} changes"),
        );
    }

    if closed {
        plain_only(&lab, &mut report)?;
    } else {
        pings(&lab, &mut report, &networks)?;
        throughput(&lab, &mut report, &networks)?;
        wire(&lab, &mut report)?;
        tables::show(&lab, &mut report)?;
        rotation(&mut lab, &mut report)?;
    }
    let good = report.verdict();
    if keep {
        explore::stay(lab, &mut report)?;
    }
    Ok(good)
}

/// A kernel without IPsec: the encrypted network must be closed, not open in clear.
fn plain_only(lab: &Lab, report: &mut Report) -> Result<()> {
    report.title("This kernel has no IPsec: blue stays closed");
    let capture = lab.capture()?;
    let ping = lab.ping("a", "b", "blue")?.run()?;
    let wire = capture.stop()?;
    report.check(
        "blue carries nothing",
        ping.received == 0,
        &format!("{} of {} pings answered", ping.received, ping.sent),
    );
    report.check(
        "and leaks nothing",
        wire.vxlan(BLUE) == 0,
        &format!("{} frames of blue on the wire", wire.vxlan(BLUE)),
    );
    pings(lab, report, &["green"])?;
    throughput(lab, report, &["green"])
}

fn pings(lab: &Lab, report: &mut Report, networks: &[&str]) -> Result<()> {
    report.title("Pings between containers");
    for network in networks {
        for (from, to) in [("a", "b"), ("a", "c"), ("b", "c")] {
            let ping = lab.ping(from, to, network)?.run()?;
            let time = ping
                .average
                .map_or(String::new(), |ms| format!(", {ms:.2} ms"));
            report.check(
                &format!("{network:5} {from} → {to}"),
                ping.lost() == 0,
                &format!("{} of {} answered{time}", ping.received, ping.sent),
            );
        }
    }
    Ok(())
}

fn throughput(lab: &Lab, report: &mut Report, networks: &[&str]) -> Result<()> {
    report.title("TCP throughput a → b (one second, one stream)");
    for network in networks {
        let ip = lab.ip("b", network)?;
        let result = Iperf::new(lab.netns("a")?, lab.netns("b")?, ip).run()?;
        report.check(
            &format!("{network:5}"),
            result.bits_per_second > 0.0,
            &format!(
                "{:.0} Mbit/s, {} segments sent again",
                result.bits_per_second / 1e6,
                result.retransmits
            ),
        );
    }
    Ok(())
}

fn wire(lab: &Lab, report: &mut Report) -> Result<()> {
    report.title("On the wire");
    let capture = lab.capture()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    transfer(a, b, lab.ip("b", "blue")?, 512 << 10, SECRET).context("send a text over blue")?;
    transfer(a, b, lab.ip("b", "green")?, 512 << 10, PUBLIC).context("send a text over green")?;
    let wire = capture.stop()?;
    report.check("the capture missed nothing", wire.complete().is_ok(), "");
    picture(&wire, report);
    report.check(
        "blue is on the wire as ESP",
        wire.esp() > 0,
        &format!("{} frames", wire.esp()),
    );
    report.check(
        "and never as VXLAN",
        wire.vxlan(BLUE) == 0,
        &format!("{} frames", wire.vxlan(BLUE)),
    );
    report.check(
        "green is on the wire as VXLAN",
        wire.vxlan(GREEN) > 0,
        &format!("{} frames", wire.vxlan(GREEN)),
    );
    let (public, secret) = (wire.frames_with(PUBLIC), wire.frames_with(SECRET));
    report.check(
        "green's text is found in clear: the search works",
        public > 0,
        &format!("in {public} frames"),
    );
    report.check(
        "blue's text is not found anywhere",
        secret == 0,
        &format!("in {secret} frames"),
    );
    let repeated = wire.repeated_nonces().len();
    report.check(
        "no nonce was used twice",
        repeated == 0,
        &format!("{} ESP packets", wire.esp()),
    );
    Ok(())
}

/// Shares of the captured bytes, as bars.
fn picture(wire: &Wire, report: &mut Report) {
    const WIDTH: f64 = 40.0;
    let summary = wire.summary();
    let total = summary.total().bytes.max(1) as f64;
    for (name, share) in &summary.0 {
        let part = share.bytes as f64 / total;
        let bar = "█".repeat(((part * WIDTH).round() as usize).max(1));
        report.say(&format!(
            "{name:16} {:5.1} %  {:6} frames  {bar}",
            part * 100.0,
            share.frames
        ));
    }
}

fn rotation(lab: &mut Lab, report: &mut Report) -> Result<()> {
    report.title("New SAs under traffic: slot 1 → slot 2");
    let echo = UdpEcho::start(lab.netns("b")?, lab.ip("b", "blue")?, 7)?;
    let stream = Stream::start(lab.netns("a")?, echo.address, 50, 200, SECRET)?;
    let capture = lab.capture()?;
    lab.stage(2, 2)?;
    report.say("staged     every node can receive in slot 2");
    lab.activate(2, 2)?;
    report.say("activated  every node sends in slot 2: one write of a map entry per peer");
    std::thread::sleep(Duration::from_millis(300));
    lab.retire(1)?;
    report.say("retired    the SAs of slot 1 are gone");
    std::thread::sleep(Duration::from_millis(300));
    let result = stream.stop()?;
    let wire = capture.stop()?;
    report.check(
        "not a datagram lost",
        result.lossless().is_ok() && result.duplicates == 0,
        &format!(
            "{} sent, {} lost, longest gap {} ms",
            result.sent,
            result.lost.len(),
            result.longest_gap.as_millis()
        ),
    );
    let slots: std::collections::BTreeSet<u32> =
        wire.esp_headers().map(|esp| esp.spi >> 4 & 0xff).collect();
    report.check(
        "both slots were seen on the wire",
        slots.contains(&1) && slots.contains(&2),
        &format!("{slots:?}"),
    );
    report.check(
        "nothing in clear meanwhile",
        wire.vxlan(BLUE) == 0 && wire.frames_with(SECRET) == 0,
        "",
    );
    Ok(())
}
