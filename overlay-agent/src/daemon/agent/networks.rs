//! Networks, as the API asks for them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use overlay_cluster::{
    id::NodeId,
    log::{
        command::{Command, Outcome},
        networks::{Network as Logged, NetworkRequest},
        state::Cluster,
        subnet::{self, RouteClash},
    },
};
use overlay_ebpf::abi::Vni;

use super::{Agent, Running, errors, membership::not_open};
use crate::{
    api::{
        ApiError, Code, Time,
        network::{
            Blocks, Network, NetworkCreate, NetworkDetail, PruneRequest, Pruned, SubnetSpec,
        },
    },
    daemon::managers::Managers,
    kernel::routes,
};

impl Agent {
    pub(super) fn list_networks(&self) -> Result<Vec<Network>, ApiError> {
        let running = self.running()?;
        Ok(known(&running).values().map(Network::from).collect())
    }

    pub(super) async fn do_create_network(
        &self,
        request: NetworkCreate,
    ) -> Result<Network, ApiError> {
        let running = self.running()?;
        manager(&running)?;
        let name = request.name.clone();
        let routes = routes::main_table()
            .await
            .map_err(|error| errors::host(&error))?;
        let mut request = request;
        if request.subnets.is_empty() {
            request.subnets = vec![free_subnet(&running, &routes)?];
        }
        for subnet in &request.subnets {
            check_routes(subnet.subnet, &routes)?;
        }
        let created = propose(
            &running,
            Command::CreateNetwork(NetworkRequest::from(request)),
        );
        let vni = match created.await? {
            Outcome::Created { vni } => vni,
            _ => {
                return Err(ApiError::unavailable(format!(
                    "network {name} is not there"
                )));
            }
        };
        // Who asks next finds it; a manager that does not lead may hear of it a moment later.
        let begun = std::time::Instant::now();
        loop {
            let _later = running.node.refresh().await;
            if let Some(network) = known(&running).get(&vni) {
                return Ok(Network::from(network));
            }
            if begun.elapsed() > SEEN {
                return Err(ApiError::unavailable(format!(
                    "network {name} is made, and not seen yet"
                )));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    pub(super) fn inspect_network(&self, wanted: &str) -> Result<NetworkDetail, ApiError> {
        let running = self.running()?;
        let network = find(&running, wanted)?;
        let view = running.node.view();
        let names = |node: &NodeId| {
            let peer = view.peers.get(node);
            peer.map_or_else(|| node.to_string(), |peer| peer.name.to_string())
        };
        let blocks = match running.managers() {
            Some(managers) => managers.with_log(|log| log.map(|log| blocks(log, network.vni))),
            None => None,
        };
        let blocks = blocks.unwrap_or_else(|| {
            let leases = view.leases.iter();
            leases
                .filter_map(|(node, of)| Some((*node, of.get(&network.vni)?.clone())))
                .collect()
        });
        Ok(NetworkDetail {
            network: Network::from(&network),
            endpoints: self.endpoints_of(&running, Some(network.vni), true),
            blocks: blocks
                .into_iter()
                .map(|(node, blocks)| Blocks {
                    node: names(&node),
                    blocks,
                })
                .collect(),
        })
    }

    pub(super) async fn do_remove_network(&self, wanted: &str) -> Result<(), ApiError> {
        let running = self.running()?;
        let managers = manager(&running)?;
        let network = find(&running, wanted)?;
        let endpoints = count(&running, network.vni);
        let discard = managers.with_log(|log| log.map(|log| log.blocks().count(network.vni)));
        let command = Command::RemoveNetwork {
            vni: network.vni,
            endpoints,
            discard: u32::try_from(discard.unwrap_or(0)).unwrap_or(u32::MAX),
        };
        propose(&running, command).await?;
        let _later = running.node.refresh().await;
        Ok(())
    }

    pub(super) async fn do_prune(&self, request: PruneRequest) -> Result<Pruned, ApiError> {
        let running = self.running()?;
        manager(&running)?;
        let now = Time::now();
        let known = known(&running);
        let is_meant = |network: &&Logged| {
            let age = Time(network.created).age(now).as_secs();
            request.older_than_seconds.is_none_or(|least| age >= least)
                && request
                    .labels
                    .iter()
                    .all(|(key, value)| network.labels.get(key) == Some(value))
        };
        let candidates: Vec<Vni> = known
            .values()
            .filter(is_meant)
            .map(|network| network.vni)
            .filter(|vni| count(&running, *vni) == 0)
            .collect();
        if candidates.is_empty() {
            return Ok(Pruned::default());
        }
        let pruned = match propose(&running, Command::PruneNetworks { candidates }).await? {
            Outcome::Pruned { networks } => networks,
            _ => Vec::new(),
        };
        let _later = running.node.refresh().await;
        let name = |vni: &Vni| known.get(vni).map(|network| network.name.clone());
        Ok(Pruned {
            networks: pruned.iter().filter_map(name).collect(),
        })
    }
}

/// For a manager that does not lead to hear of what was decided.
const SEEN: std::time::Duration = std::time::Duration::from_secs(5);

/// The managers, or why they cannot be asked here.
pub(super) fn manager(running: &Running) -> Result<Managers, ApiError> {
    running.managers().ok_or_else(|| not_open(running))
}

/// Puts a command in the log, wherever its leader is.
pub(super) async fn propose(running: &Running, command: Command) -> Result<Outcome, ApiError> {
    let proposed = running.upstream.propose(command).await;
    proposed.map_err(|error| errors::upstream(&error))
}

/// All networks on a manager; on other nodes those that the node may host.
fn known(running: &Running) -> BTreeMap<Vni, Logged> {
    let all = running.managers().and_then(|managers| {
        managers.with_log(|log| {
            let networks = log?.networks().iter();
            Some(
                networks
                    .map(|network| (network.vni, network.clone()))
                    .collect(),
            )
        })
    });
    all.unwrap_or_else(|| running.node.view().networks.clone())
}

/// A network by name, or else by VNI.
fn find(running: &Running, wanted: &str) -> Result<Logged, ApiError> {
    let mut known = known(running);
    let by_name = known
        .values()
        .find(|network| network.name.as_str() == wanted);
    let vni = by_name.map(|network| network.vni).or_else(|| {
        let vni = Vni::new(wanted.parse().ok()?).ok()?;
        known.contains_key(&vni).then_some(vni)
    });
    vni.and_then(|vni| known.remove(&vni)).ok_or_else(|| {
        ApiError::new(
            Code::NotFound,
            format!("there is no network {wanted}"),
            "`overlay network ls` lists them",
        )
    })
}

/// Endpoints of a network on all nodes, as far as this one knows.
fn count(running: &Running, vni: Vni) -> u32 {
    let everybody = running.node.everybody();
    let of = everybody.iter().filter(|(_, endpoint)| endpoint.vni == vni);
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

fn blocks(log: &Cluster, vni: Vni) -> BTreeMap<NodeId, Vec<IpNet>> {
    let mut blocks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (of, node, block) in log.blocks().held() {
        if of == vni {
            blocks.entry(node).or_default().push(block);
        }
    }
    blocks
}

/// A subnet of the cluster's pools that no network has and this host reaches nowhere else.
fn free_subnet(running: &Running, routes: &[(IpNet, String)]) -> Result<SubnetSpec, ApiError> {
    let known = known(running);
    let subnets = known.values().flat_map(|network| network.subnets.values());
    let taken: Vec<IpNet> = subnets
        .map(|subnet| subnet.net())
        .chain(routes.iter().map(|(net, _)| *net))
        .collect();
    let pools = running.node.view().settings.subnet_pools.clone();
    let free = pools
        .iter()
        .find_map(|pool| subnet::free_subnet(&pool.net, pool.prefix, &taken));
    let subnet = free.ok_or_else(|| {
        let pools: Vec<_> = pools.iter().map(|pool| pool.net.to_string()).collect();
        ApiError::new(
            Code::Conflict,
            format!("no subnet is free in the pools {}", pools.join(", ")),
            "give one with `--subnet`",
        )
    })?;
    Ok(SubnetSpec {
        subnet,
        gateway: None,
        ip_range: None,
        block_prefix: None,
    })
}

/// A subnet that this host reaches elsewhere would be cut off from it.
fn check_routes(subnet: IpNet, routes: &[(IpNet, String)]) -> Result<(), ApiError> {
    subnet::clashes(&subnet, routes).map_err(|RouteClash { route, what, .. }| {
        ApiError::new(
            Code::Conflict,
            format!("subnet {subnet} overlaps {route}, which this host reaches by {what}"),
            "choose another subnet",
        )
    })
}
