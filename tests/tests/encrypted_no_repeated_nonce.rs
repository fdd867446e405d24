//! No (key, nonce) pair is ever used twice, whatever containers send.
//!
//! Every ESP packet that a node sends is captured on its own device, and the capture is held against
//! the kernel's counters: each sequence number that the SA gave out is on the wire exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_agent::dataplane::desired::Settings;
use overlay_ebpf::abi::{
    Direction::{FromEndpoint, Internal},
    DropReason as Reason,
};
use overlay_tests::{
    hostile::{
        DropCounts, OutboundSa,
        craft::{self, Fragment},
        outbound_sas,
        sockets::segmenting_udp,
    },
    lab::{
        Family, Lab, Netns, NetworkSpec, NodeSpec, RawSocket, SaKey, Spec, Transmit, VnetHeader,
        WIRE, command, eventually,
        traffic::transfer,
        wire::{Capture, Direction, Esp, Wire},
    },
    testrun::frames,
};

const BLUE: u32 = 4096;
const LANES: u8 = 4;
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody listens there.
const PORT: u16 = 9999;
/// Small enough for a segment behind any of our headers.
const SEGMENT: u16 = 1200;

fn lab(family: Family) -> Result<Lab> {
    let node = || NodeSpec::new().family(family);
    let lab = Lab::up(
        Spec::new()
            .lanes(LANES)
            .network(NetworkSpec::encrypted("blue", BLUE))
            .node(node().container("a", &["blue"]))
            .node(node().container("b", &["blue"])),
    )?;
    eventually(PATIENCE, || lab.ping("a", "b", "blue")?.lossless())?;
    Ok(lab)
}

/// What left node 1 as ESP while something was done.
struct Sent {
    wire: Wire,
    own: IpAddr,
}

impl Sent {
    fn headers(&self) -> impl Iterator<Item = Esp> {
        self.wire.esp_headers().filter(|esp| esp.source == self.own)
    }

    /// Sequence numbers of an SA, ascending.
    fn sequences(&self, spi: u32) -> Vec<u32> {
        let of = self.headers().filter(|esp| esp.spi == spi);
        let mut sequences: Vec<u32> = of.map(|esp| esp.sequence).collect();
        sequences.sort_unstable();
        sequences
    }

    fn no_repetition(&self) -> Result<()> {
        self.wire.complete()?;
        let clear = self.wire.vxlan(BLUE);
        ensure!(clear == 0, "{clear} frames in clear");
        let mut repeated = self.wire.repeated_nonces();
        repeated.retain(|esp| esp.source == self.own);
        ensure!(
            repeated.is_empty(),
            "{} nonces repeated: {:x?}",
            repeated.len(),
            &repeated[..repeated.len().min(20)]
        );
        Ok(())
    }
}

/// Captures what node 1 sends on its own device: behind segmentation, before any queue that drops.
fn watch<T>(lab: &Lab, work: impl FnOnce(&Lab) -> Result<T>) -> Result<(Sent, T)> {
    let node = lab.node(1)?;
    let own = lab.underlay.vtep(1, Family::of(node.desired.vteps[0]))?;
    let capture = Capture::start(&node.netns, &[WIRE.to_owned()], Direction::Both)?;
    let result = work(lab)?;
    thread::sleep(Duration::from_millis(500));
    let wire = capture.stop()?;
    Ok((Sent { wire, own }, result))
}

/// As [`watch`], and every sequence number that an SA gave out meanwhile was on the wire once.
fn each_once(lab: &Lab, work: impl FnOnce(&Lab) -> Result<()>) -> Result<Sent> {
    let netns = &lab.node(1)?.netns;
    let own = lab.node(1)?.desired.vteps[0];
    let before = outbound_sas(netns, own)?;
    let (sent, after) = watch(lab, |lab| {
        work(lab)?;
        settled(netns, own)
    })?;
    sent.no_repetition()?;
    for (spi, after) in after {
        let first = before[&spi].sequence + 1;
        let expected: BTreeSet<u32> = (first..=after.sequence).map(|wide| wide as u32).collect();
        let found: BTreeSet<u32> = sent.sequences(spi).into_iter().collect();
        let missing: Vec<_> = expected.difference(&found).collect();
        ensure!(
            missing.is_empty(),
            "SPI {spi:#x} gave out {first} to {}, and {} of them were not sent: {:?}",
            after.sequence,
            missing.len(),
            &missing[..missing.len().min(20)]
        );
    }
    Ok(sent)
}

