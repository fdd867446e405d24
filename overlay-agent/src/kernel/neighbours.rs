//! Neighbour entries that the kernel keeps resolved without traffic (`NTF_EXT_MANAGED`, kernel
//! 5.16), so that a packet sent straight to the NIC always finds the next hop's MAC.

use std::{collections::BTreeSet, net::IpAddr};

use futures_util::TryStreamExt as _;
use overlay_ebpf::abi::MacAddr;
use rtnetlink::packet_route::{
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
    },
    route::RouteProtocol,
};

use super::{
    links,
    rtnl::{self, Handle, Tolerate as _},
};
use crate::dataplane::objects::Neighbour;

/// `NDA_PROTOCOL` of our entries: the kernel keeps it and says it back, so that managed entries of
/// other software are told apart. No other software of `/etc/iproute2/rt_protos` uses the number.
pub const PROTOCOL: u8 = 0x6f;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] rtnl::Error),
    #[error(transparent)]
    Link(#[from] links::Error),
}

/// A neighbour entry of ours and what the kernel knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub neighbour: Neighbour,
    /// `None` while the kernel has no answer.
    pub mac: Option<MacAddr>,
}

/// Our entries.
pub async fn observe(handle: &Handle) -> Result<BTreeSet<Neighbour>, Error> {
    Ok(resolutions(handle)
        .await?
        .into_iter()
        .map(|resolution| resolution.neighbour)
        .collect())
}

/// Our entries with the addresses found.
pub async fn resolutions(handle: &Handle) -> Result<Vec<Resolution>, Error> {
    let names: std::collections::BTreeMap<u32, String> = links::all(handle)
        .await?
        .into_values()
        .map(|device| (device.index, device.name))
        .collect();
    let messages: Vec<NeighbourMessage> = handle
        .inner()
        .neighbours()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| rtnl::Error::new("list neighbours", error))?;
    Ok(messages
        .iter()
        .filter_map(|message| {
            let entry = Entry::of(message)?;
            Some(Resolution {
                neighbour: Neighbour {
                    device: names.get(&message.header.ifindex)?.clone(),
                    address: entry.address,
                },
                mac: entry.mac,
            })
        })
        .collect())
}

/// Makes the kernel resolve the neighbour now and keep it so. What it knows already it keeps.
pub async fn add(handle: &Handle, neighbour: &Neighbour) -> Result<(), Error> {
    let index = links::index(handle, &neighbour.device).await?;
    let mut request = handle
        .inner()
        .neighbours()
        .add(index, neighbour.address)
        .state(NeighbourState::None);
    request.message_mut().attributes.extend([
        NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ]);
    // Replacing changes no state (`__neigh_update` in net/core/neighbour.c), but without it an
    // entry that traffic has made already is refused.
    request.replace().execute().await.map_err(|error| {
        rtnl::Error::new(
            format!(
                "keep neighbour {} on {} resolved",
                neighbour.address, neighbour.device
            ),
            error,
        )
    })?;
    Ok(())
}

/// Removes an entry; one that is not there, or whose device is gone, is removed already.
pub async fn remove(handle: &Handle, neighbour: &Neighbour) -> Result<(), Error> {
    let Some(device) = links::find(handle, &neighbour.device).await? else {
        return Ok(());
    };
    let mut message = NeighbourMessage::default();
    message.header.family = if neighbour.address.is_ipv4() {
        rtnetlink::packet_route::AddressFamily::Inet
    } else {
        rtnetlink::packet_route::AddressFamily::Inet6
    };
    message.header.ifindex = device.index;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match neighbour.address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
    handle
        .inner()
        .neighbours()
        .del(message)
        .execute()
        .await
        .tolerate(
            || {
                format!(
                    "remove neighbour {} on {}",
                    neighbour.address, neighbour.device
                )
            },
            &[libc::ENOENT, libc::ENODEV],
        )?;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    address: IpAddr,
    mac: Option<MacAddr>,
}

impl Entry {
    /// `None` unless the entry is managed and ours.
    fn of(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        let mut managed = false;
        let mut ours = false;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                    address = Some(IpAddr::V4(*found));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                    address = Some(IpAddr::V6(*found));
                }
                NeighbourAttribute::LinkLayerAddress(found) => {
                    mac = found.as_slice().try_into().ok().map(MacAddr);
                }
                NeighbourAttribute::ExtFlags(flags) => {
                    managed = flags.contains(NeighbourExtFlags::Managed);
                }
                NeighbourAttribute::Protocol(protocol) => {
                    ours = u8::from(*protocol) == PROTOCOL;
                }
                _ => {}
            }
        }
        (managed && ours).then_some(())?;
        Some(Self {
            address: address?,
            mac,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_entry_of_other_software_is_not_ours() {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())),
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        ];
        assert_eq!(Entry::of(&message), None);
        message
            .attributes
            .push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        assert_eq!(
            Entry::of(&message),
            Some(Entry {
                address: [10, 0, 0, 1].into(),
                mac: None
            })
        );
    }
}
