//! The container's end of an endpoint, seen and changed from inside its namespace.

use std::{collections::BTreeSet, net::IpAddr};

use overlay_ebpf::abi::MacAddr;
use rtnetlink::{LinkUnspec, packet_route::address::AddressScope};

use super::{Error, routes};
use crate::{
    dataplane::{desired::Route, objects::EndpointLink},
    kernel::{
        addresses, ethtool,
        links::{self, Device, Kind},
        netns::Netns,
        rtnl::Handle,
        sysctl,
    },
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) interface: String,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    /// Those that we set.
    pub(super) addresses: BTreeSet<(IpAddr, u8)>,
    /// Those that we set.
    pub(super) routes: BTreeSet<Route>,
    pub(super) altered: Option<String>,
}

/// The other end of `host_side`; `None` if it is not in the namespace.
pub(super) async fn examine(netns: &Netns, host_side: &Device) -> Result<Option<Inside>, Error> {
    let host_side = host_side.clone();
    netns
        .run(move || async move {
            let handle = Handle::open()?;
            let Some(device) = other_end(&handle, &host_side).await? else {
                return Ok(None);
            };
            let altered = if !device.up {
                Some(format!("{} is down in its namespace", device.name))
            } else if !matches!(ethtool::gro(&device.name), Ok(true)) {
                Some(format!("GRO of {} is off in its namespace", device.name))
            } else {
                None
            };
            Ok(Some(Inside {
                mac: device.mac.unwrap_or(MacAddr([0; 6])),
                mtu: device.mtu,
                addresses: addresses::set_on(&handle, device.index).await?,
                routes: routes::set_on(&handle, device.index).await?,
                interface: device.name,
                altered,
            }))
        })
        .await?
}

async fn other_end(handle: &Handle, host_side: &Device) -> Result<Option<Device>, Error> {
    let Kind::Veth { peer: Some(index) } = host_side.kind else {
        return Ok(None);
    };
    let Some(name) = links::name_of(handle, index).await? else {
        return Ok(None);
    };
    // Indices are of one namespace: another's device may have this one, but not point back.
    let device = links::find(handle, &name).await?;
    Ok(device.filter(|device| {
        device.index == index
            && matches!(device.kind, Kind::Veth { peer } if peer == Some(host_side.index))
    }))
}

/// Makes the container's end be as wanted, and brings it and loopback up.
pub(super) async fn complete(
    netns: &Netns,
    host_side: &Device,
    wanted: &EndpointLink,
) -> Result<(), Error> {
    let (host_side, wanted, name) = (host_side.clone(), wanted.clone(), netns.to_string());
    netns
        .run(move || async move {
            let handle = Handle::open()?;
            let interface = &wanted.interface;
            let device = links::get(&handle, interface).await?;
            if other_end(&handle, &host_side).await?.as_ref() != Some(&device) {
                return Err(Error::InterfaceTaken {
                    interface: interface.clone(),
                    netns: name,
                });
            }
            let index = device.index;
            if device.mac != Some(wanted.mac) || device.mtu != wanted.mtu {
                let message = LinkUnspec::new_with_index(index)
                    .address(wanted.mac.0.to_vec())
                    .mtu(wanted.mtu)
                    .build();
                let action = format!("set MAC and MTU of {interface} in {name}");
                links::change(&handle, action, message).await?;
            }
            ethtool::set_gro(interface, true).map_err(|error| Error::Gro {
                interface: interface.clone(),
                netns: name.clone(),
                error,
            })?;
            for device in ["lo", interface] {
                let index = links::index(&handle, device).await?;
                let up = LinkUnspec::new_with_index(index).up().build();
                links::change(&handle, format!("bring {device} up in {name}"), up).await?;
            }
            set_addresses(&handle, index, &wanted).await?;
            set_routes(&handle, index, &name, &wanted).await
        })
        .await?
}

/// After the interface is up: going down takes IPv6 addresses away.
async fn set_addresses(handle: &Handle, index: u32, wanted: &EndpointLink) -> Result<(), Error> {
    let interface = &wanted.interface;
    if wanted
        .addresses
        .iter()
        .any(|(address, _)| address.is_ipv6())
    {
        // Container engines switch IPv6 off where they gave no IPv6 address themselves.
        let switch = format!("net/ipv6/conf/{interface}/disable_ipv6");
        if sysctl::read(&switch)?.is_some() {
            sysctl::write(&switch, "0")?;
        }
    }
    let found = addresses::set_on(handle, index).await?;
    for address in found.difference(&wanted.addresses) {
        addresses::unset(handle, index, interface, *address).await?;
    }
    for address in wanted.addresses.difference(&found) {
        // The same address, set by another, would keep the other's mark.
        addresses::unset(handle, index, interface, *address).await?;
        addresses::set(handle, index, interface, *address, AddressScope::Universe).await?;
    }
    Ok(())
}

/// After the addresses: a next hop must be in one of their networks.
async fn set_routes(
    handle: &Handle,
    index: u32,
    netns: &str,
    wanted: &EndpointLink,
) -> Result<(), Error> {
    let interface = &wanted.interface;
    let found = routes::set_on(handle, index).await?;
    for route in found.difference(&wanted.routes) {
        routes::unset(handle, index, interface, route).await?;
    }
    for &route in wanted.routes.difference(&found) {
        if !routes::set(handle, index, interface, &route).await? {
            return Err(Error::RouteTaken {
                route,
                netns: netns.to_owned(),
            });
        }
    }
    Ok(())
}