/// The SAs of a node once it has stopped sending: an emulated one goes on for a while.
fn settled(netns: &Netns, own: IpAddr) -> Result<BTreeMap<u32, OutboundSa>> {
    eventually(PATIENCE, || {
        let before = outbound_sas(netns, own)?;
        thread::sleep(Duration::from_millis(300));
        let after = outbound_sas(netns, own)?;
        ensure!(before == after, "the node goes on sending");
        Ok(after)
    })
}

/// SAs that sent at least this many packets.
fn busy(sent: &Sent, packets: usize) -> usize {
    (0..LANES)
        .map(|lane| sent.sequences(spi(1, lane)).len())
        .filter(|count| *count >= packets)
        .count()
}

fn spi(slot: u8, lane: u8) -> u32 {
    SaKey {
        sender: 1,
        receiver: 2,
        slot,
        lane,
    }
    .spi()
}

/// Several transfers at once, so that all lanes have some.
fn bulk(lab: &Lab, to: IpAddr, flows: usize, length: usize) -> Result<()> {
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    thread::scope(|scope| {
        let flows: Vec<_> = (0..flows)
            .map(|_| scope.spawn(|| transfer(a, b, to, length, b"no nonce is repeated ")))
            .collect();
        flows.into_iter().try_for_each(|flow| {
            flow.join().expect("a transfer does not panic")?;
            Ok(())
        })
    })
}

#[test]
fn no_nonce_repeats_under_gso_load_on_several_lanes() -> Result<()> {
    for outer in Family::BOTH {
        let lab = lab(outer)?;
        for inner in Family::BOTH {
            let to = lab.ip_of("b", "blue", inner)?;
            gso(&lab, to).map_err(|error| error.context(format!("{inner:?} in {outer:?}")))?;
        }
    }
    Ok(())
}

fn gso(lab: &Lab, to: IpAddr) -> Result<()> {
    let sent = each_once(lab, |lab| bulk(lab, to, 8, 1 << 18)).context("TCP")?;
    ensure!(busy(&sent, 100) >= 2, "TCP: one lane did it all");

    let sent = each_once(lab, |lab| {
        let a = lab.netns("a")?;
        let datagrams = vec![7; usize::from(SEGMENT) * 30 + 11];
        for _ in 0..16 {
            let socket = segmenting_udp(a, SocketAddr::new(to, PORT), SEGMENT)?;
            for _ in 0..4 {
                sent_or_refused(&socket, &datagrams)?;
            }
        }
        Ok(())
    })
    .context("UDP_SEGMENT")?;
    ensure!(busy(&sent, 100) >= 2, "UDP: one lane did it all");

    each_once(lab, |lab| small(lab.netns("a")?, to))
        .map(drop)
        .context("small packets")
}

/// Port-unreachable messages come back as errors of a later call.
fn sent_or_refused(socket: &UdpSocket, bytes: &[u8]) -> Result<()> {
    match socket.send(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused => {
            Err(error).context("send")
        }
        _ => Ok(()),
    }
}

/// Single packets of many lengths and flows.
fn small(from: &Netns, to: IpAddr) -> Result<()> {
    from.enter(|| {
        let any = Family::of(to).unspecified();
        for flow in 0..16_usize {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((to, PORT))?;
            for size in 0..40 {
                sent_or_refused(&socket, &vec![1; flow + size * 33])?;
            }
        }
        Ok(())
    })?
}

