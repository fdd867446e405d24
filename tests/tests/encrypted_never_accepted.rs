//! What must never reach a container: cleartext of an encrypted network, forged and repeated ESP,
//! the wrong thing inside right ESP, and what a process on a node's own host makes up.
//!
//! Every frame that is refused here is right in all but one thing, and a control shows that it is
//! delivered once that thing is right too.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_agent::dataplane::desired::Settings;
use overlay_ebpf::abi::{
    Direction::{FromIpsec, FromUnderlay, Internal, ToUnderlay},
    DropReason as Reason,
};
use overlay_tests::{
    hostile::{
        Attacker, DropCounts,
        craft::{self, Fragment, Inner, VXLAN_PORT},
        local_injections, mac_of, maps,
        sockets::{marked_raw_ipv4, marked_udp},
    },
    lab::{
        Counters, Endpoint, Family, Lab, Network, NetworkSpec, NodeSpec, RawSocket, RemoteEndpoint,
        SaKey, Spec, Transmit, WIRE, eventually,
        traffic::UdpSink,
        wire::{Capture, Direction, Esp, Kind},
    },
    testrun::frames,
};

const BLUE: u32 = 4096;
/// Plain; the containers' ends are added by hand, as a stock node knows no plain network beside an
/// encrypted one.
const GREEN: u32 = 4097;
/// Encrypted, and not shared by the peer.
const RED: u32 = 4098;

const GREEN_A: [u8; 6] = [0x02, 0x42, 10, 99, 0, 1];
const GREEN_B: [u8; 6] = [0x02, 0x42, 10, 99, 0, 2];
/// `eth0` is the container's end in blue, `eth1` in red.
const GREEN_INTERFACE: &str = "eth2";

const PORT: u16 = 9999;
const MARKER: &[u8] = b"<<this must not arrive>>";
/// Packets per case.
const COUNT: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(20);

/// Node 1 is ours with container `a`; node 2 is a stock one, as willing to send wrong things as to
/// send right ones, with container `b`; and an attacker is on the wire.
struct Stage {
    lab: Lab,
    attacker: Attacker,
    own: IpAddr,
    peer: IpAddr,
    /// Of node 1's wire.
    mac: [u8; 6],
}

impl Stage {
    fn set(family: Family, xdp: &str) -> Result<Self> {
        let lab = Lab::new(
            Spec::new()
                .network(NetworkSpec::encrypted("blue", BLUE))
                .network(NetworkSpec::encrypted("red", RED))
                .setting("xdp", xdp)
                .node(
                    NodeSpec::new()
                        .family(family)
                        .container("a", &["blue", "red"]),
                )
                .node(NodeSpec::stock().family(family).container("b", &["blue"])),
        )?;
        let mut stage = Self {
            attacker: Attacker::plug_in(&lab)?,
            own: lab.underlay.vtep(1, family)?,
            peer: lab.underlay.vtep(2, family)?,
            mac: mac_of(&lab.node(1)?.netns, WIRE)?,
            lab,
        };
        let netns = stage.lab.netns("a")?.name().to_owned();
        let desired = &mut stage.lab.node_mut(1)?.desired;
        desired.networks.push(Network {
            name: "green".into(),
            vni: GREEN,
            encrypted: false,
            replicate: false,
            mtu: None,
        });
        desired.endpoints.push(Endpoint {
            network: "green".into(),
            name: "a-green".into(),
            netns,
            interface: GREEN_INTERFACE.into(),
            mac: GREEN_A,
            addresses: vec![([10, 99, 0, 1].into(), 16)],
        });
        desired.remote_endpoints.push(RemoteEndpoint {
            network: "green".into(),
            peer: 2,
            mac: GREEN_B,
            addresses: vec![[10, 99, 0, 2].into()],
        });
        Ok(stage)
    }

    fn up(family: Family, xdp: &str) -> Result<Self> {
        let stage = Self::set(family, xdp)?;
        stage.lab.apply()?;
        stage.legitimate()?;
        Ok(stage)
    }

    /// Right in everything for blue.
    fn inner(&self) -> Result<Inner> {
        inner(&self.lab, "b", "a")
    }

