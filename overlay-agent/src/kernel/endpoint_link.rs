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
    let mut endpoints = BTreeMap::new();
    for (name, device) in links::all(handle).await? {
        if is_endpoint(&device) {
            endpoints.insert(name, examine(&device).await?);
        }
    }
    Ok(endpoints)
}

fn is_endpoint(device: &Device) -> bool {
    device.name.starts_with(endpoint_name::PREFIX)
        && matches!(device.kind, Kind::Veth { .. })
        && device
            .alias
            .as_ref()
            .is_none_or(|alias| Alias::parse(alias).is_some())
}

async fn examine(device: &Device) -> Result<EndpointLink, Error> {
    let Some(Alias { interface, netns }) = device.alias.as_deref().and_then(Alias::parse) else {
        return Ok(unknown(device, "it was left half made".to_owned()));
    };
    let lost = |why: String| EndpointLink {
        netns: netns.clone(),
        interface: interface.clone(),
        ..unknown(device, why)
    };
    let inside = match Netns::open(&netns) {
        Ok(open) => inside::examine(&open, device).await?,
        Err(error) => return Ok(lost(error.to_string())),
    };
    let Some(inside) = inside else {
        return Ok(lost("its other end is not in its namespace".to_owned()));
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
