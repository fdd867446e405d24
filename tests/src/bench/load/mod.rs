//! The loads: between two ends, for a time, to a number.

mod bulk;
mod connections;
mod latency;
mod mix;
mod packets;
mod round_trip;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::Result;

use crate::lab::Netns;

/// Whatever waits for a packet gives up after this: it was lost.
const LOST: Duration = Duration::from_millis(200);
/// No step of a load takes longer, unless the path is broken.
const STALLED: Duration = Duration::from_secs(15);

/// Between whom.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    pub client: &'a Netns,
    pub server: &'a Netns,
    /// Of the server.
    pub address: IpAddr,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// In the unit of the load.
    pub value: f64,
    /// By name with its unit.
    pub details: BTreeMap<&'static str, f64>,
}

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Load {
    /// One stream of iperf3, bit/s.
    #[value(name = "tcp-1")]
    Tcp1,
    /// Eight streams of iperf3, bit/s.
    #[value(name = "tcp-8")]
    Tcp8,
    /// Datagrams of 64 bytes that arrive, per second.
    #[value(name = "udp-64")]
    Udp64,
    /// Datagrams of 1,400 bytes (less where the network's MTU is smaller) that arrive, per second.
    #[value(name = "udp-1400")]
    Udp1400,
    /// Requests of 64 bytes with an answer on one TCP connection, per second.
    TcpRoundTrip,
    /// The same by UDP.
    UdpRoundTrip,
    /// TCP connections with a request and an answer each, one after the other, per second.
    Connections,
    /// A TCP stream, connections and UDP round trips at once: round trips per second.
    Mix,
}

impl Load {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Tcp1,
        Self::Tcp8,
        Self::Udp64,
        Self::Udp1400,
        Self::TcpRoundTrip,
        Self::UdpRoundTrip,
        Self::Connections,
        Self::Mix,
    ];

    /// As in the samples.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp-1",
            Self::Tcp8 => "tcp-8",
            Self::Udp64 => "udp-64",
            Self::Udp1400 => "udp-1400",
            Self::TcpRoundTrip => "tcp-round-trip",
            Self::UdpRoundTrip => "udp-round-trip",
            Self::Connections => "connections",
            Self::Mix => "mix",
        }
    }

    /// Runs it for about this long.
    pub fn run(self, ends: &Ends<'_>, duration: Duration) -> Result<Measured> {
        match self {
            Self::Tcp1 => bulk::run(ends, 1, duration),
            Self::Tcp8 => bulk::run(ends, 8, duration),
            Self::Udp64 => packets::run(ends, 64, duration),
            // The largest datagram of the smallest network here: 1384 bytes fit an encrypted one.
            Self::Udp1400 => packets::run(ends, packets::LARGE, duration),
            Self::TcpRoundTrip => round_trip::tcp(ends, duration),
            Self::UdpRoundTrip => round_trip::udp(ends, duration),
            Self::Connections => connections::run(ends, duration),
            Self::Mix => mix::run(ends, duration),
        }
    }
}