    /// Right in everything for green.
    fn inner_green(&self) -> Result<Inner> {
        Ok(Inner {
            destination_mac: GREEN_A,
            source_mac: GREEN_B,
            source: [10, 99, 0, 2].into(),
            destination: [10, 99, 0, 1].into(),
            ..self.inner()?
        })
    }

    /// Frames with the marker that container `a` gets on a device while this is done.
    fn delivered(&self, device: &str, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        delivered(&self.lab, "a", device, work)
    }

    /// Nothing of it is delivered, and the drops of node 1 meanwhile.
    fn refused(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<DropCounts> {
        let node = self.lab.node(1)?;
        let before = DropCounts::of(node)?;
        let delivered = self.delivered("eth0", work)?;
        let drops = DropCounts::of(node)?.since(&before);
        ensure!(delivered == 0, "{name}: {delivered} delivered; {drops}");
        Ok(drops)
    }

    fn legitimate(&self) -> Result<()> {
        eventually(PATIENCE, || {
            self.lab.ping("b", "a", "blue")?.count(3).lossless()
        })?;
        Ok(())
    }

    /// Frames of the attacker that bear these outer addresses, several times.
    fn inject(&self, source: IpAddr, vxlan: &[u8]) -> Result<()> {
        for _ in 0..COUNT {
            self.attacker
                .send_vxlan(self.mac, source, self.own, vxlan)?;
        }
        Ok(())
    }

    /// An address on the underlay that is nobody's VTEP.
    fn stranger(&self) -> IpAddr {
        stranger(self.own)
    }
}

fn stranger(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => [192, 0, 2, 66].into(),
        IpAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66_u16].into(),
    }
}

fn inner(lab: &Lab, from: &str, to: &str) -> Result<Inner> {
    Ok(Inner {
        destination_mac: lab.container(to)?.attachment("blue")?.mac,
        source_mac: lab.container(from)?.attachment("blue")?.mac,
        source: lab.ip(from, "blue")?,
        destination: lab.ip(to, "blue")?,
        port: PORT,
        payload: MARKER.to_vec(),
    })
}

fn delivered(
    lab: &Lab,
    container: &str,
    device: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let capture = Capture::start(
        lab.netns(container)?,
        &[device.to_owned()],
        Direction::Received,
    )?;
    work()?;
    thread::sleep(Duration::from_millis(1000));
    let wire = capture.stop()?;
    Ok(wire.complete()?.frames_with(MARKER))
}

/// Accepts everything, everywhere, before and after anybody else.
fn administrator_accepts_everything(netns: &overlay_tests::lab::Netns) -> Result<()> {
    let mut rules = String::from("table inet admin {\n");
    for hook in ["prerouting", "input", "forward", "output", "postrouting"] {
        for priority in [-450, -300, -200, -150, 0, 50, 300] {
            rules.push_str(&format!(
                "chain {hook}{} {{ type filter hook {hook} priority {priority}; policy accept; \
                 accept; }}\n",
                priority + 1000
            ));
        }
    }
    rules.push('}');
    let mut nft = netns.command("nft");
    nft.args(["-f", "-"]);
    overlay_tests::lab::command::feed(&mut nft, &rules).map(drop)
}

fn cleartext(stage: &Stage) -> Result<()> {
    let inner = stage.inner()?;
    let vxlan = inner.vxlan(BLUE);

    let drops = stage.refused("from the peer's VTEP", || stage.inject(stage.peer, &vxlan))?;
    drops.at_least(COUNT, Reason::CleartextEncryptedVni, FromUnderlay)?;
    let drops = stage.refused("from a stranger", || stage.inject(stage.stranger(), &vxlan))?;
    drops.at_least(COUNT, Reason::UnknownVtep, FromUnderlay)?;
    let drops = stage.refused("from the own VTEP", || stage.inject(stage.own, &vxlan))?;
    drops.at_least(COUNT, Reason::UnknownVtep, FromUnderlay)?;
    let drops = stage.refused("of no network", || {
        stage.inject(stage.peer, &inner.vxlan(5000))
    })?;
    drops.at_least(COUNT, Reason::UnknownNetwork, FromUnderlay)?;

    let datagram = frames::udp(0xc0de, VXLAN_PORT, &vxlan);
    let (first, last) = datagram.split_at(48);
    let drops = stage.refused("in fragments", || {
        for _ in 0..COUNT {
            for (fragment, part) in [
                (Fragment::First, first),
                (Fragment::Last { offset: 6 }, last),
            ] {
                stage.attacker.send(
                    stage.mac,
                    stage.peer,
                    stage.own,
                    frames::UDP,
                    fragment,
                    part,
                )?;
            }
        }
        Ok(())
    })?;
    if stage.own.is_ipv4() {
        drops.at_least(COUNT, Reason::UnderlayFragment, FromUnderlay)?;
    } else {
        // The kernel reassembles, and hands what it gets to the device that drops everything.
        drops.at_least(1, Reason::ForeignTraffic, Internal)?;
    }

    // The control: the same, but of a plain network.
    let vxlan = stage.inner_green()?.vxlan(GREEN);
    let arrived = stage.delivered(GREEN_INTERFACE, || stage.inject(stage.peer, &vxlan))?;
    ensure!(arrived == COUNT, "{arrived} of a plain network arrived");
    stage.legitimate()
}

