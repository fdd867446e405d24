//! One step at a time.

use std::{borrow::Borrow as _, collections::BTreeMap};

use overlay_ebpf::abi;

use super::{
    addresses,
    bpf::{Bpf, Maps},
    endpoint_link, firewall,
    host::{Host, HostError, Programs},
    links, neighbours,
    observe::OwnDevices,
    sysctl,
};
use crate::dataplane::{
    desired::Keying,
    key_id::KeyId,
    objects::{EndpointEntry, FloodEntry, GRO, HOP, PeerEntry, REENTRY, State, StateKey, XFRM},
    step::{MapWrite, Step},
};

/// Writes an entry, or deletes it on `None`.
macro_rules! write_entry {
    ($table:expr, $key:expr, $value:expr) => {
        match $value {
            Some(value) => $table.put($key, value.borrow())?,
            None => {
                $table.delete($key)?;
            }
        }
    };
}

pub async fn execute(host: &mut Host, step: &Step) -> Result<(), HostError> {
    match step {
        Step::LoadPrograms(sizes) => {
            let bpf = Bpf::load(&host.directories.pins, sizes)?;
            host.programs = Programs::Owned(Box::new(bpf));
        }
        Step::UnloadPrograms => match std::mem::replace(&mut host.programs, Programs::None) {
            Programs::Owned(bpf) => bpf.clear()?,
            _ => host.remove_pins()?,
        },
        Step::SetFirewall(wanted) => firewall::apply(wanted).await?,
        Step::RemoveFirewall => firewall::remove().await?,
        Step::CreateLink(name, link) => links::create(&host.rtnl, name, link).await?,
        Step::DeleteLink(name) => links::delete(&host.rtnl, name).await?,
        Step::AddAddress(address) => addresses::add(&host.rtnl, address).await?,
        Step::RemoveAddress(address) => addresses::remove(&host.rtnl, address).await?,
        Step::SetSysctl(path, value) => set_sysctl(host, path, value)?,
        Step::RestoreSysctl(path) => restore_sysctl(host, path)?,
        Step::SetPolicy(key, policy) => host.xfrm.add_policy(*key, *policy).await?,
        Step::RemovePolicy(key) => host.xfrm.delete_policy(*key).await?,
        Step::AddState(key, state) => add_state(host, *key, state).await?,
        Step::RemoveState(key) => host.xfrm.delete_state(*key).await?,
        Step::AddNeighbour(neighbour) => neighbours::add(&host.rtnl, neighbour).await?,
        Step::RemoveNeighbour(neighbour) => neighbours::remove(&host.rtnl, neighbour).await?,
        Step::CreateEndpoint(name, link) => {
            host.seen.forget(name);
            endpoint_link::create(&host.rtnl, name, link).await?;
        }
        Step::RemoveEndpoint(name) => {
            host.seen.forget(name);
            endpoint_link::detach(&host.rtnl, name).await?;
        }
        Step::Attach(attachment) => {
            let index = index(host, &attachment.device).await?;
            owned(host)?.attach(attachment, index)?;
        }
        Step::Detach(attachment) => {
            // With its device an attachment is gone already.
            if let Some(index) = known_index(host, &attachment.device).await? {
                owned(host)?.detach(attachment, index)?;
            }
        }
        Step::Map(write) => map_write(host, write).await?,
    }
    Ok(())
}

fn owned(host: &mut Host) -> Result<&mut Bpf, HostError> {
    match &mut host.programs {
        Programs::Owned(bpf) => Ok(bpf),
        Programs::None | Programs::Pinned(_) => Err(HostError::NotLoaded),
    }
}

/// A key is in the ledger, durably, before the kernel has it.
async fn add_state(host: &Host, key: StateKey, state: &State) -> Result<(), HostError> {
    if let Keying::Keyed(material) = &state.keying {
        host.ledger.append(KeyId::of(material))?;
    }
    Ok(host.xfrm.add_state(key, state).await?)
}

fn set_sysctl(host: &Host, path: &str, value: &str) -> Result<(), HostError> {
    let before = sysctl::read(path)?.ok_or_else(|| HostError::NoSysctl(path.to_owned()))?;
    let overwritten = if before == value {
        BTreeMap::new()
    } else {
        sysctl::overwritten_by(path)?
    };
    host.originals.remember(path, &before, overwritten)?;
    Ok(sysctl::write(path, value)?)
}

fn restore_sysctl(host: &Host, path: &str) -> Result<(), HostError> {
    let before = host.originals.read()?.remove_entry(path);
    // Those that it overwrites when it is written back.
    let beside = host.originals.overwritten(path)?;
    for (path, value) in before.into_iter().chain(beside) {
        let own = [HOP, REENTRY, XFRM, GRO]
            .iter()
            .any(|device| path.contains(&format!("/{device}/")));
        // A device that is gone took its settings along; ours goes next.
        if !own && sysctl::read(&path)?.is_some() {
            sysctl::write(&path, &value)?;
        }
    }
    Ok(host.originals.forget(path)?)
}

