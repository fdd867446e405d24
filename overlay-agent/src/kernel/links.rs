//! Our own devices, and what the host's devices are called.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use overlay_ebpf::abi::MacAddr;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, LinkXfrm,
    packet_route::link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage,
    },
};

pub use self::device::{Device, Kind, LinkLayer};
use super::rtnl::{self, Handle, Tolerate as _};
use crate::dataplane::{
    endpoint_name,
    objects::{GRO, HOP, Link, REENTRY, XFRM},
};

mod device;

/// Every device name of ours in the host's namespace, endpoint devices aside.
pub const OURS: [&str; 4] = [HOP, REENTRY, XFRM, GRO];

/// A `gso_max_size` below any worthwhile GSO packet, above the least that kernels accept.
const SEGMENTING_SIZE: u32 = 512;
/// The kernel's default (`GSO_LEGACY_MAX_SIZE`).
const GSO_SIZE: u32 = 65_536;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] rtnl::Error),
    /// Another's device bears one of our names.
    #[error(
        "device {name} is {found}, not ours: rename or delete it (`ip link delete {name}`), the overlay needs the name"
    )]
    Foreign { name: String, found: String },
    /// Decapsulation of our port would be shared with another vxlan device.
    #[error(
        "vxlan device {device} already uses UDP port {port}: delete it, or set another port for the overlay"
    )]
    PortTaken { device: String, port: u16 },
    #[error(
        "UDP port {port} is taken by a socket: stop its owner (`ss -ulnp`), or set another port for the overlay"
    )]
    PortBound { port: u16 },
    #[error("there is no device {0}")]
    Missing(String),
    #[error("device {0} has no Ethernet address")]
    NoMac(String),
    #[error("a device {name} described as altered cannot be created")]
    NotWanted { name: String },
}

/// Our devices as they are. A device that others changed is [`Link::Altered`]; another's device of
/// one of our names is an error.
pub async fn observe(handle: &Handle) -> Result<BTreeMap<String, Link>, Error> {
    ours(&all(handle).await?)
}

/// As [`observe`], among these.
pub fn ours(devices: &BTreeMap<String, Device>) -> Result<BTreeMap<String, Link>, Error> {
    let mut links = BTreeMap::new();
    for device in devices.values() {
        let name = device.name.as_str();
        if !OURS.contains(&name) {
            continue;
        }
        let link = match (&device.kind, name) {
            (Kind::Veth { peer }, HOP) => {
                let reentry = devices
                    .values()
                    .find(|other| Some(other.index) == *peer)
                    .filter(|other| other.name == REENTRY)
                    .ok_or_else(|| foreign(device))?;
                altered(device).or_else(|| altered(reentry)).map_or(
                    Link::Veth {
                        peer: REENTRY.to_owned(),
                        mtu: device.mtu.min(reentry.mtu),
                        segments_ipv6: device
                            .gso_max_size
                            .is_some_and(|size| size <= SEGMENTING_SIZE),
                    },
                    Link::Altered,
                )
            }
            (Kind::Veth { peer }, REENTRY) => {
                if !devices
                    .values()
                    .any(|other| Some(other.index) == *peer && other.name == HOP)
                {
                    return Err(foreign(device));
                }
                continue;
            }
            (Kind::Xfrm { if_id }, XFRM) => altered(device).map_or(
                Link::Xfrm {
                    if_id: *if_id,
                    mtu: device.mtu,
                },
                Link::Altered,
            ),
            (Kind::Vxlan(vxlan), GRO) if vxlan.external => altered(device)
                .or_else(|| {
                    (!vxlan.zero_checksum6_rx).then(|| format!("{GRO} refuses zero UDP checksums"))
                })
                .map_or(Link::VxlanExternal { port: vxlan.port }, Link::Altered),
            _ => return Err(foreign(device)),
        };
        links.insert(device.name.clone(), link);
    }
    Ok(links)
}

fn foreign(device: &Device) -> Error {
    Error::Foreign {
        name: device.name.clone(),
        found: device.kind.to_string(),
    }
}

