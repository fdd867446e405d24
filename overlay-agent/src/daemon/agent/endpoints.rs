//! Endpoints, as the API asks for them, and their names in DNS.

use std::sync::Arc;

use overlay_ebpf::abi::Vni;
use tokio::runtime::Handle;

use super::{Agent, Running, errors};
use crate::{
    api::{
        ApiError, Code,
        endpoint::{Endpoint, EndpointAttach, EndpointQuery},
    },
    daemon::node::{AttachError, DetachError},
    dataplane::{desired::LocalEndpoint, endpoint_name::host_device_name},
    kernel::netns::Netns,
    member,
};

impl Agent {
    pub(super) fn list_endpoints(&self, query: &EndpointQuery) -> Result<Vec<Endpoint>, ApiError> {
        let running = self.running()?;
        let network = match &query.network {
            None => None,
            Some(name) => Some(vni(&running, name)?),
        };
        Ok(self.endpoints_of(&running, network, query.all))
    }

    /// The endpoints of this node, or of `all` that this node knows.
    pub(super) fn endpoints_of(
        &self,
        running: &Running,
        network: Option<Vni>,
        all: bool,
    ) -> Vec<Endpoint> {
        let is_meant = |vni: Vni| network.is_none_or(|network| network == vni);
        let locals = running.node.endpoints();
        let mut endpoints: Vec<_> = locals
            .iter()
            .filter(|endpoint| is_meant(endpoint.vni))
            .map(|endpoint| local(running, endpoint))
            .collect();
        if all {
            let view = running.node.view();
            for (node, endpoint) in running.node.everybody() {
                if node == view.node || !is_meant(endpoint.vni) {
                    continue;
                }
                let peer = view.peers.get(&node);
                endpoints.push(Endpoint {
                    network: network_name(running, endpoint.vni),
                    vni: endpoint.vni,
                    name: endpoint.name.into(),
                    node: peer.map_or_else(|| node.to_string(), |peer| peer.name.to_string()),
                    local: false,
                    mac: endpoint.mac,
                    addresses: endpoint.ips.into_vec(),
                    netns: None,
                    interface: None,
                    labels: Default::default(),
                    problem: None,
                });
            }
        }
        endpoints
    }

    pub(super) async fn do_attach(&self, request: EndpointAttach) -> Result<Endpoint, ApiError> {
        let running = self.running()?;
        let request = request.into_request()?;
        Netns::open(&request.netns).map_err(|error| ApiError::bad_request(&error))?;
        let attached = running.node.attach(request).await;
        let endpoint = attached.map_err(|error| attach_error(&error))?;
        let mut answer = local(&running, &endpoint);
        self.update_names(&running);
        if let Err(error) = self.give_resolver(&endpoint).await {
            tracing::warn!(endpoint = %endpoint.name, %error, "an endpoint has no resolver");
            answer.problem = Some(error);
        }
        Ok(answer)
    }

    pub(super) fn inspect_endpoint(&self, network: &str, name: &str) -> Result<Endpoint, ApiError> {
        let running = self.running()?;
        let vni = vni(&running, network)?;
        let endpoints = running.node.endpoints();
        let found = endpoints
            .iter()
            .find(|endpoint| endpoint.vni == vni && endpoint.name == name);
        found.map(|found| local(&running, found)).ok_or_else(|| {
            ApiError::new(
                Code::NotFound,
                format!("this node has no endpoint {name} in network {network}"),
                "`overlay endpoint ls` lists them",
            )
        })
    }

    pub(super) async fn do_detach(&self, network: &str, name: &str) -> Result<(), ApiError> {
        let running = self.running()?;
        let detached = running.node.detach(network, name).await;
        let endpoint = detached.map_err(|error| match error {
            DetachError::Member(member::DetachError::Endpoint(_)) => ApiError::not_found(&error),
            error => errors::host(&error),
        })?;
        if let Some(dns) = &self.dns {
            dns.detach(endpoint.vni, &endpoint.name).await;
            self.update_names(&running);
        }
        Ok(())
    }