async fn known_index(host: &Host, device: &str) -> Result<Option<u32>, HostError> {
    if let Some(index) = device.strip_prefix('#') {
        return Ok(index.parse().ok());
    }
    let now = links::find(&host.rtnl, device).await?;
    let before = || host.devices.iter().find(|(_, name)| *name == device);
    Ok(now
        .map(|device| device.index)
        .or_else(|| before().map(|(index, _)| *index)))
}

/// The index of a device that is there.
async fn index(host: &Host, device: &str) -> Result<u32, HostError> {
    links::find(&host.rtnl, device)
        .await?
        .map(|device| device.index)
        .ok_or_else(|| HostError::NoDevice(device.to_owned()))
}

async fn map_write(host: &mut Host, write: &MapWrite) -> Result<(), HostError> {
    match write {
        MapWrite::Config(Some(entry)) => {
            let reentry = links::find(&host.rtnl, REENTRY).await?;
            let index = |device: Option<links::Device>| device.map_or(0, |device| device.index);
            let own = OwnDevices {
                hop: index(links::find(&host.rtnl, HOP).await?),
                xfrm: index(links::find(&host.rtnl, XFRM).await?),
                reentry_mac: reentry
                    .as_ref()
                    .and_then(|device| device.mac)
                    .map_or([0; 6], |mac| mac.0),
                reentry: index(reentry),
            };
            let config = own.config(entry);
            owned(host)?.maps_mut().config.put(&config)?;
        }
        // The programs go next, and with them their configuration.
        MapWrite::Config(None) => {}
        MapWrite::LocalPort(device, value) => local_port(host, device, value.as_ref()).await?,
        MapWrite::Endpoint(key, value) => {
            let value = match value {
                Some(EndpointEntry::Local { device }) => Some(abi::Endpoint {
                    location: abi::Location::Local,
                    ifindex: index(host, device).await?,
                    peer: 0,
                }),
                Some(EndpointEntry::Remote { peer }) => Some(abi::Endpoint {
                    location: abi::Location::Remote,
                    ifindex: 0,
                    peer: *peer,
                }),
                None => None,
            };
            write_entry!(owned(host)?.maps_mut().endpoints, key, value);
        }
        MapWrite::Flood(key, value) => {
            let value = match value {
                Some(FloodEntry::Local { device }) => Some(abi::FloodTarget {
                    location: abi::Location::Local,
                    ifindex: index(host, device).await?,
                    peer: 0,
                }),
                Some(FloodEntry::Remote { peer }) => Some(abi::FloodTarget {
                    location: abi::Location::Remote,
                    ifindex: 0,
                    peer: *peer,
                }),
                None => None,
            };
            write_entry!(owned(host)?.maps_mut().flood_lists, key, value);
        }
        MapWrite::Peer(key, value) => {
            let value = match value {
                Some(entry) => Some(peer(host, entry).await?),
                None => None,
            };
            write_entry!(owned(host)?.maps_mut().peers, key, value);
        }
        MapWrite::Network(..)
        | MapWrite::Address(..)
        | MapWrite::Vtep(..)
        | MapWrite::Membership(..)
        | MapWrite::Sa(..) => plain_write(owned(host)?.maps_mut(), write)?,
    }
    Ok(())
}

/// Entries that name no device.
fn plain_write(maps: &mut Maps, write: &MapWrite) -> Result<(), HostError> {
    match write {
        MapWrite::Network(key, value) => write_entry!(maps.networks, key, value),
        MapWrite::Address(key, value) => write_entry!(maps.addresses, key, value),
        MapWrite::Vtep(key, value) => write_entry!(maps.vteps, key, value),
        MapWrite::Membership(key, value) => write_entry!(maps.memberships, key, value),
        MapWrite::Sa(key, value) => write_entry!(maps.sas, key, value),
        MapWrite::Config(_)
        | MapWrite::LocalPort(..)
        | MapWrite::Endpoint(..)
        | MapWrite::Peer(..)
        | MapWrite::Flood(..) => {}
    }
    Ok(())
}

async fn local_port(
    host: &mut Host,
    device: &str,
    value: Option<&abi::LocalPort>,
) -> Result<(), HostError> {
    let ifindex = match value {
        Some(_) => index(host, device).await?,
        None => match known_index(host, device).await? {
            Some(index) => index,
            None => return Ok(()),
        },
    };
    let key = abi::LocalPortKey { ifindex };
    write_entry!(owned(host)?.maps_mut().local_ports, &key, value);
    Ok(())
}

async fn peer(host: &Host, entry: &PeerEntry) -> Result<abi::Peer, HostError> {
    // A closing write must not fail because the device of the old route is gone.
    let underlay_ifindex = match known_index(host, &entry.underlay_device).await? {
        Some(index) => index,
        None if entry.tx.lanes == 0 => 0,
        None => return Err(HostError::NoDevice(entry.underlay_device.clone())),
    };
    Ok(abi::Peer {
        tx: entry.tx,
        vtep: entry.vtep,
        local_vtep: entry.local_vtep,
        underlay_ifindex,
        underlay_mtu: entry.underlay_mtu,
    })
}