#[test]
fn cleartext_of_an_encrypted_network_is_refused_whatever_the_firewall_accepts() -> Result<()> {
    for (family, xdp) in [
        (Family::V4, "off"),
        (Family::V4, "native"),
        (Family::V6, "generic"),
    ] {
        let stage = Stage::up(family, xdp)?;
        cleartext(&stage).map_err(|e| e.context(format!("{family:?}, XDP {xdp}")))?;
        administrator_accepts_everything(&stage.lab.node(1)?.netns)?;
        cleartext(&stage).map_err(|e| e.context(format!("{family:?}, XDP {xdp}, all accepted")))?;
    }
    Ok(())
}

#[test]
fn cleartext_is_refused_during_start_stop_and_restart() -> Result<()> {
    let mut stage = Stage::set(Family::V4, "native")?;
    administrator_accepts_everything(&stage.lab.node(1)?.netns)?;
    // Listens before the interface exists.
    let sink = UdpSink::start(stage.lab.netns("a")?, PORT, "eth0", &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let (attacker, stop) = (Attacker::plug_in_as(&stage.lab, 2)?, Arc::clone(&stop));
        let (mac, own, peer, vxlan) =
            (stage.mac, stage.own, stage.peer, stage.inner()?.vxlan(BLUE));
        thread::spawn(move || {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                attacker.send_vxlan(mac, peer, own, &vxlan)?;
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, anyhow::Error>(sent)
        })
    };
    let result = start_stop_restart(&mut stage, &sink);
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().expect("the flood does not panic")?;
    result?;
    ensure!(sent > 1000, "only {sent} frames in the whole test");

    // The sink would have noticed.
    let own = stage.lab.ip("b", "blue")?;
    let socket = marked_udp(stage.lab.netns("b")?, own, 0)?;
    socket.send_to(b"right", SocketAddr::new(stage.lab.ip("a", "blue")?, PORT))?;
    eventually(PATIENCE, || {
        let received = sink.received();
        ensure!(received.len() == 1 && received[0].payload == b"right");
        Ok(())
    })
}

fn start_stop_restart(stage: &mut Stage, sink: &UdpSink) -> Result<()> {
    let nothing = |when: &str| -> Result<()> {
        thread::sleep(Duration::from_millis(300));
        let received = sink.received().len();
        ensure!(received == 0, "{received} accepted: {when}");
        Ok(())
    };
    let whole = stage.lab.node(1)?.desired.clone();
    let alone = &mut stage.lab.node_mut(1)?.desired;
    alone.peers.clear();
    alone.remote_endpoints.clear();
    stage.lab.apply()?;
    nothing("alone")?;
    let drops = DropCounts::of(stage.lab.node(1)?)?;
    drops.at_least(1, Reason::UnknownVtep, FromUnderlay)?;

    stage.lab.node_mut(1)?.desired = whole;
    stage.lab.apply()?;
    stage.legitimate()?;
    nothing("with a peer")?;
    let drops = DropCounts::of(stage.lab.node(1)?)?;
    drops.at_least(1, Reason::CleartextEncryptedVni, FromUnderlay)?;

    ensure!(stage.lab.node(1)?.apply(&stage.lab.keyring)?.changes()? == 0);
    nothing("applied again")?;
    stage.lab.node(1)?.clear()?;
    nothing("stopped")?;
    // The same keys are refused, and the network stays closed.
    let again = stage.lab.node(1)?.try_apply(&stage.lab.keyring)?;
    ensure!(again.status == 1, "{again:?}");
    nothing("restarted with used keys")?;
    for peer in &mut stage.lab.node_mut(1)?.desired.peers {
        peer.transmit = Some(Transmit {
            epoch: 2,
            slot: 2,
            lanes: 1,
        });
    }
    stage.lab.keyring.remove_slot(1);
    stage.lab.stage(2, 2)?;
    stage.lab.activate(2, 2)?;
    stage.legitimate()?;
    nothing("restarted with new keys")
}