/// What is not as [`create`] makes it, apart from what [`Link`] says.
fn altered(device: &Device) -> Option<String> {
    let name = &device.name;
    if !device.up {
        Some(format!("{name} is down"))
    } else if !matches!(device.addr_gen, None | Some(In6AddrGenMode::None)) {
        Some(format!("{name} makes IPv6 addresses of its own"))
    } else {
        device
            .master
            .then(|| format!("{name} was put into a bridge, bond or VRF"))
    }
}

/// Makes the device `name` be `link`: creates it, repairs it in place, or replaces what cannot be
/// changed in place.
pub async fn create(handle: &Handle, name: &str, link: &Link) -> Result<(), Error> {
    let existing = observe(handle).await?.remove(name);
    if existing.as_ref() == Some(link) {
        return Ok(());
    }
    match link {
        Link::Veth {
            peer,
            mtu,
            segments_ipv6,
        } => {
            if existing.is_none() {
                let peer_message = LinkMessageBuilder::<LinkUnspec>::new()
                    .name(peer.as_str())
                    .mtu(*mtu)
                    .build();
                let message = LinkVeth::new(name, peer)
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message)))
                    .mtu(*mtu)
                    .build();
                add(handle, name, message).await?;
            }
            limit_gso(handle, name, *segments_ipv6).await?;
            for end in [name, peer] {
                set_up(handle, end, Some(*mtu)).await?;
            }
        }
        Link::Xfrm { if_id, mtu } => {
            if !matches!(all(handle).await?.get(name), Some(Device { kind: Kind::Xfrm { if_id: found }, .. }) if found == if_id)
            {
                delete(handle, name).await?;
                let message = LinkMessageBuilder::<LinkXfrm>::new(name)
                    .if_id(*if_id)
                    .mtu(*mtu)
                    .build();
                add(handle, name, message).await?;
            }
            set_up(handle, name, Some(*mtu)).await?;
        }
        Link::VxlanExternal { port } => {
            let devices = all(handle).await?;
            if let Some(other) = devices.values().find(|other| {
                other.name != name
                    && matches!(&other.kind, Kind::Vxlan(vxlan) if vxlan.port == *port)
            }) {
                return Err(Error::PortTaken {
                    device: other.name.clone(),
                    port: *port,
                });
            }
            if !matches!(devices.get(name), Some(Device { kind: Kind::Vxlan(vxlan), .. })
                if vxlan.external && vxlan.zero_checksum6_rx && vxlan.port == *port)
            {
                delete(handle, name).await?;
                let message = LinkMessageBuilder::<LinkVxlan>::new(name)
                    .port(*port)
                    .collect_metadata(true)
                    .learning(false)
                    .udp_zero_csum6_rx(true)
                    .build();
                add(handle, name, message).await?;
            }
            match set_up(handle, name, None).await {
                Err(Error::Netlink(error)) if error.errno() == Some(libc::EADDRINUSE) => {
                    return Err(Error::PortBound { port: *port });
                }
                done => done?,
            }
        }
        Link::Altered(_) => {
            return Err(Error::NotWanted {
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

/// Sets `gso_max_size` of a device: packets as long or longer are segmented in software before it
/// transmits them (net/core/dev.c, `gso_features_check`). From Linux 6.3 on, the limit is of IPv6
/// alone and IPv4 has its own; older kernels ignore the second attribute.
async fn limit_gso(handle: &Handle, name: &str, segments_ipv6: bool) -> Result<(), Error> {
    let index = index(handle, name).await?;
    let size = if segments_ipv6 {
        SEGMENTING_SIZE
    } else {
        GSO_SIZE
    };
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::GsoMaxSize(size))
        .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(GSO_SIZE))
        .build();
    change(handle, format!("limit GSO packets on {name}"), message).await
}

pub(super) async fn add(handle: &Handle, name: &str, message: LinkMessage) -> Result<(), Error> {
    handle
        .inner()
        .link()
        .add(message)
        .execute()
        .await
        .map_err(|error| rtnl::Error::new(format!("create device {name}"), error).into())
}

/// Sets MTU, no IPv6 addresses of the device's own, and up, in this order: a device that comes up
/// first has made its link-local address already.
async fn set_up(handle: &Handle, name: &str, mtu: Option<u32>) -> Result<(), Error> {
    let index = index(handle, name).await?;
    no_ipv6_addresses(handle, name, index).await?;
    let mut message = LinkUnspec::new_with_index(index).nocontroller().up();
    if let Some(mtu) = mtu {
        message = message.mtu(mtu);
    }
    change(handle, format!("set up device {name}"), message.build()).await
}

/// `addrgenmode none`. A kernel without IPv6 has nothing to set.
pub(super) async fn no_ipv6_addresses(
    handle: &Handle,
    name: &str,
    index: u32,
) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )]))
        .build();
    handle
        .inner()
        .link()
        .set(message)
        .execute()
        .await
        .tolerate(
            || format!("keep device {name} from making IPv6 addresses"),
            &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP],
        )?;
    Ok(())
}

