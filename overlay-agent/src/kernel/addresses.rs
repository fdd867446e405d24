//! IP addresses of devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};

use super::{
    links,
    rtnl::{self, Handle, Tolerate as _},
};
use crate::dataplane::objects::{DeviceAddress, VtepDevice};

/// `IFA_PROTO` (kernel 5.18) of addresses that we set: the kernel keeps it and says it back, so that
/// those a container's own software sets are told apart.
const PROTOCOL: AddressProtocol = AddressProtocol::Other(0x6f);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] rtnl::Error),
    #[error(transparent)]
    Link(#[from] links::Error),
}

/// Addresses that we set on our own devices.
pub async fn observe(
    handle: &Handle,
    devices: &BTreeMap<String, links::Device>,
) -> Result<BTreeSet<DeviceAddress>, Error> {
    let ours: BTreeMap<u32, &str> = links::OURS
        .iter()
        .filter_map(|name| Some((devices.get(*name)?.index, *name)))
        .collect();
    Ok(all(handle)
        .await?
        .into_iter()
        .filter(|found| found.set_by_us)
        .filter_map(|found| {
            Some(DeviceAddress {
                device: (*ours.get(&found.index)?).to_owned(),
                address: found.address,
                prefix_length: found.prefix_length,
            })
        })
        .collect())
}

/// Adds an address with the scope of the host; one that is there is added already.
pub async fn add(handle: &Handle, wanted: &DeviceAddress) -> Result<(), Error> {
    let index = links::index(handle, &wanted.device).await?;
    set(
        handle,
        index,
        &wanted.device,
        (wanted.address, wanted.prefix_length),
        AddressScope::Host,
    )
    .await
}

/// Removes an address; one that is not there, or whose device is gone, is removed already.
pub async fn remove(handle: &Handle, address: &DeviceAddress) -> Result<(), Error> {
    let Some(device) = links::find(handle, &address.device).await? else {
        return Ok(());
    };
    unset(
        handle,
        device.index,
        &device.name,
        (address.address, address.prefix_length),
    )
    .await
}

/// The device that holds an address of this host; `None` if none does.
pub async fn holder_of(handle: &Handle, address: IpAddr) -> Result<Option<VtepDevice>, Error> {
    let found = all(handle).await?;
    let Some(found) = found.iter().find(|found| found.address == address) else {
        return Ok(None);
    };
    let devices = links::all(handle).await?;
    let holder = devices
        .into_values()
        .find(|device| device.index == found.index);
    Ok(holder.map(|device| VtepDevice {
        device: device.name,
        mtu: device.mtu,
    }))
}

/// What we set on one device.
pub(super) async fn set_on(handle: &Handle, index: u32) -> Result<BTreeSet<(IpAddr, u8)>, Error> {
    Ok(all(handle)
        .await?
        .into_iter()
        .filter(|found| found.set_by_us && found.index == index)
        .map(|found| (found.address, found.prefix_length))
        .collect())
}

/// Sets an address. No duplicate-address detection: its probes would be answered by nobody, and the
/// address could not be used for a second.
pub(super) async fn set(
    handle: &Handle,
    index: u32,
    device: &str,
    (address, prefix_length): (IpAddr, u8),
    scope: AddressScope,
) -> Result<(), Error> {
    let mut request = handle
        .inner()
        .address()
        .add(index, address, prefix_length)
        .replace();
    let message = request.message_mut();
    message.header.scope = scope;
    message.attributes.extend([
        AddressAttribute::Flags(AddressFlags::Nodad),
        AddressAttribute::Protocol(PROTOCOL),
    ]);
    request.execute().await.map_err(|error| {
        rtnl::Error::new(
            format!("add address {address}/{prefix_length} to {device}"),
            error,
        )
    })?;
    Ok(())
}

pub(super) async fn unset(
    handle: &Handle,
    index: u32,
    device: &str,
    (address, prefix_length): (IpAddr, u8),
) -> Result<(), Error> {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() {
        rtnetlink::packet_route::AddressFamily::Inet
    } else {
        rtnetlink::packet_route::AddressFamily::Inet6
    };
    message.header.index = index;
    message.header.prefix_len = prefix_length;
    message.attributes.push(AddressAttribute::Local(address));
    handle
        .inner()
        .address()
        .del(message)
        .execute()
        .await
        .tolerate(
            || format!("remove address {address}/{prefix_length} from {device}"),
            &[libc::EADDRNOTAVAIL, libc::ENODEV],
        )?;
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    index: u32,
    address: IpAddr,
    prefix_length: u8,
    set_by_us: bool,
}

impl Found {
    fn of(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut plain = None;
        let mut set_by_us = false;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                // Of a point-to-point link the other end's; else the same, and IPv6 has only it.
                AddressAttribute::Address(address) => plain = Some(*address),
                AddressAttribute::Protocol(protocol) => set_by_us = *protocol == PROTOCOL,
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            address: local.or(plain)?,
            prefix_length: message.header.prefix_len,
            set_by_us,
        })
    }
}

async fn all(handle: &Handle) -> Result<Vec<Found>, Error> {
    let messages: Vec<AddressMessage> = handle
        .inner()
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| rtnl::Error::new("list addresses", error))?;
    Ok(messages.iter().filter_map(Found::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_end_of_a_point_to_point_link_is_the_address() {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 32;
        message.attributes = vec![
            AddressAttribute::Address("10.0.0.2".parse().unwrap()),
            AddressAttribute::Local("10.0.0.1".parse().unwrap()),
        ];
        let found = Found::of(&message).unwrap();
        assert_eq!(found.address, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert!(!found.set_by_us);
    }
}