#[test]
fn what_a_peer_may_not_send_is_refused_inside_valid_esp() -> Result<()> {
    for family in Family::BOTH {
        let stage = Stage::up(family, "native")?;
        inside_esp(&stage).map_err(|error| error.context(format!("{family:?}")))?;
    }
    Ok(())
}

fn inside_esp(stage: &Stage) -> Result<()> {
    let stock = &stage.lab.stock[0].netns;
    let socket = marked_udp(stock, stage.peer, 0)?;
    let send = |vxlan: &[u8]| -> Result<()> {
        for _ in 0..COUNT {
            socket.send_to(vxlan, SocketAddr::new(stage.own, VXLAN_PORT))?;
        }
        Ok(())
    };
    let right = stage.inner()?;
    let changed = |change: &dyn Fn(&mut Inner)| {
        let mut inner = right.clone();
        change(&mut inner);
        inner
    };
    let tagged = {
        let frame = right.frame();
        let tag = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        frames::vxlan(BLUE, &tag)
    };
    let mut bad_flags = right.vxlan(BLUE);
    bad_flags[0] = 0;
    let mut reserved_bits = right.vxlan(BLUE);
    reserved_bits[7] = 1;
    let a = stage.lab.container("a")?.attachment("blue")?.clone();
    let b = stage.lab.container("b")?.attachment("blue")?.mac;
    let elsewhere: IpAddr = [10, 64, 2, 200].into();
    let cases = [
        (
            "a VNI that it does not share",
            right.vxlan(RED),
            Reason::NotMember,
        ),
        ("a VNI of nobody", right.vxlan(5000), Reason::UnknownNetwork),
        (
            "a plain VNI",
            stage.inner_green()?.vxlan(GREEN),
            Reason::PlainInEsp,
        ),
        ("VNI 0", right.vxlan(0), Reason::VniZero),
        ("no I flag", bad_flags, Reason::BadVxlanFlags),
        ("reserved bits", reserved_bits, Reason::BadVxlanFlags),
        ("a VLAN tag", tagged, Reason::VlanTag),
        ("nothing in it", frames::vxlan(BLUE, &[]), Reason::TooShort),
        (
            "a MAC of nobody",
            changed(&|inner| inner.source_mac[5] ^= 0xff).vxlan(BLUE),
            Reason::SourceNotOwned,
        ),
        (
            "the receiver's own MAC",
            changed(&|inner| inner.source_mac = inner.destination_mac).vxlan(BLUE),
            Reason::SourceNotOwned,
        ),
        (
            "a group's MAC",
            changed(&|inner| inner.source_mac[0] |= 1).vxlan(BLUE),
            Reason::SourceMacMulticast,
        ),
        (
            "the receiver's address",
            changed(&|inner| inner.source = a.addresses[0]).vxlan(BLUE),
            Reason::SpoofedAddress,
        ),
        (
            "an address of nobody",
            changed(&|inner| inner.source = elsewhere).vxlan(BLUE),
            Reason::SpoofedAddress,
        ),
        (
            "to an endpoint of its own",
            changed(&|inner| inner.destination_mac = b).vxlan(BLUE),
            Reason::DestinationNotLocal,
        ),
        (
            "broadcast",
            changed(&|inner| inner.destination_mac = [0xff; 6]).vxlan(BLUE),
            Reason::MulticastNotReplicated,
        ),
    ];
    for (name, vxlan, reason) in cases {
        let drops = stage.refused(name, || send(&vxlan))?;
        drops
            .at_least(COUNT, reason, FromIpsec)
            .map_err(|error| error.context(name))?;
    }

    // What is no VXLAN at all, but encrypted with the right key.
    let spi = SaKey {
        sender: 2,
        receiver: 1,
        slot: 1,
        lane: 0,
    }
    .spi();
    for protocol in ["udp", "tcp"] {
        stock.ip(&format!(
            "xfrm policy add src {} dst {} proto {protocol} dport {PORT} dir out tmpl src {} \
             dst {} proto esp spi {spi:#x} reqid 7 mode transport",
            stage.peer, stage.own, stage.peer, stage.own
        ))?;
    }
    let to = SocketAddr::new(stage.own, PORT);
    let drops = stage.refused("UDP to another port", || {
        for _ in 0..COUNT {
            socket.send_to(&right.vxlan(BLUE), to)?;
        }
        Ok(())
    })?;
    drops.at_least(COUNT, Reason::ForeignTraffic, FromIpsec)?;
    let drops = stage.refused("TCP", || {
        let refused =
            stock.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)))?;
        ensure!(refused.is_err());
        Ok(())
    })?;
    drops.at_least(1, Reason::ForeignTraffic, FromIpsec)?;

    let arrived = stage.delivered("eth0", || send(&right.vxlan(BLUE)))?;
    ensure!(arrived == COUNT, "{arrived} right ones arrived");
    stage.legitimate()
}

