//! Two hosts on a cable, and a container on each.
//!
//! Every competitor has hosts, containers and a cable of its own, all alike, so that what one attaches
//! to its hosts costs the others nothing. A cable is a veth pair that sends what a NIC would: frames
//! of 1,514 bytes with checksums.

mod ours;
mod pair;
mod stock;
mod wireguard;

use std::{net::IpAddr, time::Duration};

use anyhow::Result;

use self::pair::Pair;
use super::{Cipher, Competitor, Ends, cipher::Sa};
use crate::lab::{Lab, Netns, WIRE, eventually, traffic::Ping, unique_prefix};

/// Largest IP packet on the cable, bytes.
const WIRE_MTU: u32 = 1500;
const VNI: u32 = 4097;
const PORT: u16 = 4789;
/// Outer Ethernet header excepted: IPv4, UDP, VXLAN, inner Ethernet.
const VXLAN: u32 = 50;

/// A competitor, ready to be measured.
#[derive(Debug)]
pub struct Rig {
    competitor: Competitor,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Lab(Box<Lab>),
    Pair(Box<Pair>),
}

impl Rig {
    /// Builds it; removed when dropped.
    pub fn build(competitor: Competitor, cipher: Cipher) -> Result<Self> {
        let held = match competitor {
            Competitor::Ours => Held::Lab(Box::new(ours::build(cipher)?)),
            other => {
                let pair = Pair::new(&unique_prefix(), other.short())?;
                match other {
                    Competitor::Ours | Competitor::Raw => {}
                    Competitor::Docker => stock::docker(&pair, cipher)?,
                    Competitor::Kernel => stock::kernel(&pair, cipher)?,
                    Competitor::WireguardVxlan => wireguard::vxlan(&pair)?,
                    Competitor::WireguardRouted => wireguard::routed(&pair)?,
                }
                Held::Pair(Box::new(pair))
            }
        };
        Ok(Self { competitor, held })
    }

    pub fn competitor(&self) -> Competitor {
        self.competitor
    }

    /// Between whom the loads run: the containers, or the hosts where there is no overlay.
    pub fn ends(&self) -> Result<Ends<'_>> {
        Ok(match &self.held {
            Held::Lab(lab) => Ends {
                client: lab.netns("a")?,
                server: lab.netns("b")?,
                address: lab.ip("b", ours::NETWORK)?,
            },
            Held::Pair(pair) => {
                let [client, server] = if self.competitor == Competitor::Raw {
                    [&pair.hosts[0], &pair.hosts[1]]
                } else {
                    [&pair.containers[0], &pair.containers[1]]
                };
                let address: IpAddr = if self.competitor == Competitor::Raw {
                    pair::HOST[1].parse()?
                } else {
                    pair::CONTAINER[1].parse()?
                };
                Ends {
                    client,
                    server,
                    address,
                }
            }
        })
    }

    /// Waits until packets get through.
    pub fn passes_traffic(&self) -> Result<()> {
        let ends = self.ends()?;
        eventually(Duration::from_secs(20), || {
            Ping::new(ends.client, ends.address).count(1).lossless()
        })?;
        Ping::new(ends.client, ends.address)
            .packet(self.mtu()?)
            .count(3)
            .lossless()
            .map(drop)
    }

    /// Largest packet of the client's device.
    pub fn mtu(&self) -> Result<u32> {
        let ends = self.ends()?;
        let device = if self.competitor == Competitor::Raw {
            WIRE
        } else {
            "eth0"
        };
        let mtu = ends.client.ip(&format!("-o link show dev {device}"))?;
        let mut words = mtu.split_whitespace().skip_while(|word| *word != "mtu");
        Ok(words.nth(1).unwrap_or_default().parse()?)
    }
}

impl Competitor {
    /// What the running kernel, or this machine, lacks for it.
    pub fn lacking(self, cipher: Cipher) -> Result<Option<&'static str>> {
        let wireguard = matches!(self, Self::WireguardVxlan | Self::WireguardRouted);
        if !wireguard && (!cipher.is_encrypted() || self == Self::Raw) {
            return Ok(None);
        }
        let place = Netns::new(&format!("{}-probe", unique_prefix()))?;
        if wireguard {
            let made = place.ip("link add probe type wireguard").is_ok();
            return Ok((!made).then_some("the running kernel has no WireGuard device"));
        }
        let sa = Sa {
            source: pair::HOST[0].to_owned(),
            destination: pair::HOST[1].to_owned(),
            spi: 0x1234,
            reqid: 1,
            mode: "transport".to_owned(),
            if_id: None,
        };
        Ok(match cipher.install(&place, &sa) {
            Ok(()) => None,
            Err(_) => Some("the running kernel has no ESP with this cipher"),
        })
    }
}
