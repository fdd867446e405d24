use std::{collections::BTreeMap, time::Duration};

use overlay_ebpf::abi::{DropEvent, MacAddr};
use serde::Serialize;

use super::{Failure, Format, Outcome};
use crate::{
    kernel::{bpf::BpfError, host::Directories, links, rtnl},
    state::last_desired::LastDesired,
};

/// Without `--follow`: how long nothing comes until that was all.
const QUIET: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Wait for more until interrupted. Each event goes to one reader only
    #[arg(short, long)]
    follow: bool,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A sampled drop, in names.
#[derive(Debug, Serialize)]
struct Event<'a> {
    /// Since the machine started.
    nanoseconds: u64,
    reason: &'static str,
    text: &'static str,
    direction: &'static str,
    device: String,
    length: u32,
    /// `None` where the packet did not get far enough to have one.
    vni: Option<u32>,
    network: Option<&'a str>,
    /// `None` where it is not known.
    peer: Option<u32>,
    peer_name: Option<&'a str>,
    source_mac: String,
    destination_mac: String,
    ether_type: String,
}

pub async fn run(directories: &Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    let pinned = super::loaded(directories)?;
    let names = Names::of(directories)?;
    let rtnl = rtnl::Handle::open()?;
    let mut events = pinned.events()?;
    if arguments.format == Format::Table {
        println!("{}", HEADING);
    }
    loop {
        let next = if arguments.follow {
            tokio::select! {
                next = events.next() => next,
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    break;
                }
            }
        } else {
            match tokio::time::timeout(QUIET, events.next()).await {
                Ok(next) => next,
                Err(_) => break,
            }
        };
        let event = match next {
            Ok(event) => event,
            Err(error @ BpfError::InvalidEvent(_)) => {
                tracing::warn!(%error, "left out");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let device = links::name_of(&rtnl, event.ifindex).await?;
        let event = names.event(&event, device);
        match arguments.format {
            Format::Json => println!("{}", serde_json::to_string(&event)?),
            Format::Table => println!("{}", line(&event)),
        }
    }
    Ok(Outcome::Good)
}

/// Of the data plane that was applied last.
#[derive(Debug, Default)]
struct Names {
    networks: BTreeMap<u32, String>,
    peers: BTreeMap<u32, String>,
}

impl Names {
    fn of(directories: &Directories) -> Result<Self, Failure> {
        let Some(last) = LastDesired::read(&directories.run)? else {
            return Ok(Self::default());
        };
        let desired = last.desired()?;
        let networks = desired.networks.into_values();
        let peers = desired.peers.into_values();
        Ok(Self {
            networks: networks.map(|n| (n.vni.get(), n.name)).collect(),
            peers: peers.map(|peer| (peer.index.get(), peer.name)).collect(),
        })
    }

    fn event(&self, event: &DropEvent, device: Option<String>) -> Event<'_> {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = event.ethernet;
        let known = |number: u32| (number != 0).then_some(number);
        Event {
            nanoseconds: event.time,
            reason: event.reason.name(),
            text: event.reason.text(),
            direction: event.direction.name(),
            device: device.unwrap_or_else(|| format!("#{}", event.ifindex)),
            length: event.length,
            vni: known(event.vni),
            network: self.networks.get(&event.vni).map(String::as_str),
            peer: known(event.peer),
            peer_name: self.peers.get(&event.peer).map(String::as_str),
            source_mac: MacAddr([s0, s1, s2, s3, s4, s5]).to_string(),
            destination_mac: MacAddr([d0, d1, d2, d3, d4, d5]).to_string(),
            ether_type: format!("0x{:04x}", u16::from_be_bytes([t0, t1])),
        }
    }
}

const HEADING: &str = "SECONDS         REASON                     WHERE             DEVICE          \
                       LENGTH  NETWORK          PEER             SOURCE → DESTINATION, TYPE";

/// Events come one by one: columns have fixed widths.
fn line(event: &Event<'_>) -> String {
    let named = |name: Option<&str>, number: Option<u32>| match (name, number) {
        (Some(name), Some(number)) => format!("{name} ({number})"),
        (None, Some(number)) => number.to_string(),
        (_, None) => "–".to_owned(),
    };
    let time = Duration::from_nanos(event.nanoseconds);
    format!(
        "{:<15} {:<26} {:<17} {:<15} {:>6}  {:<16} {:<16} {} → {}, {}",
        format!("{}.{:06}", time.as_secs(), time.subsec_micros()),
        event.reason,
        event.direction,
        event.device,
        event.length,
        named(event.network, event.vni),
        named(event.peer_name, event.peer),
        event.source_mac,
        event.destination_mac,
        event.ether_type
    )
}

#[cfg(test)]
mod tests {
    use overlay_ebpf::abi::{Direction, DropReason};

    use super::*;

    fn example() -> DropEvent {
        DropEvent {
            time: 1_500_000_000,
            reason: DropReason::ALL[0],
            direction: Direction::ALL[0],
            ifindex: 3,
            length: 98,
            vni: 4097,
            peer: 0,
            ethernet: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x06],
            reserved: [0; 2],
        }
    }

    #[test]
    fn an_event_is_told_in_names_where_there_are_any() {
        let names = Names {
            networks: [(4097, "green".to_owned())].into(),
            peers: BTreeMap::new(),
        };
        let event = names.event(&example(), None);
        let text = line(&event);
        for part in [
            "1.500000",
            "green (4097)",
            "#3",
            "02:00:00:00:00:02 → 02:00:00:00:00:01, 0x0806",
            event.reason,
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["network"], "green");
        assert_eq!(json["peer"], serde_json::Value::Null);
    }
}
