//! Routes in a container.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};

use crate::{
    dataplane::desired::Route,
    kernel::rtnl::{self, Handle, Tolerate as _},
};

/// Of the routes that we set: the kernel keeps it and says it back, so that those of the container's
/// own software are told apart. No name stands for it in `/etc/iproute2/rt_protos`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6f);

/// What we set on one device.
pub(super) async fn set_on(handle: &Handle, index: u32) -> Result<BTreeSet<Route>, rtnl::Error> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let messages: Vec<RouteMessage> = handle
            .inner()
            .route()
            .get(question)
            .execute()
            .try_collect()
            .await
            .map_err(|error| rtnl::Error::new("list routes", error))?;
        found.extend(messages.iter().filter_map(|message| ours(message, index)));
    }
    Ok(found)
}

/// Sets a route; `false` if another has one to the same network.
pub(super) async fn set(
    handle: &Handle,
    index: u32,
    device: &str,
    route: &Route,
) -> Result<bool, rtnl::Error> {
    let added = handle
        .inner()
        .route()
        .add(message(index, route))
        .execute()
        .await
        .tolerate(
            || format!("add route {route} over {device}"),
            &[libc::EEXIST],
        )?;
    Ok(added.is_some())
}

/// Removes a route of ours; one that is not there is removed already.
pub(super) async fn unset(
    handle: &Handle,
    index: u32,
    device: &str,
    route: &Route,
) -> Result<(), rtnl::Error> {
    handle
        .inner()
        .route()
        .del(message(index, route))
        .execute()
        .await
        .tolerate(
            || format!("remove route {route} over {device}"),
            &[libc::ESRCH],
        )?;
    Ok(())
}

fn message(index: u32, route: &Route) -> RouteMessage {
    let (address, length) = route.to;
    let mut message = RouteMessage::default();
    message.header.address_family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.destination_prefix_length = length;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Unicast;
    // IPv6 knows no scopes.
    message.header.scope = if address.is_ipv4() && route.via.is_none() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    message.attributes = vec![
        RouteAttribute::Destination(address.into()),
        RouteAttribute::Oif(index),
    ];
    if let Some(via) = route.via {
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    message
}

/// The route, if it is one that we set on the device.
fn ours(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    // A clone is what path-MTU discovery or a redirect has learnt for one destination.
    if header.protocol != PROTOCOL
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let mut address = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut via, mut device) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => address = ip(to)?,
            RouteAttribute::Gateway(gateway) => via = Some(ip(gateway)?),
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    (device == Some(index)).then_some(Route {
        to: (address, header.destination_prefix_length),
        via,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, length: u8, via: Option<&str>) -> Route {
        Route {
            to: (to.parse().unwrap(), length),
            via: via.map(|via| via.parse().unwrap()),
        }
    }

    #[test]
    fn route_is_read_back_as_written() {
        for route in [
            route("10.9.0.0", 16, Some("10.1.0.254")),
            route("0.0.0.0", 0, None),
            route("::", 0, Some("fd00:1::fe")),
            route("fd00:9::", 32, None),
        ] {
            assert_eq!(ours(&message(7, &route), 7), Some(route), "{route}");
            assert_eq!(ours(&message(7, &route), 8), None, "{route}");
        }
    }

    #[test]
    fn route_of_another_or_learnt_is_not_ours() {
        let spoils: [fn(&mut RouteHeader); 3] = [
            |header| header.protocol = RouteProtocol::Static,
            |header| header.flags = RouteFlags::Cloned,
            |header| header.table = 7,
        ];
        for spoil in spoils {
            let mut message = message(7, &route("10.9.0.0", 16, Some("10.1.0.254")));
            spoil(&mut message.header);
            assert_eq!(ours(&message, 7), None);
        }
    }
}
