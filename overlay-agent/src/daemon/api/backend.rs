use futures_util::{future::BoxFuture, stream::BoxStream};
use overlay_cluster::identity::Role;

use crate::api::{
    ApiError,
    cluster::{
        Backup, CaRotation, InitRequest, Initialised, JoinRequest, JoinToken, LeaveRequest,
        Membership, RestoreRequest, RotateToken, UnlockKey, UnlockRequest,
    },
    endpoint::{Endpoint, EndpointAttach, EndpointQuery},
    event::{Event, EventQuery},
    keys::{KeysStatus, Policy, PolicyRequest, RotationBegun},
    network::{Network, NetworkCreate, NetworkDetail, PruneRequest, Pruned},
    node::{Node, NodeUpdate, Removed},
    status::{Peer, Status},
};

/// What a request comes to.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// What happens, as it happens. It ends where nothing more was asked for.
pub type EventStream = BoxStream<'static, Event>;

/// Who does what the API asks for. One that takes longer than [`Limits::answer`](super::Limits) is
/// dropped where it waits.
pub trait Backend: Send + Sync + 'static {
    fn init(&self, request: InitRequest) -> Answer<'_, Initialised>;
    fn join(&self, request: JoinRequest) -> Answer<'_, Membership>;
    fn leave(&self, request: LeaveRequest) -> Answer<'_, ()>;
    fn unlock(&self, request: UnlockRequest) -> Answer<'_, ()>;
    fn unlock_key(&self) -> Answer<'_, UnlockKey>;
    fn rotate_unlock_key(&self) -> Answer<'_, UnlockKey>;
    fn set_autolock(&self, enabled: bool) -> Answer<'_, UnlockKey>;
    fn token(&self, role: Role) -> Answer<'_, JoinToken>;
    fn rotate_token(&self, role: Role, request: RotateToken) -> Answer<'_, JoinToken>;
    fn rotate_ca(&self) -> Answer<'_, CaRotation>;
    fn backup(&self) -> Answer<'_, Backup>;
    fn restore(&self, request: RestoreRequest) -> Answer<'_, Membership>;

    fn networks(&self) -> Answer<'_, Vec<Network>>;
    fn create_network(&self, request: NetworkCreate) -> Answer<'_, Network>;
    /// By name, or else by VNI.
    fn network(&self, network: String) -> Answer<'_, NetworkDetail>;
    fn remove_network(&self, network: String) -> Answer<'_, ()>;
    fn prune_networks(&self, request: PruneRequest) -> Answer<'_, Pruned>;

    fn endpoints(&self, query: EndpointQuery) -> Answer<'_, Vec<Endpoint>>;
    /// Returns when the endpoint can send, or says in [`Endpoint::problem`] why it cannot.
    fn attach(&self, request: EndpointAttach) -> Answer<'_, Endpoint>;
    /// Of this node.
    fn endpoint(&self, network: String, name: String) -> Answer<'_, Endpoint>;
    fn detach(&self, network: String, name: String) -> Answer<'_, ()>;

    fn nodes(&self) -> Answer<'_, Vec<Node>>;
    /// By name, id, the beginning of an id, or `self`.
    fn node(&self, node: String) -> Answer<'_, Node>;
    fn update_node(&self, node: String, update: NodeUpdate) -> Answer<'_, Node>;
    fn remove_node(&self, node: String, force: bool) -> Answer<'_, Removed>;

    fn keys(&self) -> Answer<'_, KeysStatus>;
    fn rotate_keys(&self) -> Answer<'_, RotationBegun>;
    fn set_key_policy(&self, request: PolicyRequest) -> Answer<'_, Policy>;

    fn status(&self) -> Answer<'_, Status>;
    fn peers(&self) -> Answer<'_, Vec<Peer>>;
    fn events(&self, query: EventQuery) -> Answer<'_, EventStream>;
}
