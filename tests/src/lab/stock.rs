//! A node of the stock kernel: bridge, vxlan device and `ip xfrm … mode transport`.
//!
//! Configured as Docker's overlay driver does it: the vxlan device answers ARP and neighbour
//! solicitations from permanent neighbours and learns nothing.

use std::{
    fmt::Write as _,
    io,
    net::{Ipv6Addr, UdpSocket},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Family, Keyring, Lab, Netns, SaKey,
    addressing::{mac_text, prefix_length},
    command,
    keyring::{push_hex, zeroizing_text},
    set_option,
};

const PORT: u16 = 4789;
/// Outer headers over IPv6 and ESP: what a stock endpoint must leave free on the wire.
const OVERHEAD: u32 = 110;

/// A namespace with VTEPs, bridges and vxlan devices.
#[derive(Debug)]
pub struct StockNode {
    /// In the cluster, from 1.
    pub index: u32,
    pub netns: Netns,
    /// Slot in which it sends.
    slot: u8,
    /// Own VTEP, peer's VTEP, peer's index.
    pairs: Vec<(String, String, u32)>,
    encrypted: bool,
    /// The port of ESP in UDP, and the socket by which the kernel receives it (RFC 3948).
    esp_in_udp: Option<(u16, UdpSocket)>,
}

impl StockNode {
    pub(super) fn new(lab: &Lab, index: u32, netns: Netns) -> Result<Self> {
        let spec = &lab.spec;
        let families = |index: u32| spec.nodes[index as usize - 1].families();
        let mut pairs = Vec::new();
        for other in (1..).take(spec.nodes.len()).filter(|&other| other != index) {
            if let Some(family) = families(index).find(|f| families(other).any(|o| o == *f)) {
                let vtep = |index| lab.underlay.vtep(index, family);
                pairs.push((vtep(index)?.to_string(), vtep(other)?.to_string(), other));
            }
        }
        let encrypted = spec.networks.iter().any(|network| network.encrypted);
        ensure!(
            spec.networks
                .iter()
                .all(|network| network.encrypted == encrypted),
            "a stock node encrypts all VXLAN to a peer or none: its policies know no VNI"
        );
        let esp_in_udp = match lab.spec.settings.get("esp_in_udp_port") {
            Some(port) => {
                let port = port.as_u64().and_then(|port| port.try_into().ok());
                let port = port.context("esp_in_udp_port is a port")?;
                Some((port, esp_in_udp_socket(&netns, port)?))
            }
            None => None,
        };
        let node = Self {
            index,
            netns,
            slot: 1,
            pairs,
            encrypted,
            esp_in_udp,
        };
        for number in 0..spec.networks.len() {
            node.network(lab, number)?;
        }
        if encrypted {
            node.states(&lab.keyring, 1, "add")?;
            node.policies(None, 1)?;
        }
        Ok(node)
    }

    /// Bridge, vxlan device and containers of a network.
    fn network(&self, lab: &Lab, number: usize) -> Result<()> {
        let network = &lab.spec.networks[number];
        let (bridge, vxlan) = (format!("br{number}"), format!("vx{number}"));
        let families: Vec<Family> = lab.spec.nodes[self.index as usize - 1].families().collect();
        ensure!(families.len() == 1, "a stock node has one VTEP");
        let local = lab.underlay.vtep(self.index, families[0])?;
        let mtu = network.mtu.unwrap_or(lab.spec.mtu - OVERHEAD);
        let checksums = if local.is_ipv6() {
            "noudpcsum udp6zerocsumtx udp6zerocsumrx"
        } else {
            "noudpcsum"
        };
        let netns = &self.netns;
        for device in [&bridge, &vxlan] {
            if device == &bridge {
                netns.ip(&format!(
                    "link add {bridge} type bridge stp_state 0 mcast_snooping 0"
                ))?;
            } else {
                netns.ip(&format!(
                    "link add {vxlan} mtu {mtu} type vxlan id {} local {local} dstport {PORT} \
                     nolearning proxy {checksums}",
                    network.vni
                ))?;
                netns.ip(&format!("link set {vxlan} master {bridge}"))?;
            }
            netns.set_sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
            netns.ip(&format!("link set {device} up"))?;
        }
        // The proxy of the vxlan device answers solicitations only while it runs IPv6.
        netns.set_sysctl(&format!("net/ipv6/conf/{vxlan}/disable_ipv6"), "0")?;
        for (position, (name, container)) in lab.all_containers().enumerate() {
            let Ok(attachment) = container.attachment(&network.name) else {
                continue;
            };
            let mac = mac_text(attachment.mac);
            if container.node != self.index {
                let Some((_, vtep, _)) = self.pairs.iter().find(|p| p.2 == container.node) else {
                    continue;
                };
                command::shell(
                    "bridge",
                    &format!(
                        "-n {} fdb add {mac} dev {vxlan} dst {vtep} self permanent",
                        netns.name()
                    ),
                )?;
                for ip in &attachment.addresses {
                    netns.ip(&format!(
                        "neigh replace {ip} lladdr {mac} dev {vxlan} nud permanent"
                    ))?;
                }
                continue;
            }
            let port = format!("c{number}-{position}");
            let interface = &attachment.interface;
            let inside = &container.netns;
            netns.ip(&format!(
                "link add {port} mtu {mtu} type veth peer name {interface} mtu {mtu} address {mac} \
                 netns {}",
                inside.name()
            ))?;
            netns.set_sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
            netns.ip(&format!("link set {port} master {bridge} up"))?;
            inside.ip(&format!("link set {interface} up"))?;
            for &ip in &attachment.addresses {
                let nodad = if ip.is_ipv6() { "nodad" } else { "" };
                inside
                    .ip(&format!(
                        "addr add {ip}/{} dev {interface} {nodad}",
                        prefix_length(ip)
                    ))
                    .with_context(|| format!("address of {name}"))?;
            }
        }
        Ok(())
    }

