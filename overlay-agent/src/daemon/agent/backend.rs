//! What the local API asks the agent.

use std::sync::Arc;

use futures_util::StreamExt as _;
use overlay_cluster::identity::Role;

use super::{Agent, status};
use crate::{
    api::{
        cluster::{
            Backup, CaRotation, InitRequest, Initialised, JoinRequest, JoinToken, LeaveRequest,
            Membership, RestoreRequest, RotateToken, UnlockKey, UnlockRequest,
        },
        endpoint::{Endpoint, EndpointAttach, EndpointQuery},
        event::EventQuery,
        keys::{KeysStatus, Policy, PolicyRequest, RotationBegun},
        network::{Network, NetworkCreate, NetworkDetail, PruneRequest, Pruned},
        node::{Node, NodeUpdate, Removed},
        status::{Peer, Status},
    },
    daemon::api::{Answer, Backend, EventStream},
};

/// The agent behind the API. Changes of membership go on to their end when who asked hangs up.
pub struct Desktop(pub Arc<Agent>);

impl Desktop {
    fn at_once<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Agent) -> Result<T, crate::api::ApiError> + Send + 'static,
    ) -> Answer<'_, T> {
        let agent = self.0.clone();
        Box::pin(async move {
            // Listings of a large cluster take a while.
            let asked = tokio::task::spawn_blocking(move || ask(&agent)).await;
            asked.unwrap_or_else(|error| Err(super::errors::host(&error)))
        })
    }
}

macro_rules! detached {
    ($agent:expr, |$name:ident| $work:expr) => {{
        let $name = $agent.0.clone();
        Box::pin(async move {
            let task = tokio::spawn(async move { $work.await });
            task.await
                .unwrap_or_else(|error| Err(super::errors::host(&error)))
        })
    }};
}

impl Backend for Desktop {
    fn init(&self, request: InitRequest) -> Answer<'_, Initialised> {
        detached!(self, |agent| agent.do_init(request))
    }

    fn join(&self, request: JoinRequest) -> Answer<'_, Membership> {
        detached!(self, |agent| agent.do_join(request))
    }

    fn leave(&self, request: LeaveRequest) -> Answer<'_, ()> {
        detached!(self, |agent| agent.do_leave(request))
    }

    fn unlock(&self, request: UnlockRequest) -> Answer<'_, ()> {
        detached!(self, |agent| agent.do_unlock(request))
    }

    fn unlock_key(&self) -> Answer<'_, UnlockKey> {
        self.at_once(Agent::do_unlock_key)
    }

    fn rotate_unlock_key(&self) -> Answer<'_, UnlockKey> {
        self.at_once(Agent::do_rotate_unlock_key)
    }

    fn set_autolock(&self, enabled: bool) -> Answer<'_, UnlockKey> {
        self.at_once(move |agent| agent.do_set_autolock(enabled))
    }

    fn token(&self, role: Role) -> Answer<'_, JoinToken> {
        self.at_once(move |agent| agent.do_token(role))
    }

    fn rotate_token(&self, role: Role, request: RotateToken) -> Answer<'_, JoinToken> {
        detached!(self, |agent| agent.do_rotate_token(role, request))
    }

    fn rotate_ca(&self) -> Answer<'_, CaRotation> {
        detached!(self, |agent| agent.do_rotate_ca())
    }

    fn backup(&self) -> Answer<'_, Backup> {
        self.at_once(Agent::do_backup)
    }

    fn restore(&self, request: RestoreRequest) -> Answer<'_, Membership> {
        detached!(self, |agent| agent.do_restore(request))
    }

    fn networks(&self) -> Answer<'_, Vec<Network>> {
        self.at_once(Agent::list_networks)
    }

    fn create_network(&self, request: NetworkCreate) -> Answer<'_, Network> {
        detached!(self, |agent| agent.do_create_network(request))
    }

    fn network(&self, network: String) -> Answer<'_, NetworkDetail> {
        self.at_once(move |agent| agent.inspect_network(&network))
    }

    fn remove_network(&self, network: String) -> Answer<'_, ()> {
        detached!(self, |agent| agent.do_remove_network(&network))
    }

    fn prune_networks(&self, request: PruneRequest) -> Answer<'_, Pruned> {
        detached!(self, |agent| agent.do_prune(request))
    }

    fn endpoints(&self, query: EndpointQuery) -> Answer<'_, Vec<Endpoint>> {
        self.at_once(move |agent| agent.list_endpoints(&query))
    }

    fn attach(&self, request: EndpointAttach) -> Answer<'_, Endpoint> {
        detached!(self, |agent| agent.do_attach(request))
    }

    fn endpoint(&self, network: String, name: String) -> Answer<'_, Endpoint> {
        self.at_once(move |agent| agent.inspect_endpoint(&network, &name))
    }

    fn detach(&self, network: String, name: String) -> Answer<'_, ()> {
        detached!(self, |agent| agent.do_detach(&network, &name))
    }

    fn nodes(&self) -> Answer<'_, Vec<Node>> {
        self.at_once(Agent::list_nodes)
    }

    fn node(&self, node: String) -> Answer<'_, Node> {
        self.at_once(move |agent| agent.inspect_node(&node))
    }

    fn update_node(&self, node: String, update: NodeUpdate) -> Answer<'_, Node> {
        detached!(self, |agent| agent.do_update_node(&node, update))
    }

    fn remove_node(&self, node: String, force: bool) -> Answer<'_, Removed> {
        detached!(self, |agent| agent.do_remove_node(&node, force))
    }

    fn keys(&self) -> Answer<'_, KeysStatus> {
        self.at_once(Agent::list_keys)
    }

    fn rotate_keys(&self) -> Answer<'_, RotationBegun> {
        detached!(self, |agent| agent.do_rotate_keys())
    }

    fn set_key_policy(&self, request: PolicyRequest) -> Answer<'_, Policy> {
        detached!(self, |agent| agent.do_set_policy(request))
    }

    fn status(&self) -> Answer<'_, Status> {
        Box::pin(self.0.do_status())
    }

    fn peers(&self) -> Answer<'_, Vec<Peer>> {
        self.at_once(Agent::list_peers)
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventStream> {
        self.at_once(move |agent| Ok(status::events(agent, query)?.boxed()))
    }
}
