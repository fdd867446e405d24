//! The veth pair of a local endpoint: one end in the container, under the name and with the
//! addresses the container sees; the other on the host, bare, behind `endpoint_tx`.

use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};

use overlay_ebpf::abi::MacAddr;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth, LinkAttribute},
};

use self::{alias::Alias, inside::Inside};
use super::{
    addresses,
    links::{self, Device, Kind},
    netns::{self, Netns},
    rtnl::{self, Handle, Tolerate as _},
    sysctl,
};
use crate::dataplane::{desired::Route, endpoint_name, objects::EndpointLink};

mod alias;
mod inside;
mod routes;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] rtnl::Error),
    #[error(transparent)]
    Link(#[from] links::Error),
    #[error(transparent)]
    Address(#[from] addresses::Error),
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// The container would be the host.
    #[error("endpoint {device} cannot stand in the host's own network namespace ({netns})")]
    HostNetns { device: String, netns: String },
    #[error(
        "{netns} has an interface {interface} already: remove it, or give the endpoint another interface name"
    )]
    InterfaceTaken { interface: String, netns: String },
    /// The name of the host-side device is another's, or another endpoint's.
    #[error(
        "device {device} is {found}, not the host side of this endpoint: remove it (`ip link delete {device}`)"
    )]
    DeviceTaken { device: String, found: String },
    /// Another has a route there.
    #[error(
        "{netns} has another route to the network of {route} already: remove it (`ip route delete`), or leave this one out"
    )]
    RouteTaken { route: Route, netns: String },
    #[error("the namespace and interface of an endpoint must fit {limit} bytes together, {length} do not: give the namespace a shorter path", limit = alias::LIMIT)]
    AliasTooLong { length: usize },
    #[error("cannot switch GRO on for {interface} in {netns}: {error}")]
    Gro {
        interface: String,
        netns: String,
        error: io::Error,
    },
}

/// Settings of the host side, below `net/`: until `endpoint_tx` is attached, and should it ever be
/// gone, nothing that a container sends may reach the host's IP stack. No address is on the device
/// and no route leads there, so strict reverse-path filtering refuses every source.
const HOST_SIDE: [(&str, &str, &str); 7] = [
    ("ipv6", "disable_ipv6", "1"),
    ("ipv4", "forwarding", "0"),
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "arp_ignore", "8"),
    ("ipv4", "accept_local", "0"),
    ("ipv4", "drop_unicast_in_l2_multicast", "1"),
    ("ipv4", "drop_gratuitous_arp", "1"),
];

/// The endpoint pairs of this host, by host-side device.
///
/// What was changed on a pair, or cannot be examined any more, is in [`EndpointLink::altered`].
pub async fn observe(handle: &Handle) -> Result<BTreeMap<String, EndpointLink>, Error> {
    observe_beside(&links::all(handle).await?, Seen::default()).await
}

/// As [`observe`] among these devices, without a look into the namespaces that were looked into
/// already.
pub async fn observe_beside(
    devices: &BTreeMap<String, Device>,
    mut seen: Seen,
) -> Result<BTreeMap<String, EndpointLink>, Error> {
    let mut endpoints = BTreeMap::new();
    for (name, device) in devices {
        if is_endpoint(device) {
            let inside = match seen.take(device) {
                Some(inside) => inside,
                None => look_inside(device).await?,
            };
            endpoints.insert(name.clone(), endpoint(device, inside)?);
        }
    }
    Ok(endpoints)
}

/// Container's ends that were found as they should be, for a look that is not done at one go: looking
/// into a thousand namespaces takes seconds.
#[derive(Debug, Default)]
pub struct Seen {
    inside: BTreeMap<String, (Device, Found)>,
    /// The host sides that are still to be looked behind; `None` before they are listed.
    left: Option<Vec<Device>>,
}

impl Seen {
    fn take(&mut self, device: &Device) -> Option<Found> {
        let (seen, inside) = self.inside.remove(&device.name)?;
        is_same(&seen, device).then_some(inside)
    }