    /// Sends in clear whatever its networks say: for tests of what must be refused.
    pub fn send_in_clear(&self) -> Result<()> {
        self.netns.ip("xfrm policy flush").map(drop)
    }

    /// Installs the SAs of a further slot.
    pub(super) fn stage(&mut self, keys: &Keyring, slot: u8) -> Result<()> {
        if self.encrypted {
            self.states(keys, slot, "add")?;
        }
        Ok(())
    }

    /// Sends in another slot from now on.
    pub(super) fn activate(&mut self, slot: u8) -> Result<()> {
        if self.encrypted {
            self.policies(Some(self.slot), slot)?;
            self.slot = slot;
        }
        Ok(())
    }

    /// Removes the SAs of a slot.
    pub(super) fn retire(&mut self, keys: &Keyring, slot: u8) -> Result<()> {
        if self.encrypted {
            self.states(keys, slot, "del")?;
        }
        Ok(())
    }

    /// Adds or deletes the SAs of a slot. Keys go by standard input: others can read arguments.
    fn states(&self, keys: &Keyring, slot: u8, verb: &str) -> Result<()> {
        let mut text = zeroizing_text(65536);
        for (key, material) in keys.iter().filter(|(key, _)| key.slot == slot) {
            for (own, other, peer) in &self.pairs {
                let (source, destination) = if (key.sender, key.receiver) == (self.index, *peer) {
                    (own, other)
                } else if (key.sender, key.receiver) == (*peer, self.index) {
                    (other, own)
                } else {
                    continue;
                };
                write!(
                    text.0,
                    "xfrm state {verb} src {source} dst {destination} proto esp spi {:#x}",
                    key.spi()
                )?;
                if verb == "add" {
                    text.0.push_str(
                        " reqid 7 mode transport flag esn replay-window 1024 \
                         aead rfc4106(gcm(aes)) 0x",
                    );
                    push_hex(&mut text.0, material);
                    text.0.push_str(" 128");
                    if let Some((port, _)) = &self.esp_in_udp {
                        write!(text.0, " encap espinudp {port} {port} 0.0.0.0")?;
                    }
                }
                text.0.push('\n');
            }
        }
        command::feed(self.netns.command("ip").args(["-batch", "-"]), &text.0)
            .with_context(|| format!("SAs of stock node {}", self.index))
            .map(drop)
    }

    /// Encrypts VXLAN to every peer with lane 0 of a slot, and requires it of what comes in.
    fn policies(&self, before: Option<u8>, slot: u8) -> Result<()> {
        for (own, other, peer) in &self.pairs {
            let selector = format!("src {own} dst {other} proto udp dport {PORT}");
            let spi = SaKey {
                sender: self.index,
                receiver: *peer,
                slot,
                lane: 0,
            }
            .spi();
            let verb = if before.is_none() { "add" } else { "update" };
            self.netns.ip(&format!(
                "xfrm policy {verb} {selector} dir out tmpl src {own} dst {other} proto esp \
                 spi {spi:#x} reqid 7 mode transport"
            ))?;
            if before.is_none() {
                self.netns.ip(&format!(
                    "xfrm policy add src {other} dst {own} proto udp dport {PORT} dir in tmpl \
                     src {other} dst {own} proto esp reqid 7 mode transport"
                ))?;
            }
        }
        Ok(())
    }
}

/// For both families. Dropped, the kernel no longer takes ESP out of UDP.
fn esp_in_udp_socket(netns: &Netns, port: u16) -> Result<UdpSocket> {
    /// include/uapi/linux/udp.h
    const UDP_ENCAP: libc::c_int = 100;
    const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
    netns
        .enter(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
            set_option(&socket, libc::SOL_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)?;
            Ok::<_, io::Error>(socket)
        })?
        .with_context(|| format!("receive ESP in UDP in {}", netns.name()))
}
