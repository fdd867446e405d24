//! The underlay route to a peer's VTEP.

use std::{net::IpAddr, pin::pin};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
    },
};

use super::{
    links,
    rtnl::{self, Handle},
};
use crate::dataplane::objects::UnderlayRoute;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Link(#[from] links::Error),
    #[error(transparent)]
    Rtnl(#[from] rtnl::Error),
    /// The kernel has no route.
    #[error(
        "no route to VTEP {vtep} from {source_vtep}: {reason}; add one (`ip route get {vtep} from {source_vtep}` shows what the kernel finds)"
    )]
    Unreachable {
        vtep: IpAddr,
        source_vtep: IpAddr,
        reason: String,
    },
    #[error("VTEP {vtep} and local VTEP {source_vtep} are not of one address family")]
    Families { vtep: IpAddr, source_vtep: IpAddr },
}

/// What the kernel would do now with a packet from the local VTEP `source` to `vtep`.
///
/// The answer is the resolved route, not the table entry: of several next hops the one that the
/// kernel picks for this pair, and the MTU that path-MTU discovery has learnt (RFC 1191, RFC 8201).
pub async fn resolve(
    handle: &Handle,
    vtep: IpAddr,
    source: IpAddr,
) -> Result<UnderlayRoute, Error> {
    if vtep.is_ipv4() != source.is_ipv4() {
        return Err(Error::Families {
            vtep,
            source_vtep: source,
        });
    }
    let unreachable = |reason: String| Error::Unreachable {
        vtep,
        source_vtep: source,
        reason,
    };
    let mut routes = pin!(handle.inner().route().get(question(vtep, source)).execute());
    let route = routes
        .try_next()
        .await
        .map_err(|error| unreachable(refusal(error)))?
        .ok_or_else(|| unreachable("the kernel gave no answer".to_owned()))?;
    if route.header.kind != RouteType::Unicast {
        return Err(unreachable(format!(
            "the route is of type {:?}",
            route.header.kind
        )));
    }
    let answer = Answer::of(&route);
    let index = answer
        .device
        .ok_or_else(|| unreachable("the route names no device".to_owned()))?;
    let device = match links::name_of(handle, index).await? {
        Some(name) => links::get(handle, &name).await?,
        None => return Err(unreachable(format!("its device {index} is gone"))),
    };
    if device.loopback {
        return Err(unreachable("the address is one of this host".to_owned()));
    }
    if links::OURS.contains(&device.name.as_str()) {
        return Err(unreachable(format!(
            "the route leads into the overlay's own device {}",
            device.name
        )));
    }
    Ok(UnderlayRoute {
        device: device.name,
        next_hop: answer.gateway.unwrap_or(vtep),
        mtu: answer.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu)),
    })
}

fn question(vtep: IpAddr, source: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let bits = if vtep.is_ipv4() { 32 } else { 128 };
    message.header.address_family = if vtep.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.destination_prefix_length = bits;
    message.header.source_prefix_length = bits;
    message.attributes = vec![
        RouteAttribute::Destination(vtep.into()),
        RouteAttribute::Source(source.into()),
    ];
    message
}

fn refusal(error: rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            let errno = message.to_io();
            match errno.raw_os_error() {
                // The kernel's answer to a source that is not its own.
                Some(libc::EINVAL) => {
                    "the local VTEP is not an address of this host, or a blackhole route matches"
                        .to_owned()
                }
                _ => errno.to_string(),
            }
        }
        other => rtnl::Error::new("resolve the route", other).to_string(),
    }
}

/// The routes of this host's main table in both families, each with the device that it leads to. Default
/// routes lead everywhere and are left out; so are those of the overlay's own devices.
pub async fn main_table() -> Result<Vec<(IpNet, String)>, Error> {
    let handle = Handle::open()?;
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let mut routes = pin!(handle.inner().route().get(message).execute());
        let list = |error| rtnl::Error::new("list the routes", error);
        while let Some(route) = routes.try_next().await.map_err(list)? {
            let Some(net) = destination(&route) else {
                continue;
            };
            let device = match Answer::of(&route).device {
                Some(index) => links::name_of(&handle, index).await?,
                None => None,
            };
            let device = device.unwrap_or_else(|| "no device".into());
            if !links::OURS.contains(&device.as_str()) {
                found.push((net, device));
            }
        }
    }
    Ok(found)
}

/// Where a route of the main table leads, unless it is a default route.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    if table.unwrap_or_else(|| route.header.table.into()) != main
        || route.header.destination_prefix_length == 0
    {
        return None;
    }
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
            _ => None,
        })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    device: Option<u32>,
    gateway: Option<IpAddr>,
    mtu: Option<u32>,
}

impl Answer {
    fn of(route: &RouteMessage) -> Self {
        let mut answer = Self::default();
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => answer.device = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(gateway))
                | RouteAttribute::Via(RouteVia::Inet(gateway)) => {
                    answer.gateway = Some((*gateway).into());
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
                | RouteAttribute::Via(RouteVia::Inet6(gateway)) => {
                    answer.gateway = Some((*gateway).into());
                }
                RouteAttribute::Metrics(metrics) => {
                    answer.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_of_the_main_table_lead_somewhere() {
        let route = |table: u8, length, address: Option<[u8; 4]>| {
            let mut route = RouteMessage::default();
            route.header.table = table;
            route.header.destination_prefix_length = length;
            let address =
                address.map(|v4| RouteAttribute::Destination(RouteAddress::Inet(v4.into())));
            route.attributes.extend(address);
            destination(&route)
        };
        let main = RouteHeader::RT_TABLE_MAIN;
        let net = "192.0.2.0/24".parse().ok();
        assert_eq!(route(main, 24, Some([192, 0, 2, 0])), net);
        assert_eq!(route(255, 24, Some([192, 0, 2, 0])), None);
        assert_eq!(route(main, 0, None), None);
    }

    #[test]
    fn ipv4_route_through_an_ipv6_gateway_keeps_the_gateway() {
        let mut route = RouteMessage::default();
        route.attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())),
            RouteAttribute::Metrics(vec![RouteMetric::Lock(0), RouteMetric::Mtu(1400)]),
        ];
        assert_eq!(
            Answer::of(&route),
            Answer {
                device: Some(3),
                gateway: Some("fe80::1".parse().unwrap()),
                mtu: Some(1400)
            }
        );
    }
}