#[test]
fn no_nonce_repeats_with_packet_sockets_and_vnet_headers() -> Result<()> {
    for outer in Family::BOTH {
        let lab = lab(outer)?;
        let sent = each_once(&lab, |lab| {
            for inner in Family::BOTH {
                vnet(lab, inner)?;
            }
            Ok(())
        })
        .map_err(|error| error.context(format!("{outer:?} outside")))?;
        // Whatever became of the malformed ones, the others were cut by the kernel.
        let packets = sent.headers().count();
        ensure!(packets > 500, "{packets} packets only");
        for inner in Family::BOTH {
            let to = lab.ip_of("b", "blue", inner)?;
            bulk(&lab, to, 1, 1 << 18)?;
        }
    }
    Ok(())
}

/// Long frames from container `a`'s own device, with right and with wrong wishes for their
/// segmentation.
fn vnet(lab: &Lab, family: Family) -> Result<()> {
    let (from, to) = (
        lab.ip_of("a", "blue", family)?,
        lab.ip_of("b", "blue", family)?,
    );
    let (own, peer) = (
        lab.container("a")?.attachment("blue")?.mac,
        lab.container("b")?.attachment("blue")?.mac,
    );
    let socket = RawSocket::open_vnet(lab.netns("a")?, "eth0")?;
    let network = 14 + if from.is_ipv4() { 20 } else { 40_u16 };
    let payload = [3; 12_345];
    let tcp_type = match family {
        Family::V4 => VnetHeader::GSO_TCP_V4,
        Family::V6 => VnetHeader::GSO_TCP_V6,
    };
    for flow in 0..8_u16 {
        let tcp = {
            let mut header = Vec::new();
            header.extend((40_000 + flow).to_be_bytes());
            header.extend(PORT.to_be_bytes());
            // Sequence, acknowledgement, 20 bytes of header with ACK set, window.
            header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
            header.extend(payload);
            header
        };
        let udp = frames::udp(40_000 + flow, PORT, &payload);
        let frame = |protocol, bytes: &[u8]| {
            let packet = craft::ip(from, to, protocol, Fragment::Whole, bytes);
            frames::ethernet(peer, own, craft::ether_type(from), &packet)
        };
        let (tcp, udp) = (frame(frames::TCP, &tcp), frame(frames::UDP, &udp));
        let right_tcp = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type: tcp_type,
            header_length: network + 20,
            gso_size: SEGMENT,
            checksum_start: network,
            checksum_offset: 16,
        };
        let right_udp = VnetHeader {
            gso_type: VnetHeader::GSO_UDP_L4,
            header_length: network + 8,
            checksum_offset: 6,
            ..right_tcp
        };
        for _ in 0..3 {
            // Queues may be full of another flow's segments.
            eventually(PATIENCE, || socket.send_with_header(right_tcp, &tcp))?;
        }
        let wishes = [
            (right_udp, &udp),
            // Odd sizes, and more segments than anybody wants.
            (
                VnetHeader {
                    gso_size: 1,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    gso_size: 77,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    gso_size: 99,
                    ..right_udp
                },
                &udp,
            ),
            (
                VnetHeader {
                    gso_size: 0,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    gso_size: 13_000,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    gso_size: u16::MAX,
                    ..right_udp
                },
                &udp,
            ),
            // Lengths and offsets of nothing.
            (
                VnetHeader {
                    header_length: 0,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    header_length: u16::MAX,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    header_length: 15,
                    ..right_udp
                },
                &udp,
            ),
            (
                VnetHeader {
                    checksum_start: u16::MAX,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    checksum_start: 14,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    checksum_offset: 0,
                    ..right_udp
                },
                &udp,
            ),
            (
                VnetHeader {
                    flags: 0,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    flags: 0,
                    ..right_udp
                },
                &udp,
            ),
            // One protocol's wish on another's packet; UFO (3), ECN (0x80), and no type at all.
            (right_tcp, &udp),
            (right_udp, &tcp),
            (
                VnetHeader {
                    gso_type: 5 - tcp_type,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    gso_type: 3,
                    ..right_udp
                },
                &udp,
            ),
            (
                VnetHeader {
                    gso_type: 3,
                    flags: 0,
                    ..right_udp
                },
                &udp,
            ),
            (
                VnetHeader {
                    gso_type: tcp_type | 0x80,
                    ..right_tcp
                },
                &tcp,
            ),
            (
                VnetHeader {
                    gso_type: 0x7f,
                    ..right_tcp
                },
                &tcp,
            ),
        ];
        for (header, frame) in wishes {
            // Many are refused at once.
            let _refused = socket.send_with_header(header, frame);
        }
    }
    Ok(())
}