pub(super) async fn change(
    handle: &Handle,
    action: String,
    message: LinkMessage,
) -> Result<(), Error> {
    handle
        .inner()
        .link()
        .change(message)
        .execute()
        .await
        .map_err(|error| rtnl::Error::new(action, error).into())
}

/// Deletes a device; one that is not there is deleted already.
pub async fn delete(handle: &Handle, name: &str) -> Result<(), Error> {
    let Some(device) = find(handle, name).await? else {
        return Ok(());
    };
    handle
        .inner()
        .link()
        .del(device.index)
        .execute()
        .await
        .tolerate(|| format!("delete device {name}"), &[libc::ENODEV])?;
    Ok(())
}

/// Sets the MTU of a device, bytes of the largest IP packet.
pub async fn set_mtu(handle: &Handle, name: &str, mtu: u32) -> Result<(), Error> {
    let index = index(handle, name).await?;
    let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
    change(handle, format!("set the MTU of {name} to {mtu}"), message).await
}

/// Kernel index of a device.
pub async fn index(handle: &Handle, name: &str) -> Result<u32, Error> {
    Ok(get(handle, name).await?.index)
}

/// Ethernet address of a device.
pub async fn mac(handle: &Handle, name: &str) -> Result<MacAddr, Error> {
    let device = get(handle, name).await?;
    device.mac.ok_or(Error::NoMac(device.name))
}

/// Name of the device with a kernel index.
pub async fn name_of(handle: &Handle, index: u32) -> Result<Option<String>, Error> {
    let mut found = handle.inner().link().get().match_index(index).execute();
    let message = found
        .try_next()
        .await
        .tolerate(|| format!("look up device {index}"), &[libc::ENODEV])?
        .flatten();
    Ok(message.map(|message| Device::from_message(&message).name))
}

pub async fn get(handle: &Handle, name: &str) -> Result<Device, Error> {
    find(handle, name)
        .await?
        .ok_or_else(|| Error::Missing(name.to_owned()))
}

pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<Device>, Error> {
    let mut found = handle.inner().link().get().match_name(name).execute();
    let message = found
        .try_next()
        .await
        .tolerate(|| format!("look up device {name}"), &[libc::ENODEV])?
        .flatten();
    Ok(message.as_ref().map(Device::from_message))
}

/// Every device of the namespace, by name.
pub async fn all(handle: &Handle) -> Result<BTreeMap<String, Device>, Error> {
    let messages: Vec<LinkMessage> = handle
        .inner()
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| rtnl::Error::new("list devices", error))?;
    Ok(messages
        .iter()
        .map(Device::from_message)
        .map(|device| (device.name.clone(), device))
        .collect())
}

/// Every device that can carry the underlay: all but loopback, ours, and endpoint devices.
pub async fn underlay_candidates(handle: &Handle) -> Result<BTreeMap<String, Device>, Error> {
    let mut devices = all(handle).await?;
    devices.retain(|name, device| {
        let endpoint =
            name.starts_with(endpoint_name::PREFIX) && matches!(device.kind, Kind::Veth { .. });
        !device.loopback && !OURS.contains(&name.as_str()) && !endpoint
    });
    Ok(devices)
}
