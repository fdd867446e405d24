//! A host on the underlay that is no node: it can send any frame to any node.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::craft::{self, Fragment};
use crate::{
    lab::{Lab, Netns, RawSocket, WIRE, mac_text},
    testrun::frames,
};

const SOURCE_PORT: u16 = 0xc0de;

/// A namespace on the switch of a lab.
#[derive(Debug)]
pub struct Attacker {
    pub netns: Netns,
    pub wire: RawSocket,
    mac: [u8; 6],
}

impl Attacker {
    /// Plugs one into the lab's switch.
    pub fn plug_in(lab: &Lab) -> Result<Self> {
        Self::plug_in_as(lab, 1)
    }

    /// Plugs a further one into the lab's switch; numbers tell them apart.
    pub fn plug_in_as(lab: &Lab, number: u8) -> Result<Self> {
        let switch = &lab.underlay.netns;
        let port = format!("attacker{number}");
        // Bit 1 of the first byte says that nobody assigned it.
        let mac = [0x02, 0xad, 0, 0, 0, number];
        // Named as the lab's own namespaces, so that a later lab removes what a killed test left.
        let netns = Netns::new(&switch.name().replace("-wire", &format!("-evil{number}")))?;
        switch.ip(&format!(
            "link add {port} mtu {} type veth peer name {WIRE} netns {}",
            lab.spec.mtu,
            netns.name()
        ))?;
        switch.set_sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        switch.ip(&format!("link set {port} master br0 up"))?;
        netns.run("ethtool", &format!("-K {WIRE} tx off tso off gso off"))?;
        netns.ip(&format!("link set {WIRE} address {} up", mac_text(mac)))?;
        let wire = RawSocket::open(&netns, WIRE)?;
        Ok(Self { netns, wire, mac })
    }

    /// Sends an IP packet to the device with this MAC.
    pub fn send(
        &self,
        to: [u8; 6],
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        fragment: Fragment,
        payload: &[u8],
    ) -> Result<()> {
        let packet = craft::ip(source, destination, protocol, fragment, payload);
        let frame = frames::ethernet(to, self.mac, craft::ether_type(source), &packet);
        self.wire.send(&frame)
    }

    /// Sends a VXLAN packet, behind any outer source address.
    pub fn send_vxlan(
        &self,
        to: [u8; 6],
        source: IpAddr,
        destination: IpAddr,
        vxlan: &[u8],
    ) -> Result<()> {
        let datagram = frames::udp(SOURCE_PORT, craft::VXLAN_PORT, vxlan);
        self.send(
            to,
            source,
            destination,
            frames::UDP,
            Fragment::Whole,
            &datagram,
        )
    }

    /// Sends a captured frame again, to the same device, as from this host: the switch would else
    /// learn that the true sender has moved.
    pub fn replay(&self, frame: &[u8]) -> Result<()> {
        let mut frame = frame.to_vec();
        frame
            .get_mut(6..12)
            .context("a frame has a source")?
            .copy_from_slice(&self.mac);
        self.wire.send(&frame)
    }
}

/// The MAC of a device.
pub fn mac_of(netns: &Netns, device: &str) -> Result<[u8; 6]> {
    let said = netns.ip(&format!("-o link show dev {device}"))?;
    let mut words = said.split_whitespace();
    words
        .find(|word| *word == "link/ether")
        .and_then(|_| words.next())
        .and_then(|text| {
            let bytes: Vec<u8> = text
                .split(':')
                .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
                .collect();
            bytes.try_into().ok()
        })
        .with_context(|| format!("no MAC in `{said}`"))
}