#[test]
fn no_nonce_repeats_across_applies_and_a_change_of_slot() -> Result<()> {
    let mut lab = lab(Family::V4)?;
    let own = lab.node(1)?.desired.vteps[0];
    let capture = Capture::start(&lab.node(1)?.netns, &[WIRE.to_owned()], Direction::Both)?;
    let (a, b) = (lab.netns("a")?.path(), lab.netns("b")?.path());
    let to = lab.ip("b", "blue")?;
    let mut iperf = Command::new("nsenter");
    iperf.arg(format!("--net={}", b.display()));
    iperf.args(["iperf3", "-s", "-1", "-B", &to.to_string()]);
    let server = command::Running::spawn(&mut iperf)?;
    let client = eventually(PATIENCE, || {
        thread::sleep(Duration::from_millis(500));
        let mut iperf = Command::new("nsenter");
        iperf.arg(format!("--net={}", a.display()));
        // Paced, so that emulated machines have time for the rest; long writes are GSO packets.
        iperf.args([
            "iperf3",
            "-c",
            &to.to_string(),
            "-P",
            "4",
            "-b",
            "500K",
            "-l",
            "64K",
            "-t",
            "120",
        ]);
        let mut client = command::Running::spawn(&mut iperf)?;
        thread::sleep(Duration::from_millis(700));
        ensure!(client.is_running()?, "{:?}", client.kill());
        Ok(client)
    })?;
    let changes = lab.node(1)?.apply(&lab.keyring)?.changes()?;
    ensure!(changes == 0, "{changes} changes of the same");
    lab.apply()?;
    lab.stage(2, 2)?;
    lab.activate(2, 2)?;
    thread::sleep(Duration::from_millis(500));
    lab.retire(1)?;
    thread::sleep(Duration::from_millis(500));
    client.kill();
    drop(server);
    lab.ping("a", "b", "blue")?.lossless()?;
    let sent = Sent {
        wire: capture.stop()?,
        own,
    };
    sent.no_repetition()?;
    for slot in [1, 2] {
        let count: usize = (0..LANES)
            .map(|lane| sent.sequences(spi(slot, lane)).len())
            .sum();
        ensure!(count > 20, "slot {slot} sent {count} packets");
    }
    Ok(())
}

#[test]
fn no_key_is_installed_outbound_twice() -> Result<()> {
    let mut lab = lab(Family::V4)?;
    let node = lab.node(1)?;
    node.clear()?;
    let capture = lab.capture()?;
    let again = node.try_apply(&lab.keyring)?;
    ensure!(
        again.status == 1 && again.stderr.contains("keygen") && again.stderr.contains("new slot"),
        "{again:?}"
    );
    ensure!(
        outbound_sas(&node.netns, node.desired.vteps[0]).is_err(),
        "an outbound SA was installed"
    );
    let ping = lab.ping("a", "b", "blue")?.run()?;
    ensure!(ping.received == 0, "{}", ping.output);
    DropCounts::of(node)?.at_least(1, Reason::NoOutboundSa, FromEndpoint)?;
    let (own, wire) = (node.desired.vteps[0], capture.stop()?);
    let left = wire.esp_headers().filter(|esp| esp.source == own).count();
    ensure!(
        left == 0 && wire.complete()?.vxlan(BLUE) == 0,
        "{}",
        wire.summary()
    );

    lab.keyring.remove_slot(1);
    lab.keyring.generate(&[1, 2], 2, 2, LANES)?;
    for index in [1, 2] {
        for peer in &mut lab.node_mut(index)?.desired.peers {
            peer.transmit = Some(Transmit {
                epoch: 2,
                slot: 2,
                lanes: LANES,
            });
        }
    }
    lab.apply()?;
    eventually(PATIENCE, || lab.ping("a", "b", "blue")?.lossless())?;
    Ok(())
}

