//! Nodes, tokens and the cluster's root, as the API asks for them.

use std::{collections::BTreeMap, time::Duration};

use overlay_cluster::{
    id::NodeId,
    identity::{
        Role,
        authority::{Authority, Validity},
    },
    log::{
        command::Command,
        member::{Member, Presence},
        names::Labels,
        tokens::Token,
        view::View,
    },
};

use super::{
    Agent, Running, errors,
    membership::{managers as addresses, now, rng, token_text},
    networks::{manager, propose},
};
use crate::{
    api::{
        ApiError, Code, Time,
        cluster::{CaRotation, JoinToken, RotateToken},
        node::{ManagerStatus, Node, NodeStatus, NodeUpdate, Removed},
    },
    daemon::managers::status::Status as ManagersStatus,
};

impl Agent {
    pub(super) fn list_nodes(&self) -> Result<Vec<Node>, ApiError> {
        let running = self.running()?;
        let mut nodes: Vec<Node> = Listing::new(&running).nodes().collect();
        nodes.sort_by_key(|node| node.index);
        Ok(nodes)
    }

    pub(super) fn inspect_node(&self, wanted: &str) -> Result<Node, ApiError> {
        let running = self.running()?;
        find(&running, wanted)
    }

    pub(super) async fn do_update_node(
        &self,
        wanted: &str,
        update: NodeUpdate,
    ) -> Result<Node, ApiError> {
        let running = self.running()?;
        manager(&running)?;
        let node = find(&running, wanted)?;
        let id = node.id;
        let NodeUpdate {
            name,
            role,
            availability,
            labels_add,
            labels_remove,
        } = update;
        let mut commands = Vec::new();
        if let Some(name) = name {
            commands.push(Command::Rename { node: id, name });
        }
        if !labels_remove.is_empty() || labels_add.iter().next().is_some() {
            let labels = changed(&node.labels, &labels_add, &labels_remove)?;
            commands.push(Command::SetLabels { node: id, labels });
        }
        if let Some(availability) = availability {
            let availability = availability.into();
            commands.push(Command::SetAvailability {
                node: id,
                availability,
            });
        }
        // The last: this node may be no manager then.
        if let Some(role) = role {
            commands.push(Command::SetRole { node: id, role });
        }
        for command in commands {
            propose(&running, command).await?;
        }
        let _later = running.node.refresh().await;
        find(&running, &id.to_string())
    }

    pub(super) async fn do_remove_node(
        &self,
        wanted: &str,
        force: bool,
    ) -> Result<Removed, ApiError> {
        let running = self.running()?;
        manager(&running)?;
        let node = find(&running, wanted)?;
        let (now, mut rng) = (now()?, rng()?);
        let command = if force {
            let tokens = manager(&running)?
                .with_log(|log| Some(log?.tokens().renewed(log?.now(now), &mut rng)));
            Command::Evict {
                node: node.id,
                tokens: tokens.ok_or_else(|| {
                    ApiError::unavailable("this manager does not have the log yet")
                })?,
            }
        } else {
            Command::Remove {
                node: node.id,
                down: matches!(node.status, NodeStatus::Down | NodeStatus::Left),
            }
        };
        propose(&running, command).await?;
        let _later = running.node.refresh().await;
        Ok(Removed {
            name: node.name,
            evicted: force,
        })
    }

    pub(super) fn do_token(&self, role: Role) -> Result<JoinToken, ApiError> {
        let running = self.running()?;
        let managers = manager(&running)?;
        let expires = managers.with_log(|log| log?.tokens().of(role).expires);
        Ok(JoinToken {
            role,
            token: token_text(&running, role)?,
            expires: expires.map(Time),
            managers: addresses(&running.node.view()),
        })
    }

    pub(super) async fn do_rotate_token(
        &self,
        role: Role,
        request: RotateToken,
    ) -> Result<JoinToken, ApiError> {
        let running = self.running()?;
        manager(&running)?;
        let (now, mut rng) = (now()?, rng()?);
        let lifetime = request.expires_in_seconds.map(Duration::from_secs);
        let token = Token::random(now, lifetime, &mut rng);
        let hash = token.secret.clone();
        propose(&running, Command::RotateToken { role, token }).await?;
        // The leader has it; this manager may hear of it a moment later.
        let managers = manager(&running)?;
        let mut changes = managers.changes();
        let seen = async {
            while managers.with_log(|log| Some(log?.tokens().of(role).secret != hash))
                != Some(false)
            {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _late = tokio::time::timeout(Duration::from_secs(5), seen).await;
        self.do_token(role)
    }

    /// Begins a change of the cluster's root: the leader promotes the new one once every node trusts it,
    /// and retires the old one once every certificate is of the new one.
    pub(super) async fn do_rotate_ca(&self) -> Result<CaRotation, ApiError> {
        let running = self.running()?;
        let managers = manager(&running)?;
        let (clock, mut rng) = (now()?, rng()?);
        let made = managers.with_log(|log| {
            let log = log?;
            let now = log.now(clock);
            let authority = Authority::generate(log.id(), &Validity::default(), now, &mut rng);
            Some((log.trust().issuer().digest(), authority))
        });
        let (expected, authority) =
            made.ok_or_else(|| ApiError::unavailable("this manager does not have the log yet"))?;
        let authority = authority.map_err(|error| errors::host(&error))?;
        let root = authority.root().digest().to_string();
        let command = Command::IntroduceRoot {
            expected,
            authority: Box::new(authority),
        };
        propose(&running, command).await?;
        Ok(CaRotation {
            root,
            old_until: None,
        })
    }
}

/// What a listing of nodes is made of.
struct Listing<'a> {
    running: &'a Running,
    view: std::sync::Arc<View>,
    up: std::collections::BTreeSet<NodeId>,
    down: std::collections::BTreeSet<NodeId>,
    managers: Option<ManagersStatus>,
}

impl<'a> Listing<'a> {
    fn new(running: &'a Running) -> Self {
        let gossip = running.node.status().gossip;
        Self {
            running,
            view: running.node.view(),
            up: gossip.up,
            down: gossip.down,
            managers: running.managers().map(|managers| managers.status()),
        }
    }

