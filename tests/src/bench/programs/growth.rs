//! The cost of a packet where the maps hold more and more.
//!
//! The destinations are spread over all that is there, so that what does not fit a cache is missed as
//! often as on a busy node.

use anyhow::Result;
use overlay_agent::dataplane::desired::MapSizes;
use overlay_ebpf::abi::{Network, NetworkKey, Peer, PeerKey, VtepRole, ids::mapped, program};
use serde_json::json;

use super::{harness, median, paths, runs_of};
use crate::testrun::{
    Row, World,
    frames::{Ip4, Mac},
    row,
    row::Verdict,
    world::{A, C, Host, PEER4, PLAIN, REMOTE4, SECRET, device},
};

/// Packets that take turns: more than a first-level cache has lines for.
const PACKETS: u32 = 1024;

/// First byte of the peers' VTEPs.
const VTEPS: u8 = 198;
/// The first of many networks.
const FIRST_VNI: u32 = 100_000;

/// How often each size runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Growth {
    /// Runs per size
    #[arg(long, default_value_t = 4096)]
    pub runs: u32,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Endpoints,
    Peers,
    Networks,
    Flows,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Endpoints, Self::Peers, Self::Networks, Self::Flows];

    fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Peers => "peers",
            Self::Networks => "networks",
            Self::Flows => "flows",
        }
    }

    fn sizes(self) -> &'static [u32] {
        match self {
            Self::Endpoints => &[100, 1000, 10_000, 100_000],
            Self::Peers => &[1, 100, 1000, 10_000],
            Self::Networks => &[1, 10, 100, 1000],
            Self::Flows => &[1, 100, 1000, 10_000],
        }
    }
}

/// Measures every kind at every size, and prints a line for each.
pub fn growth(options: &Growth) -> Result<()> {
    let runs = options.runs;
    crate::testrun::place::inside(move || {
        let mut harness = harness(&MapSizes::default())?;
        for kind in Kind::ALL {
            for &size in kind.sizes() {
                for (path, rows) in [
                    ("endpoint_tx encrypted", sending(kind, size)),
                    ("underlay_rx plain", receiving(kind, size)),
                ] {
                    let all = runs_of(&mut harness, &rows, runs, false)?;
                    let line = json!({
                        "grows": kind.name(),
                        "size": size,
                        "path": path,
                        "ns": median(&all),
                    });
                    println!("{line}");
                }
            }
        }
        Ok(())
    })
}

/// Numbers below `size`, spread evenly.
fn spread(size: u32) -> impl Iterator<Item = u32> {
    let count = PACKETS.min(size);
    (0..count).map(move |number| (u64::from(number) * u64::from(size) / u64::from(count)) as u32)
}

/// From the local endpoint A to what grows.
fn sending(kind: Kind, size: u32) -> Vec<Row> {
    let row = |packet| Row {
        verdict: Verdict::Redirect,
        ..row("grown", program::ENDPOINT_TX)
            .packet(packet)
            .on(device::SECRET_A)
    };
    in_world(
        world(kind, size),
        spread(size)
            .map(|number| match kind {
                Kind::Endpoints | Kind::Peers => paths::datagram(A, host(number), 64),
                Kind::Networks => paths::datagram(A, C, 64),
                Kind::Flows => paths::flow(A, C, 10_000 + number as u16, 64),
            })
            .map(row)
            .collect(),
    )
}

/// From what grows to the local endpoint A.
fn receiving(kind: Kind, size: u32) -> Vec<Row> {
    let row = |packet| Row {
        verdict: Verdict::Redirect,
        ..row("grown", program::UNDERLAY_RX).packet(packet)
    };
    in_world(
        world(kind, size),
        spread(size)
            .map(|number| match kind {
                Kind::Endpoints => paths::arriving(PLAIN, &paths::datagram(host(number), A, 64)),
                Kind::Peers => {
                    let frame = paths::datagram(host(number), A, 64);
                    paths::arriving_from(address(VTEPS, number), PLAIN, &frame)
                }
                Kind::Networks => paths::arriving(FIRST_VNI + number, &paths::datagram(C, A, 64)),
                Kind::Flows => {
                    paths::arriving(PLAIN, &paths::flow(C, A, 10_000 + number as u16, 64))
                }
            })
            .map(row)
            .collect(),
    )
}

/// The world is large, and only that of the first row is used.
fn in_world(world: World, mut rows: Vec<Row>) -> Vec<Row> {
    if let Some(first) = rows.first_mut() {
        first.world = world;
    }
    rows
}

/// The usual world and `size` of what grows.
fn world(kind: Kind, size: u32) -> World {
    let mut world = World::default();
    match kind {
        Kind::Endpoints => {
            for number in 0..size {
                // Half of the map each would not fit: the measured networks share them.
                world.remote(
                    if number % 2 == 0 { PLAIN } else { SECRET },
                    host(number),
                    PEER4,
                );
            }
            // Those that are measured are in both.
            for number in spread(size) {
                world.remote(PLAIN, host(number), PEER4);
                world.remote(SECRET, host(number), PEER4);
            }
        }
        Kind::Peers => {
            let example = world.maps.peers[&PeerKey { peer: PEER4 }];
            for number in 0..size {
                let (peer, vtep) = (100 + number, mapped(address(VTEPS, number)));
                world.vtep(vtep, VtepRole::Remote, peer);
                let entry = Peer {
                    vtep: mapped(REMOTE4),
                    ..example
                };
                world.maps.peers.insert(PeerKey { peer }, entry);
                world.remote(PLAIN, host(number), peer);
                world.remote(SECRET, host(number), peer);
            }
        }
        Kind::Networks => {
            let example = world.maps.networks[&NetworkKey { vni: PLAIN }];
            for number in 0..size {
                let vni = FIRST_VNI + number;
                world
                    .maps
                    .networks
                    .insert(NetworkKey { vni }, Network { ..example });
                world.local(vni, A, device::A);
                world.remote(vni, C, PEER4);
            }
        }
        Kind::Flows => {}
    }
    world
}

fn host(number: u32) -> Host {
    let [_, b, c, d] = number.to_be_bytes();
    let mac: Mac = [2, 0x42, 0x0b, b, c, d];
    let mut ip6 = A.ip6;
    ip6[12..].copy_from_slice(&[1, b, c, d]);
    Host {
        mac,
        ip4: address(11, number),
        ip6,
    }
}

fn address(first: u8, number: u32) -> Ip4 {
    let [_, b, c, d] = number.to_be_bytes();
    [first, b, c, d]
}