/// A GSO packet gets into `ovl-in` without the pass through `ovl-hop` that counts its segments.
#[test]
fn a_gso_packet_without_a_segment_count_is_dropped_before_ipsec() -> Result<()> {
    let lab = lab(Family::V4)?;
    let node = lab.node(1)?;
    // Before TCX the agent's own filter has made this qdisc.
    let _exists = node.netns.run("tc", "qdisc add dev ovl-hop clsact");
    node.netns.run(
        "tc",
        "filter add dev ovl-hop egress matchall action mirred ingress redirect dev ovl-in",
    )?;
    let to = SocketAddr::new(lab.ip("b", "blue")?, PORT);
    let before = DropCounts::of(node)?;
    let sent = each_once(&lab, |lab| {
        let socket = segmenting_udp(lab.netns("a")?, to, SEGMENT)?;
        for _ in 0..20 {
            sent_or_refused(&socket, &vec![7; usize::from(SEGMENT) * 30])?;
        }
        Ok(())
    })?;
    DropCounts::of(node)?
        .since(&before)
        .at_least(20, Reason::GsoSegsZero, Internal)?;
    let packets = sent.headers().count();
    ensure!(packets < 20, "{packets} packets left");
    node.netns.run("tc", "filter del dev ovl-hop egress")?;
    each_once(&lab, |lab| bulk(lab, to.ip(), 2, 1 << 18)).map(drop)
}

/// The sequence numbers of an SA cross 2³² in the middle of GSO packets.
#[test]
fn no_nonce_repeats_where_the_low_sequence_number_wraps() -> Result<()> {
    const START: u32 = u32::MAX - 300;
    let lab = lab(Family::V4)?;
    let Settings { reqid, if_id, .. } = Settings::default();
    let (source, destination) = (lab.node(1)?.desired.vteps[0], lab.node(2)?.desired.vteps[0]);
    for (index, mode, state) in [
        (
            1,
            "mode transport".to_owned(),
            format!("replay-oseq {START}"),
        ),
        (
            2,
            format!("mode beet if_id {if_id} sel src {source} dst {destination}"),
            format!("replay-seq {START}"),
        ),
    ] {
        let netns = &lab.node(index)?.netns;
        for (key, material) in lab.keyring.iter().filter(|(key, _)| key.sender == 1) {
            let (mode, selector) = mode.split_at(mode.find(" sel").unwrap_or(mode.len()));
            let id = format!(
                "src {source} dst {destination} proto esp spi {:#x}",
                key.spi()
            );
            // The key goes on, at numbers that it has not used yet.
            let digits: String = material
                .expose()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            let batch = format!(
                "xfrm state delete {id}\n\
                 xfrm state add {id} reqid {reqid} {mode} flag esn replay-window 1024 {state} \
                 aead rfc4106(gcm(aes)) 0x{digits} 128 {selector}\n"
            );
            command::feed(netns.command("ip").args(["-batch", "-"]), &batch)?;
        }
    }
    let before = outbound_sas(&lab.node(1)?.netns, source)?;
    ensure!(
        before.values().all(|sa| sa.sequence == u64::from(START)),
        "{before:?}"
    );
    let (sent, ()) = watch(&lab, |lab| bulk(lab, lab.ip("b", "blue")?, 8, 1 << 18))?;
    sent.no_repetition()?;
    let after = outbound_sas(&lab.node(1)?.netns, source)?;
    let crossed: Vec<_> = after
        .iter()
        .filter(|(_, sa)| sa.sequence > u64::from(u32::MAX))
        .collect();
    ensure!(!crossed.is_empty(), "no SA crossed: {after:?}");
    for (spi, sa) in crossed {
        let found = sent.sequences(*spi).len() as u64;
        let given = sa.sequence - u64::from(START);
        ensure!(
            found <= given,
            "SPI {spi:#x}: {found} packets of {given} numbers"
        );
    }
    Ok(())
}
