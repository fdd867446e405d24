//! What must hold for frames that are not addressed to one IP address, however their nodes are
//! connected.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{drops, mtu};
use crate::lab::{Family, Lab, RawSocket, eventually, traffic::UdpSink};

/// Local experimental Ethertype 1 (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn frame(to: [u8; 6], from: [u8; 6], length: usize) -> Vec<u8> {
    let payload = (0..length).map(|at| u8::try_from(at % 251).unwrap_or(0));
    [&to[..], &from, &ETHERTYPE]
        .concat()
        .into_iter()
        .chain(payload)
        .collect()
}

/// Sends frames of an Ethertype that no kernel knows, of every length, from the first of each pair to
/// the second.
pub fn frames_of_every_length(lab: &Lab, network: &str, pairs: &[(&str, &str)]) -> Result<()> {
    for &(from, to) in pairs {
        let (here, there) = (lab.container(from)?, lab.container(to)?);
        let (source, destination) = (here.attachment(network)?, there.attachment(network)?);
        let sender = RawSocket::open(&here.netns, &source.interface)?;
        let receiver = RawSocket::open_receiver(&there.netns, &destination.interface)?;
        let full = usize::try_from(mtu(here, network)?)?;
        // Without payload, shorter than any outer header, as short as a wire allows, and full.
        for length in [0, 1, 5, 20, 36, 46, 47, 200, full] {
            let sent = frame(destination.mac, source.mac, length);
            sender.send(&sent)?;
            let received = receiver.wait_for(Duration::from_secs(3), |frame| {
                frame.get(12..14) == Some(&ETHERTYPE[..])
            })?;
            let received = received.with_context(|| {
                format!(
                    "{from} → {to}: no frame with {length} bytes of payload\n{}",
                    drops(lab)
                )
            })?;
            // Ethernet pads what is shorter than 60 bytes.
            let (frame, padding) = received.split_at(sent.len().min(received.len()));
            ensure!(
                frame == sent
                    && received.len() <= sent.len().max(60)
                    && padding.iter().all(|&byte| byte == 0),
                "{from} → {to}: {length} bytes of payload: {sent:02x?} became {received:02x?}"
            );
        }
    }
    Ok(())
}

/// Sends one datagram from a container to a group or broadcast address.
pub fn send_to_group(
    lab: &Lab,
    network: &str,
    from: &str,
    to: IpAddr,
    port: u16,
    payload: &[u8],
) -> Result<()> {
    let container = lab.container(from)?;
    let own = lab.ip_of(from, network, Family::of(to))?;
    if to.is_multicast() {
        let family = if to.is_ipv6() { "-6" } else { "-4" };
        let interface = &container.attachment(network)?.interface;
        container.netns.ip(&format!(
            "{family} route replace {to} dev {interface} table local"
        ))?;
    }
    container.netns.enter(|| {
        let socket = UdpSocket::bind((own, 0))?;
        socket.set_broadcast(true)?;
        socket.send_to(payload, (to, port))
    })??;
    Ok(())
}

/// Broadcast of the first network, and a group of each family.
pub const GROUPS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 64, 255, 255)),
    IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)),
    IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1)),
];

/// What a container sends to all, or to a group, arrives once at every other container.
pub fn replicated(lab: &Lab, network: &str, from: &str, others: &[&str]) -> Result<()> {
    for to in others {
        lab.ping(from, to, network)?.count(2).run()?;
    }
    for (port, group) in (9001..).zip(GROUPS) {
        let groups: &[IpAddr] = if group.is_multicast() { &[group] } else { &[] };
        let sinks: Vec<(&str, UdpSink)> = others
            .iter()
            .map(|&name| {
                Ok((
                    name,
                    UdpSink::start(
                        lab.netns(name)?,
                        port,
                        &lab.container(name)?.attachment(network)?.interface,
                        groups,
                    )?,
                ))
            })
            .collect::<Result<_>>()?;
        send_to_group(lab, network, from, group, port, b"to all")?;
        for (name, sink) in &sinks {
            eventually(Duration::from_secs(3), || {
                ensure!(!sink.received().is_empty(), "nothing to {group} at {name}");
                Ok(())
            })
            .with_context(|| drops(lab))?;
        }
        // Time for a second copy that must not come.
        std::thread::sleep(Duration::from_millis(200));
        for (name, sink) in &sinks {
            let received = sink.received();
            ensure!(received.len() == 1, "{name} got {received:?} for {group}");
            ensure!(received[0].payload == b"to all");
            ensure!(received[0].from.ip() == lab.ip_of(from, network, Family::of(group))?);
        }
    }
    Ok(())
}