    /// Gives the containers of an earlier agent's endpoints their resolvers again, and keeps the names
    /// as gossip has them.
    pub(super) fn follow_names(self: &Arc<Self>, running: &Arc<Running>) {
        if self.dns.is_none() {
            return;
        }
        let (agent, running) = (self.clone(), running.clone());
        let stopped = running.stopped();
        running.clone().spawn(async move {
            agent.update_names(&running);
            agent.adopt_names(&running).await;
            agent.keep_names(&running, stopped).await;
        });
    }

    async fn adopt_names(&self, running: &Running) {
        for endpoint in running.node.endpoints() {
            if let Err(error) = self.give_resolver(&endpoint).await {
                tracing::warn!(endpoint = %endpoint.name, %error, "an endpoint has no resolver");
            }
        }
    }

    /// Opens the sockets of a container's resolver, in the container's namespace.
    async fn give_resolver(&self, endpoint: &LocalEndpoint) -> Result<(), String> {
        let Some(dns) = self.dns.clone() else {
            return Ok(());
        };
        let endpoint = endpoint.clone();
        // Network namespaces belong to threads, and this future to none.
        let given = tokio::task::spawn_blocking(move || {
            let attached = dns.attach(&endpoint.netns, endpoint.vni, &endpoint.name);
            Handle::current().block_on(attached)
        });
        match given.await {
            Ok(attached) => attached.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn keep_names(&self, running: &Running, mut stopped: tokio::sync::watch::Receiver<bool>) {
        let mut told = running.node.outcomes();
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                changed = told.changed() => if changed.is_err() { return },
            }
            self.update_names(running);
            // A burst of changes is looked at once.
            tokio::time::sleep(NAMES).await;
        }
    }

    fn update_names(&self, running: &Running) {
        if let Some(dns) = &self.dns {
            dns.update(running.node.names());
        }
    }

    /// Takes the resolvers of all containers away.
    pub(super) async fn drop_names(&self) {
        let (Some(dns), Ok(running)) = (&self.dns, self.running()) else {
            return;
        };
        for endpoint in running.node.endpoints() {
            dns.detach(endpoint.vni, &endpoint.name).await;
        }
    }
}

/// Names are looked at again so long after a change.
const NAMES: std::time::Duration = std::time::Duration::from_millis(100);

fn attach_error(error: &AttachError) -> ApiError {
    let code = match error {
        AttachError::Member(member::AttachError::Endpoint(error)) => return error.into(),
        AttachError::Lease { error, reason } => {
            let mut answer = errors::upstream(error);
            answer.message = format!("{reason}; no lease from the managers: {}", answer.message);
            return answer;
        }
        AttachError::Stopped => Code::Unavailable,
        AttachError::Slow { .. } => Code::Timeout,
        _ => Code::Internal,
    };
    ApiError::from_error(code, error)
}

fn local(running: &Running, endpoint: &LocalEndpoint) -> Endpoint {
    let view = running.node.view();
    let device = host_device_name(endpoint.vni, endpoint.mac);
    Endpoint {
        network: network_name(running, endpoint.vni),
        vni: endpoint.vni,
        name: endpoint.name.clone(),
        node: view
            .peers
            .get(&view.node)
            .map(|own| own.name.to_string())
            .unwrap_or_default(),
        local: true,
        mac: endpoint.mac,
        addresses: endpoint.addresses.iter().map(|(ip, _)| *ip).collect(),
        netns: Some(endpoint.netns.clone().into()),
        interface: Some(endpoint.interface.clone()),
        labels: Default::default(),
        problem: running.node.refused(&device),
    }
}

fn network_name(running: &Running, vni: Vni) -> String {
    let view = running.node.view();
    let network = view.networks.get(&vni);
    network.map_or_else(|| vni.to_string(), |network| network.name.to_string())
}

fn vni(running: &Running, wanted: &str) -> Result<Vni, ApiError> {
    let view = running.node.view();
    let found = view
        .networks
        .values()
        .find(|network| network.name.as_str() == wanted);
    found.map(|network| network.vni).ok_or_else(|| {
        ApiError::new(
            Code::NotFound,
            format!("there is no network {wanted} that this node may host"),
            "`overlay network ls` lists them",
        )
    })
}
