//! The lab itself, with nodes of the stock kernel only: what these tests see is what the others rely
//! on.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, Spec,
    traffic::{Iperf, Ping, Stream, TcpEcho, UdpEcho, transfer},
};

const VNI: u32 = 4097;

fn pair(spec: Spec, family: Family) -> Spec {
    let node = || NodeSpec::stock().family(family);
    spec.network(NetworkSpec::plain("green", VNI))
        .node(node().container("a", &["green"]))
        .node(node().container("b", &["green"]))
}

#[test]
fn stock_nodes_reach_each_other_over_every_underlay() -> Result<()> {
    for family in Family::BOTH {
        for spec in [Spec::new(), Spec::new().routed(), Spec::new().mtu(9000)] {
            let lab = Lab::up(pair(spec, family))?;
            for inner in Family::BOTH {
                let to = lab.ip_of("b", "green", inner)?;
                Ping::new(lab.netns("a")?, to).lossless()?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_capture_sees_every_frame_once_and_finds_what_was_sent() -> Result<()> {
    let lab = Lab::up(pair(Spec::new(), Family::V4))?;
    lab.ping("a", "b", "green")?.lossless()?;
    let capture = lab.capture()?;
    lab.ping("a", "b", "green")?.count(7).lossless()?;
    let marker = b"find-this-in-the-capture";
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    transfer(a, b, lab.ip("b", "green")?, 1 << 20, marker)?;
    let wire = capture.stop()?;
    wire.complete()?;
    let echoes = wire
        .frames()
        .filter(|frame| frame.bytes.get(14 + 36 + 14 + 9) == Some(&1))
        .count();
    ensure!(
        echoes == 14,
        "7 requests and 7 replies, not {echoes}:\n{}",
        wire.summary()
    );
    ensure!(wire.frames_with(marker) > 600, "{}", wire.summary());
    ensure!(wire.frames_with(b"never sent by anybody") == 0);
    let file = lab.directory().join("wire.pcap");
    wire.save(&file)?;
    let mut tcpdump = std::process::Command::new("tcpdump");
    tcpdump.args(["-nn", "-c", "3", "-r"]).arg(&file);
    let said = overlay_tests::lab::command::capture(&mut tcpdump, Duration::from_secs(10))?;
    ensure!(said.contains("VXLAN") && said.contains("4097"), "{said}");
    Ok(())
}

#[test]
fn traffic_helpers_agree_on_a_good_path_and_notice_a_bad_one() -> Result<()> {
    let lab = Lab::up(pair(Spec::new(), Family::V4))?;
    let (a, b, ip) = (lab.netns("a")?, lab.netns("b")?, lab.ip("b", "green")?);
    TcpEcho::start(b, ip)?.flows(a, 20)?;
    let result = Iperf::new(a, b, ip).options("-b 50M").run()?;
    ensure!(result.bits_per_second > 1e6, "{result:?}");
    let result = Iperf::new(a, b, ip).options("-u -b 5M").run()?;
    ensure!(result.datagrams > 0, "{result:?}");

    let echo = UdpEcho::start(b, ip, 7)?;
    let stream = Stream::start(a, echo.address, 200, 100, b"x")?;
    std::thread::sleep(Duration::from_millis(300));
    stream.stop()?.lossless()?;
    let stream = Stream::start(a, echo.address, 200, 100, b"x")?;
    b.ip("link set eth0 down")?;
    std::thread::sleep(Duration::from_millis(300));
    let result = stream.stop()?;
    ensure!(result.lossless().is_err() && result.lost.len() > 10);
    Ok(())
}

#[test]
fn nothing_is_left_when_a_lab_is_dropped_in_a_panic() -> Result<()> {
    let mut names = Vec::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lab = Lab::up(pair(Spec::new(), Family::V4)).expect("a lab");
        names = vec![
            lab.underlay.netns.path(),
            lab.netns("a").expect("a container").path(),
            lab.stock[0].netns.path(),
            lab.directory().to_path_buf(),
        ];
        assert!(names.iter().all(|path| path.exists()));
        panic!("as a failing test does");
    }));
    ensure!(panicked.is_err());
    let left: Vec<&Path> = names
        .iter()
        .map(AsRef::as_ref)
        .filter(|path| Path::exists(path))
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