    /// The endpoint is changed, and has to be looked at again.
    pub fn forget(&mut self, device: &str) {
        self.inside.remove(device);
    }
}

/// Of the host side itself nothing is kept.
fn is_same(seen: &Device, now: &Device) -> bool {
    (seen.index, &seen.kind, &seen.alias) == (now.index, &now.kind, &now.alias)
}

/// Looks into so many more namespaces; whether none is left. It may be dropped, and goes on where it
/// was.
pub async fn look(handle: &Handle, seen: &mut Seen, at_most: usize) -> Result<bool, Error> {
    let left = match &mut seen.left {
        Some(left) => left,
        left => {
            let devices = links::all(handle).await?.into_values();
            left.insert(devices.filter(is_endpoint).collect())
        }
    };
    for _ in 0..at_most {
        let Some(device) = left.last() else {
            break;
        };
        let inside = look_inside(device).await?;
        let Some(device) = left.pop() else {
            break;
        };
        // What is not as it should be is looked at once more before it is told.
        if matches!(&inside, Found::Inside(_, inside) if inside.altered.is_none()) {
            seen.inside.insert(device.name.clone(), (device, inside));
        }
    }
    Ok(left.is_empty())
}

fn is_endpoint(device: &Device) -> bool {
    device.name.starts_with(endpoint_name::PREFIX)
        && matches!(device.kind, Kind::Veth { .. })
        && device
            .alias
            .as_ref()
            .is_none_or(|alias| Alias::parse(alias).is_some())
}

/// What can be said of the container's end of a pair.
#[derive(Debug)]
enum Found {
    HalfMade,
    Lost(Alias, String),
    Inside(Alias, Inside),
}

async fn look_inside(device: &Device) -> Result<Found, Error> {
    let Some(alias) = device.alias.as_deref().and_then(Alias::parse) else {
        return Ok(Found::HalfMade);
    };
    let inside = match Netns::open(&alias.netns) {
        Ok(open) => inside::examine(&open, device).await?,
        Err(error) => return Ok(Found::Lost(alias, error.to_string())),
    };
    Ok(match inside {
        Some(inside) => Found::Inside(alias, inside),
        None => Found::Lost(alias, "its other end is not in its namespace".to_owned()),
    })
}

/// The pair, with its host side as it is now.
fn endpoint(device: &Device, found: Found) -> Result<EndpointLink, Error> {
    let (Alias { netns, .. }, inside) = match found {
        Found::HalfMade => return Ok(unknown(device, "it was left half made".to_owned())),
        Found::Lost(Alias { netns, interface }, why) => {
            return Ok(EndpointLink {
                netns,
                interface,
                ..unknown(device, why)
            });
        }
        Found::Inside(alias, inside) => (alias, inside),
    };
    let Inside {
        interface,
        mac,
        mtu,
        addresses,
        routes,
        altered,
    } = inside;
    let altered = match altered {
        Some(altered) => Some(altered),
        None => host_side_altered(device, mtu)?,
    };
    Ok(EndpointLink {
        netns,
        interface,
        mac,
        addresses,
        routes,
        mtu,
        altered,
    })
}

/// An endpoint of which nothing but the host side is known.
fn unknown(device: &Device, why: String) -> EndpointLink {
    EndpointLink {
        netns: crate::dataplane::desired::NetnsRef::Path(Default::default()),
        interface: String::new(),
        mac: MacAddr([0; 6]),
        addresses: Default::default(),
        routes: Default::default(),
        mtu: device.mtu,
        altered: Some(why),
    }
}

fn host_side_altered(device: &Device, mtu: u32) -> Result<Option<String>, Error> {
    let name = &device.name;
    if !device.up {
        return Ok(Some(format!("{name} is down")));
    }
    if device.master {
        return Ok(Some(format!("{name} was put into a bridge, bond or VRF")));
    }
    if device.mtu != mtu {
        return Ok(Some(format!("{name} has MTU {}", device.mtu)));
    }
    for (path, value) in host_side_settings(name) {
        if let Some(found) = sysctl::read(&path)?
            && found != value
        {
            return Ok(Some(format!("{path} is {found}")));
        }
    }
    Ok(None)
}

