//! One step at a time, and batches of them.

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
    objects::{
        EndpointEntry, FloodEntry, GRO, HOP, PeerEntry, Policy, PolicyKey, REENTRY, State,
        StateKey, XFRM,
    },
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
        Step::AddState(key, state) => {
            let results = add_states(host, &[(*key, state)]).await;
            results.into_iter().collect::<Result<(), _>>()?;
        }
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

/// Does the steps of a [`crate::dataplane::batch`], many by one system call where the kernel takes
/// many; the results are in their order.
pub async fn execute_batch(host: &mut Host, steps: &[Step]) -> Vec<Result<(), HostError>> {
    let batch = match steps {
        [] | [_] => None,
        steps => Batch::of(steps),
    };
    match batch {
        Some(Batch::SetPolicies(policies)) => of_xfrm(host.xfrm.add_policies(&policies).await),
        Some(Batch::RemovePolicies(keys)) => of_xfrm(host.xfrm.delete_policies(&keys).await),
        Some(Batch::AddStates(states)) => add_states(host, &states).await,
        Some(Batch::RemoveStates(keys)) => of_xfrm(host.xfrm.delete_states(&keys).await),
        Some(Batch::Peers(peers)) => write_peers(host, &peers).await,
        None => {
            let mut results = Vec::with_capacity(steps.len());
            for step in steps {
                results.push(execute(host, step).await);
            }
            results
        }
    }
}

/// Steps of one kind.
enum Batch<'a> {
    SetPolicies(Vec<(PolicyKey, Policy)>),
    RemovePolicies(Vec<PolicyKey>),
    AddStates(Vec<(StateKey, &'a State)>),
    RemoveStates(Vec<StateKey>),
    Peers(Vec<(abi::PeerKey, &'a PeerEntry)>),
}

impl<'a> Batch<'a> {
    /// `None` if the steps are of several kinds, or of one that is done step by step.
    fn of(steps: &'a [Step]) -> Option<Self> {
        fn all<'a, T>(steps: &'a [Step], one: impl Fn(&'a Step) -> Option<T>) -> Option<Vec<T>> {
            steps.iter().map(one).collect()
        }
        Some(match steps.first()? {
            Step::SetPolicy(..) => Self::SetPolicies(all(steps, |step| match step {
                Step::SetPolicy(key, policy) => Some((*key, *policy)),
                _ => None,
            })?),
            Step::RemovePolicy(_) => Self::RemovePolicies(all(steps, |step| match step {
                Step::RemovePolicy(key) => Some(*key),
                _ => None,
            })?),
            Step::AddState(..) => Self::AddStates(all(steps, |step| match step {
                Step::AddState(key, state) => Some((*key, state)),
                _ => None,
            })?),
            Step::RemoveState(_) => Self::RemoveStates(all(steps, |step| match step {
                Step::RemoveState(key) => Some(*key),
                _ => None,
            })?),
            Step::Map(MapWrite::Peer(..)) => Self::Peers(all(steps, |step| match step {
                Step::Map(MapWrite::Peer(key, Some(entry))) => Some((*key, entry)),
                _ => None,
            })?),
            _ => return None,
        })
    }
}

fn of_xfrm(results: Vec<Result<(), super::xfrm::Error>>) -> Vec<Result<(), HostError>> {
    results.into_iter().map(|result| Ok(result?)).collect()
}

/// Keys are in the ledger, durably, before the kernel has the first of them.
async fn add_states(host: &Host, states: &[(StateKey, &State)]) -> Vec<Result<(), HostError>> {
    let keys = states.iter().filter_map(|(_, state)| match &state.keying {
        Keying::Keyed(material) => Some(KeyId::of(material)),
        Keying::Adopted => None,
    });
    if let Err(error) = host.ledger.append(keys) {
        let mut results = vec![Err(error.into())];
        results.resize_with(states.len(), || Err(HostError::Unrecorded));
        return results;
    }
    of_xfrm(host.xfrm.add_states(states).await)
}

async fn write_peers(
    host: &mut Host,
    peers: &[(abi::PeerKey, &PeerEntry)],
) -> Vec<Result<(), HostError>> {
    let mut devices = BTreeMap::new();
    let mut results = Vec::with_capacity(peers.len());
    for (key, entry) in peers {
        results.push(write_peer(host, key, entry, &mut devices).await);
    }
    results
}

/// `devices` are those looked up for the peers before: nearly all share one.
async fn write_peer<'a>(
    host: &mut Host,
    key: &abi::PeerKey,
    entry: &'a PeerEntry,
    devices: &mut BTreeMap<&'a str, Option<u32>>,
) -> Result<(), HostError> {
    let device = entry.underlay_device.as_str();
    let index = match devices.get(device) {
        Some(index) => *index,
        None => {
            let index = known_index(host, device).await?;
            devices.insert(device, index);
            index
        }
    };
    // A closing write must not fail because the device of the old route is gone.
    let underlay_ifindex = match index {
        Some(index) => index,
        None if entry.tx.lanes == 0 => 0,
        None => return Err(HostError::NoDevice(device.to_owned())),
    };
    let peer = abi::Peer {
        tx: entry.tx,
        vtep: entry.vtep,
        local_vtep: entry.local_vtep,
        underlay_ifindex,
        underlay_mtu: entry.underlay_mtu,
    };
    Ok(owned(host)?.maps_mut().peers.put(key, &peer)?)
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
        MapWrite::Peer(key, Some(entry)) => {
            write_peer(host, key, entry, &mut BTreeMap::new()).await?
        }
        MapWrite::Peer(key, None) => {
            owned(host)?.maps_mut().peers.delete(key)?;
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