#[test]
fn a_foreign_sa_delivers_nothing_and_raises_an_alarm() -> Result<()> {
    for family in Family::BOTH {
        let stage = Stage::up(family, "native")?;
        foreign_sa(&stage).map_err(|error| error.context(format!("{family:?}")))?;
    }
    Ok(())
}

fn foreign_sa(stage: &Stage) -> Result<()> {
    const AEAD: &str = "aead rfc4106(gcm(aes)) \
        0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223 128";
    let &Stage { own, peer, .. } = stage;
    let stranger = stage.stranger();
    let length = if own.is_ipv4() { 24 } else { 64 };
    let nodad = if own.is_ipv4() { "" } else { "nodad" };
    let (node, evil) = (&stage.lab.node(1)?.netns, &stage.attacker.netns);
    evil.ip(&format!("addr add {stranger}/{length} dev {WIRE} {nodad}"))?;
    let if_id = Settings::default().if_id;

    // On our interface, with the peer as its selector; then one that decrypts for the host itself:
    // what comes out of that is cleartext on the underlay device where ESP goes through GRO
    // (net/ipv4/esp4_offload.c), and else reaches the device that drops everything.
    let cases: [(u32, String, &[_]); 2] = [
        (
            0xdead_beef,
            format!("mode beet if_id {if_id} sel src {peer} dst {own}"),
            &[(Reason::UnknownSa, FromIpsec)],
        ),
        (
            0xdead_bee0,
            "mode transport".to_owned(),
            &[
                (Reason::UnknownVtep, FromUnderlay),
                (Reason::ForeignTraffic, Internal),
            ],
        ),
    ];
    let socket = marked_udp(evil, stranger, 0)?;
    let vxlan = stage.inner()?.vxlan(BLUE);
    for (spi, mode, reasons) in cases {
        let source = if mode.contains("beet") {
            peer
        } else {
            stranger
        };
        let (before, after) = mode.split_at(mode.find(" sel").unwrap_or(mode.len()));
        node.ip(&format!(
            "xfrm state add src {source} dst {own} proto esp spi {spi:#x} reqid 9 {before} {AEAD} \
             {after}"
        ))?;
        evil.ip(&format!(
            "xfrm state add src {stranger} dst {own} proto esp spi {spi:#x} reqid 9 \
             mode transport {AEAD}"
        ))?;
        evil.ip(&format!(
            "xfrm policy update src {stranger} dst {own} proto udp dport {VXLAN_PORT} dir out \
             tmpl src {stranger} dst {own} proto esp spi {spi:#x} reqid 9 mode transport"
        ))?;
        let drops = stage.refused(&mode, || {
            for _ in 0..COUNT {
                socket.send_to(&vxlan, SocketAddr::new(own, VXLAN_PORT))?;
            }
            Ok(())
        })?;
        let counted: u64 = reasons
            .iter()
            .map(|&(reason, direction)| drops.get(reason, direction))
            .sum();
        ensure!(
            counted >= COUNT,
            "{mode}: {reasons:?} did not rise: {drops}"
        );
    }
    stage.legitimate()
}