    fn nodes(&self) -> impl Iterator<Item = Node> {
        let logged: Option<Vec<Node>> = self.running.managers().and_then(|managers| {
            managers.with_log(|log| {
                let members = log?.roster().iter();
                Some(
                    members
                        .map(|(id, member)| self.member(*id, member))
                        .collect(),
                )
            })
        });
        let nodes = logged.unwrap_or_else(|| {
            let peers = self.view.peers.iter();
            let of = |(id, peer): (&NodeId, &overlay_cluster::log::view::Peer)| Node {
                id: *id,
                is_self: *id == self.view.node,
                name: peer.name.clone(),
                index: peer.index,
                role: peer.role,
                status: self.status(id),
                availability: peer.availability.into(),
                manager_status: self.manager_status(id, peer.role),
                vteps: peer.contact.vteps.iter().collect(),
                control: peer.contact.control,
                software: peer.contact.software.to_string(),
                labels: if *id == self.view.node {
                    self.view.labels.clone()
                } else {
                    Labels::default()
                },
                joined: Time(peer.joined),
            };
            peers.map(of).collect()
        });
        nodes.into_iter()
    }

    fn member(&self, id: NodeId, member: &Member) -> Node {
        let status = match member.presence {
            Presence::Left { .. } => NodeStatus::Left,
            Presence::Present => self.status(&id),
        };
        Node {
            id,
            is_self: id == self.view.node,
            name: member.name.clone(),
            index: member.index,
            role: member.role,
            status,
            availability: member.availability.into(),
            manager_status: self.manager_status(&id, member.role),
            vteps: member.contact.vteps.iter().collect(),
            control: member.contact.control,
            software: member.contact.software.to_string(),
            labels: member.labels.clone(),
            joined: Time(member.joined),
        }
    }

    fn status(&self, node: &NodeId) -> NodeStatus {
        if *node == self.view.node || self.up.contains(node) {
            NodeStatus::Ready
        } else if self.down.contains(node) {
            NodeStatus::Down
        } else {
            NodeStatus::Unknown
        }
    }

    fn manager_status(&self, node: &NodeId, role: Role) -> Option<ManagerStatus> {
        if role != Role::Manager {
            return None;
        }
        let Some(status) = &self.managers else {
            return Some(ManagerStatus::Unknown);
        };
        let one = status.managers.iter().find(|one| one.node == Some(*node));
        Some(match one {
            _ if status.leader == Some(*node) => ManagerStatus::Leader,
            Some(one) if one.answers || *node == self.view.node => ManagerStatus::Reachable,
            // One that does not lead hears the leader alone.
            Some(_) if status.leads => ManagerStatus::Unreachable,
            _ => match self.status(node) {
                NodeStatus::Ready => ManagerStatus::Reachable,
                _ => ManagerStatus::Unreachable,
            },
        })
    }
}

/// A node by name, id, the beginning of an id, or `self`.
fn find(running: &Running, wanted: &str) -> Result<Node, ApiError> {
    let nodes: Vec<Node> = Listing::new(running).nodes().collect();
    let exact = |node: &&Node| {
        (wanted == "self" && node.is_self)
            || node.name.as_str() == wanted
            || node.id.to_string() == wanted
    };
    if let Some(node) = nodes.iter().find(exact) {
        return Ok(node.clone());
    }
    let begins = |node: &&Node| wanted.len() >= 4 && node.id.to_string().starts_with(wanted);
    let mut found = nodes.iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node.clone()),
        (Some(_), Some(_)) => Err(ApiError::new(
            Code::BadRequest,
            format!("the ids of several nodes begin with {wanted}"),
            "give more of it, or the name",
        )),
        (None, _) => Err(ApiError::new(
            Code::NotFound,
            format!("there is no node {wanted}"),
            "`overlay node ls` lists them",
        )),
    }
}

fn changed(labels: &Labels, add: &Labels, remove: &[String]) -> Result<Labels, ApiError> {
    let mut all: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    for key in remove {
        if all.remove(key).is_none() {
            return Err(ApiError::new(
                Code::NotFound,
                format!("the node has no label {key}"),
                "`overlay node inspect` shows them",
            ));
        }
    }
    all.extend(
        add.iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    Labels::new(all).map_err(|error| ApiError::bad_request(&error))
}