fn host_side_settings(device: &str) -> impl Iterator<Item = (String, &'static str)> {
    HOST_SIDE
        .into_iter()
        .map(move |(family, name, value)| (format!("net/{family}/conf/{device}/{name}"), value))
}

/// Makes the pair be as `wanted`: creates it, or repairs it in place. What was created and cannot be
/// completed is removed again, both ends.
pub async fn create(handle: &Handle, device: &str, wanted: &EndpointLink) -> Result<(), Error> {
    let netns = Netns::open(&wanted.netns)?;
    if netns.id() == Netns::current()?.id() {
        return Err(Error::HostNetns {
            device: device.to_owned(),
            netns: netns.to_string(),
        });
    }
    let alias = Alias {
        interface: wanted.interface.clone(),
        netns: wanted.netns.clone(),
    };
    let alias = alias.to_string();
    if alias.len() > alias::LIMIT {
        return Err(Error::AliasTooLong {
            length: alias.len(),
        });
    }
    if let Some(existing) = links::find(handle, device).await? {
        if !is_endpoint(&existing) {
            return Err(Error::DeviceTaken {
                device: device.to_owned(),
                found: existing.kind.to_string(),
            });
        }
        let there = inside::examine(&netns, &existing).await?;
        if there.is_some_and(|inside| inside.interface == wanted.interface) {
            return complete(handle, &existing, &alias, &netns, wanted).await;
        }
        detach(handle, device).await?;
    }
    add(handle, device, &netns, wanted).await?;
    let completed = match links::get(handle, device).await {
        Ok(made) => complete(handle, &made, &alias, &netns, wanted).await,
        Err(error) => Err(error.into()),
    };
    if completed.is_err() {
        // The first error says why; a device left behind shows when it is next observed.
        let _ = detach(handle, device).await;
    }
    completed
}

/// One request makes both ends, the other one in its namespace from its first instant: no name
/// stands on the host, and none is left when it fails.
async fn add(
    handle: &Handle,
    device: &str,
    netns: &Netns,
    wanted: &EndpointLink,
) -> Result<(), Error> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(wanted.interface.as_str())
        .address(wanted.mac.0.to_vec())
        .mtu(wanted.mtu)
        .setns_by_fd(std::os::fd::AsFd::as_fd(netns).as_raw_fd())
        .build();
    let message = LinkVeth::new(device, &wanted.interface)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(wanted.mtu)
        .build();
    handle
        .inner()
        .link()
        .add(message)
        .execute()
        .await
        .tolerate(
            || {
                format!(
                    "create endpoint {device} with {} in {netns}",
                    wanted.interface
                )
            },
            &[libc::EEXIST],
        )?
        // The host side's name was free a moment ago.
        .ok_or_else(|| Error::InterfaceTaken {
            interface: wanted.interface.clone(),
            netns: netns.to_string(),
        })
}

/// The host side comes up last: the container sends nothing before both are complete.
async fn complete(
    handle: &Handle,
    device: &Device,
    alias: &str,
    netns: &Netns,
    wanted: &EndpointLink,
) -> Result<(), Error> {
    let name = &device.name;
    for (path, value) in host_side_settings(name) {
        if sysctl::read(&path)?.is_some() {
            sysctl::write(&path, value)?;
        }
    }
    let message = LinkUnspec::new_with_index(device.index)
        .nocontroller()
        .mtu(wanted.mtu)
        .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
        .build();
    links::change(handle, format!("set up device {name}"), message).await?;
    inside::complete(netns, device, wanted).await?;
    let up = LinkUnspec::new_with_index(device.index).up().build();
    links::change(handle, format!("bring device {name} up"), up).await?;
    Ok(())
}

/// Deletes the pair, and with it everything in the container; one that is not there is gone already.
pub async fn detach(handle: &Handle, device: &str) -> Result<(), Error> {
    Ok(links::delete(handle, device).await?)
}