#[test]
fn an_sa_speaks_for_its_own_peer_only() -> Result<()> {
    for family in Family::BOTH {
        // XDP would drop the ESP before it is decrypted.
        let stage = Stage::up(family, "off")?;
        let node = stage.lab.node(1)?;
        maps::set_sa_peer(node, 3)?;
        let before = DropCounts::of(node)?;
        let ping = stage.lab.ping("b", "a", "blue")?.count(3).run()?;
        ensure!(ping.received == 0, "{family:?}: {}", ping.output);
        let drops = DropCounts::of(node)?.since(&before);
        drops
            .at_least(3, Reason::SpoofedSpi, FromIpsec)
            .with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

#[test]
fn replayed_and_forged_esp_is_refused() -> Result<()> {
    for family in Family::BOTH {
        let stage = Stage::up(family, "native")?;
        replay(&stage).map_err(|error| error.context(format!("{family:?}")))?;
    }
    Ok(())
}

fn replay(stage: &Stage) -> Result<()> {
    const SENT: usize = 20;
    let sink = UdpSink::start(stage.lab.netns("a")?, PORT, "eth0", &[])?;
    let capture = stage.lab.capture()?;
    let socket = marked_udp(stage.lab.netns("b")?, stage.lab.ip("b", "blue")?, 0)?;
    let to = SocketAddr::new(stage.lab.ip("a", "blue")?, PORT);
    for _ in 0..SENT {
        socket.send_to(MARKER, to)?;
    }
    eventually(PATIENCE, || {
        ensure!(sink.received().len() == SENT);
        Ok(())
    })?;
    let wire = capture.stop()?;
    let esp = |kind: &Kind| matches!(kind, Kind::Esp(Esp { source, .. }) if *source == stage.peer);
    let frames: Vec<Vec<u8>> = wire
        .frames()
        .filter(|frame| esp(&frame.kind()))
        .map(|frame| frame.bytes.to_vec())
        .collect();
    ensure!(frames.len() >= SENT, "{}", wire.summary());

    let netns = &stage.lab.node(1)?.netns;
    let rises = |name: &str, work: &dyn Fn(&[u8]) -> Result<()>| -> Result<u64> {
        let before = Counters::of(netns)?.get(name)?;
        let arrived =
            stage.delivered("eth0", || frames.iter().try_for_each(|frame| work(frame)))?;
        ensure!(arrived == 0, "{name}: {arrived} delivered again");
        Ok(Counters::of(netns)?.get(name)? - before)
    };
    let replayed = rises("XfrmInStateSeqError", &|frame| stage.attacker.replay(frame))?;
    ensure!(replayed >= SENT as u64, "{replayed} seen as replayed");

    let header = if stage.own.is_ipv4() { 34 } else { 54 };
    let altered = |frame: &[u8], at: usize| {
        let mut frame = frame.to_vec();
        frame[header + at] ^= 0x40;
        frame
    };
    // A sequence number of the future needs an ICV that only the key makes.
    let forged = rises("XfrmInStateProtoError", &|frame| {
        stage.attacker.replay(&altered(frame, 6))
    })?;
    ensure!(forged >= SENT as u64, "{forged} seen as forged");
    let unknown = rises("XfrmInNoStates", &|frame| {
        stage.attacker.replay(&altered(frame, 0))
    })?;
    ensure!(unknown >= SENT as u64, "{unknown} of an unknown SA");

    let drops = stage.refused("from a stranger", || {
        frames.iter().try_for_each(|frame| {
            stage.attacker.send(
                stage.mac,
                stage.stranger(),
                stage.own,
                frames::ESP,
                Fragment::Whole,
                &frame[header..],
            )
        })
    })?;
    drops.at_least(SENT as u64, Reason::UnknownVtep, FromUnderlay)?;
    ensure!(sink.received().len() == SENT, "a duplicate was delivered");
    stage.legitimate()
}

#[test]
fn a_local_process_with_our_mark_injects_nothing() -> Result<()> {
    for family in Family::BOTH {
        let node = || NodeSpec::new().family(family);
        let lab = Lab::up(
            Spec::new()
                .network(NetworkSpec::encrypted("blue", BLUE))
                .network(NetworkSpec::plain("green", GREEN))
                .node(node().container("a", &["blue", "green"]))
                .node(node().container("b", &["blue", "green"])),
        )?;
        lab.ping("a", "b", "blue")?.lossless()?;
        local_process(&lab, family).map_err(|error| error.context(format!("{family:?}")))?;
        local_process_without_firewall(&lab, family)
            .map_err(|error| error.context(format!("{family:?}, no firewall")))?;
        administrator_accepts_everything(&lab.node(1)?.netns)?;
        local_process(&lab, family)
            .map_err(|error| error.context(format!("{family:?}, all accepted")))?;
    }
    Ok(())
}

/// What the first node drops while `work` tries to reach a container on the other node by either
/// network, or the wire in clear.
fn refused(lab: &Lab, name: &str, work: &dyn Fn() -> Result<()>) -> Result<DropCounts> {
    let node = lab.node(1)?;
    let before = DropCounts::of(node)?;
    let capture = lab.capture()?;
    let arrived = delivered(lab, "b", "eth0", || {
        let arrived = delivered(lab, "b", "eth1", work)?;
        ensure!(arrived == 0, "{name}: {arrived} delivered in green");
        Ok(())
    })?;
    let wire = capture.stop()?;
    let drops = DropCounts::of(node)?.since(&before);
    ensure!(arrived == 0, "{name}: {arrived} delivered; {drops}");
    let clear = wire.complete()?.frames_with(MARKER);
    ensure!(clear == 0, "{name}: {clear} on the wire; {drops}");
    Ok(drops)
}

/// Without the firewall XFRM encrypts what has our mark; the last barrier knows that a socket sent it.
fn local_process_without_firewall(lab: &Lab, family: Family) -> Result<()> {
    let (own, peer) = (lab.underlay.vtep(1, family)?, lab.underlay.vtep(2, family)?);
    let node = lab.node(1)?;
    let mark = Settings::default().mark.mark(1, 0);
    let vxlan = inner(lab, "a", "b")?.vxlan(BLUE);
    node.netns.run("nft", "delete table inet overlay")?;
    let socket = marked_udp(&node.netns, own, mark)?;
    let drops = refused(lab, "a UDP socket without the firewall", &|| {
        for _ in 0..COUNT {
            let _refused = socket.send_to(&vxlan, SocketAddr::new(peer, VXLAN_PORT));
        }
        Ok(())
    })?;
    drops.at_least(COUNT, Reason::LocalInjection, ToUnderlay)?;
    if family == Family::V4 {
        let socket = marked_raw_ipv4(&node.netns, mark)?;
        let datagram = frames::udp(0xc0de, VXLAN_PORT, &vxlan);
        let packet = craft::ip(own, peer, frames::UDP, Fragment::Whole, &datagram);
        let drops = refused(lab, "a raw socket without the firewall", &|| {
            for _ in 0..COUNT {
                let _refused = socket.send(&packet, peer);
            }
            Ok(())
        })?;
        // What brings its own header is looked up as protocol 255 (`raw_sendmsg`, net/ipv4/raw.c),
        // which no policy names: it comes unencrypted.
        drops.at_least(COUNT, Reason::CleartextEncryptedVni, ToUnderlay)?;
    }
    lab.ping("a", "b", "blue")?.lossless()?;
    node.apply(&lab.keyring)?;
    Ok(())
}

fn local_process(lab: &Lab, family: Family) -> Result<()> {
    let (own, peer) = (lab.underlay.vtep(1, family)?, lab.underlay.vtep(2, family)?);
    let node = lab.node(1)?;
    let netns = &node.netns;
    let mark = Settings::default().mark.mark(1, 0);
    let right = inner(lab, "a", "b")?;
    let green = |name: &str| -> Result<_> {
        let container = lab.container(name)?;
        Ok((container.attachment("green")?.mac, lab.ip(name, "green")?))
    };
    let ((green_a, source), (green_b, destination)) = (green("a")?, green("b")?);
    let right_green = Inner {
        destination_mac: green_b,
        source_mac: green_a,
        source,
        destination,
        ..right.clone()
    };
    let refused = |name: &str, work: &dyn Fn() -> Result<()>| refused(lab, name, work);

    for mark in [mark, 0] {
        let firewall = local_injections(netns)?;
        let blocked = Counters::of(netns)?.get("XfrmOutPolBlock")?;
        let socket = marked_udp(netns, own, mark)?;
        refused("a UDP socket", &|| {
            for _ in 0..COUNT {
                // The kernel may tell the process that it was refused.
                let _refused =
                    socket.send_to(&right.vxlan(BLUE), SocketAddr::new(peer, VXLAN_PORT));
            }
            Ok(())
        })?;
        // With the mark of an SA the firewall is what refuses; without it the block policy comes
        // first, when the socket asks for its route.
        let firewall = local_injections(netns)? - firewall;
        let blocked = Counters::of(netns)?.get("XfrmOutPolBlock")? - blocked;
        let counted = if mark == 0 { blocked } else { firewall };
        ensure!(
            counted >= COUNT,
            "UDP socket with mark {mark:#x}: the firewall counted {firewall}, the policy {blocked}"
        );
    }
    let packet = |vxlan: &[u8], fragment| {
        let datagram = frames::udp(0xc0de, VXLAN_PORT, vxlan);
        craft::ip(own, peer, frames::UDP, fragment, &datagram)
    };
    let blue = packet(&right.vxlan(BLUE), Fragment::Whole);
    if family == Family::V4 {
        let before = local_injections(netns)?;
        let socket = marked_raw_ipv4(netns, mark)?;
        refused("a raw socket", &|| {
            for _ in 0..COUNT {
                let _refused = socket.send(&blue, peer);
                // A fragment has no port to be told by.
                let _refused = socket.send(
                    &packet(&right.vxlan(BLUE), Fragment::Last { offset: 6 }),
                    peer,
                );
            }
            Ok(())
        })?;
        let counted = local_injections(netns)? - before;
        ensure!(
            counted >= COUNT,
            "the firewall counted {counted} for a raw socket"
        );
    }

    let reentry_mac = mac_of(netns, "ovl-in")?;
    let hop_mac = mac_of(netns, "ovl-hop")?;
    let wire_mac = mac_of(&lab.node(2)?.netns, WIRE)?;
    let green = packet(&right_green.vxlan(GREEN), Fragment::Whole);
    let part = packet(&right.vxlan(BLUE), Fragment::First);
    let cases = [
        (
            "ovl-hop",
            reentry_mac,
            &blue,
            Some((Reason::LocalInjection, Internal)),
        ),
        (
            "ovl-in",
            hop_mac,
            &blue,
            Some((Reason::ForeignTraffic, Internal)),
        ),
        (
            WIRE,
            wire_mac,
            &blue,
            Some((Reason::CleartextEncryptedVni, ToUnderlay)),
        ),
        (
            WIRE,
            wire_mac,
            &green,
            Some((Reason::LocalInjection, ToUnderlay)),
        ),
        (
            WIRE,
            wire_mac,
            &part,
            Some((Reason::UnderlayFragment, ToUnderlay)),
        ),
    ];
    for (device, to, packet, expected) in cases {
        let socket = RawSocket::open(netns, device)?;
        socket.set_mark(mark)?;
        let frame = frames::ethernet(to, reentry_mac, craft::ether_type(own), packet);
        let drops = refused(device, &|| {
            for _ in 0..COUNT {
                // ENOBUFS is how the kernel tells of a drop at the device.
                let _refused = socket.send(&frame);
            }
            Ok(())
        })?;
        if let Some((reason, direction)) = expected {
            drops
                .at_least(COUNT, reason, direction)
                .map_err(|error| error.context(device))?;
        }
    }
    // The xfrm interface has no link layer: it takes the bare packet, and finds no policy for it.
    let socket = RawSocket::open(netns, "ovl-xfrm")?;
    socket.set_mark(mark)?;
    refused("ovl-xfrm", &|| {
        for _ in 0..COUNT {
            let _refused = socket.send(&blue);
        }
        Ok(())
    })?;
    for network in ["blue", "green"] {
        lab.ping("a", "b", network)?.lossless()?;
    }
    Ok(())
}
