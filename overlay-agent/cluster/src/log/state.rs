//! The state of the managers, and how commands change it.

use std::time::Duration;

use ipnet::IpNet;
use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use super::{
    addresses::Family,
    authorities::Authorities,
    blocks::Blocks,
    changes::{Change, Changes},
    command::{Command, Genesis, Outcome},
    epochs::{Epochs, NewEpoch},
    member::{Availability, Contact, Role},
    names::{Labels, NodeName},
    networks::{Network, NetworkRequest, Networks},
    refusal::Refusal,
    roster::{Applicant, Roster},
    settings::Settings,
    tokens::{TokenHash, Tokens},
};
use crate::{
    id::{ClusterId, EpochName, NodeId},
    keys::EpochSecrets,
    time::Timestamp,
};

/// What the managers replicate: nothing, until a cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    cluster: Option<Box<Cluster>>,
}

impl State {
    /// Applies the next command of the log, proposed at `at` by the clock of the leader of then.
    /// Refused, it changes nothing. The same commands give the same state, byte for byte.
    pub fn apply(&mut self, at: Timestamp, command: Command) -> Result<Outcome, Refusal> {
        match (&mut self.cluster, command) {
            (Some(cluster), command) => cluster.apply(at, command),
            (none, Command::Initialise(genesis)) => {
                let (cluster, outcome) = Cluster::new(at, *genesis)?;
                *none = Some(Box::new(cluster));
                Ok(outcome)
            }
            (None, _) => Err(Refusal::NotInitialised),
        }
    }

    /// The cluster, once there is one.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_deref()
    }

    /// What is wrong with the state, if anything: it was read from a disk.
    pub fn fault(&self) -> Option<String> {
        self.cluster.as_ref().and_then(|cluster| cluster.fault())
    }
}

/// The state of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    id: ClusterId,
    /// Counts accepted commands.
    revision: u64,
    /// Of the last accepted command; never goes back, whatever clock a new leader has.
    time: Timestamp,
    authorities: Authorities,
    roster: Roster,
    tokens: Tokens,
    networks: Networks,
    blocks: Blocks,
    epochs: Epochs,
    settings: Settings,
    changes: Changes,
}

impl Cluster {
    /// How far a command may move the time of the log. Longer than the longest rotation interval, so
    /// that a cluster which rotates never meets it.
    pub const MAX_LEAP: Duration = Duration::from_secs(8 * 24 * 3600);

    fn new(at: Timestamp, genesis: Genesis) -> Result<(Self, Outcome), Refusal> {
        let Genesis {
            cluster: id,
            authority,
            manager,
            tokens,
            epoch,
            policy,
            settings,
        } = genesis;
        let authorities = Authorities::new(id, &authority, at)?;
        tokens.check(at)?;
        settings.check()?;
        let epochs = Epochs::new(at, epoch, policy)?;
        let mut roster = Roster::default();
        let node = manager.key.id();
        let role = Role::Manager;
        let (index, admission) = roster.join(at, manager, role)?;
        let cluster = Self {
            id,
            revision: 1,
            time: at,
            authorities,
            roster,
            tokens,
            networks: Networks::default(),
            blocks: Blocks::default(),
            epochs,
            settings,
            changes: Changes::default(),
        };
        let outcome = Outcome::Joined {
            node,
            index,
            role,
            admission,
        };
        Ok((cluster, outcome))
    }

    pub const fn id(&self) -> ClusterId {
        self.id
    }

    pub const fn revision(&self) -> u64 {
        self.revision
    }

    pub const fn time(&self) -> Timestamp {
        self.time
    }

    pub const fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub const fn networks(&self) -> &Networks {
        &self.networks
    }

    pub const fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub const fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The time of the log as a leader reads its clock: what to ask [`Epochs::due`] with.
    pub fn now(&self, clock: Timestamp) -> Timestamp {
        self.time.max(clock)
    }

    /// The secrets of an epoch, for a node that takes part.
    pub fn secrets(&self, node: &NodeId, epoch: EpochName) -> Result<&EpochSecrets, Refusal> {
        self.roster.present(node)?;
        Ok(self.epochs.secrets(epoch)?)
    }

    /// Whether a leader's clock is too far ahead of the log to be believed. Time never goes back, so
    /// one wrong clock would end every schedule: nothing would be due before that time.
    fn check_clock(&self, at: Timestamp, command: &Command) -> Result<(), Refusal> {
        match command {
            Command::ConfirmTime | Command::Restore { .. } => Ok(()),
            _ if at.since(self.time) > Self::MAX_LEAP => Err(Refusal::ClockAhead {
                clock: at,
                log: self.time,
            }),
            _ => Ok(()),
        }
    }

    /// Every path checks all before it changes anything, and only an accepted command moves time
    /// and revision.
    fn apply(&mut self, at: Timestamp, command: Command) -> Result<Outcome, Refusal> {
        self.check_clock(at, &command)?;
        let now = self.now(at);
        let outcome = self.decide(now, command)?;
        self.time = now;
        self.revision += 1;
        Ok(outcome)
    }

    fn decide(&mut self, now: Timestamp, command: Command) -> Result<Outcome, Refusal> {
        match command {
            Command::Initialise(_) => Err(Refusal::Initialised { cluster: self.id }),
            Command::Restore { next, tokens } => self.restore(now, next, tokens),
            Command::ConfirmTime => Ok(Outcome::Done),

            Command::Join { token, applicant } => self.join(now, &token, applicant),
            Command::Renew { node, contact } => self.renew(&node, contact),
            Command::Rename { node, name } => {
                self.roster.rename(&node, name)?;
                Ok(self.changed(Change::Member(node)))
            }
            Command::SetRole { node, role } => {
                self.roster.set_role(&node, role)?;
                Ok(self.changed(Change::Member(node)))
            }
            Command::SetAvailability { node, availability } => {
                self.roster.set_availability(&node, availability)?;
                Ok(self.changed(Change::Member(node)))
            }
            Command::SetLabels { node, labels } => self.set_labels(&node, labels),
            Command::Leave { node } => {
                self.roster.leave(now, &node)?;
                Ok(self.gone(&node))
            }
            Command::Remove { node, down } => {
                self.roster.remove(&node, down)?;
                Ok(self.gone(&node))
            }
            Command::Evict { node, tokens } => self.evict(now, &node, tokens),
            Command::RotateToken { role, token } => {
                self.tokens.rotate(role, token, now)?;
                Ok(Outcome::Done)
            }
            Command::IntroduceRoot {
                expected,
                authority,
            } => {
                self.authorities.introduce(expected, &authority, now)?;
                Ok(self.changed(Change::Trust))
            }
            Command::PromoteRoot {
                expected,
                root,
                tokens,
                force,
            } => {
                self.tokens.check_replace(&tokens, now)?;
                self.authorities.promote(expected, root, force, now)?;
                self.tokens = tokens;
                Ok(self.changed(Change::Trust))
            }
            Command::RetireRoot {
                expected,
                root,
                force,
            } => {
                self.authorities.retire(expected, root, force, now)?;
                Ok(self.changed(Change::Trust))
            }

            Command::CreateNetwork(request) => self.create_network(now, request),
            Command::RemoveNetwork {
                vni,
                endpoints,
                discard,
            } => self.remove_network(vni, endpoints, discard),
            Command::PruneNetworks { candidates } => Ok(self.prune(&candidates)),

            Command::LeaseBlock {
                network,
                node,
                family,
                known,
            } => self.lease_block(network, &node, family, known),
            Command::ClaimBlock {
                network,
                node,
                block,
            } => self.claim_block(network, &node, block),
            Command::ReturnBlock {
                network,
                node,
                block,
            } => {
                self.roster.present(&node)?;
                let network = self.networks.get(network)?;
                self.blocks.give_back(network, &node, block)?;
                Ok(self.changed(Change::Blocks(node)))
            }

            Command::StageEpoch {
                expected,
                next,
                reason,
            } => {
                self.epochs.stage(now, expected, next, reason)?;
                Ok(self.changed(Change::Epochs))
            }
            Command::ActivateEpoch {
                expected,
                readiness,
            } => {
                self.epochs.activate(now, expected, readiness)?;
                Ok(self.changed(Change::Epochs))
            }
            Command::RetireEpoch { expected } => {
                let oldest = self.epochs.retire(now, expected)?;
                self.blocks.retired(oldest);
                self.networks.retired(oldest);
                Ok(self.changed(Change::Epochs))
            }
            Command::SetRotationPolicy(policy) => {
                self.epochs.set_policy(policy)?;
                Ok(self.changed(Change::Epochs))
            }
            Command::SetSettings(settings) => {
                settings.check()?;
                self.settings = settings;
                Ok(self.changed(Change::Settings))
            }
        }
    }

    fn changed(&mut self, change: Change) -> Outcome {
        self.changes.record(self.revision + 1, change);
        Outcome::Done
    }

    fn restore(
        &mut self,
        now: Timestamp,
        next: NewEpoch,
        tokens: Tokens,
    ) -> Result<Outcome, Refusal> {
        self.tokens.check_replace(&tokens, now)?;
        self.epochs.restore(now, next)?;
        self.tokens = tokens;
        self.roster.restored();
        self.networks.restored();
        Ok(self.changed(Change::Epochs))
    }

    fn join(
        &mut self,
        now: Timestamp,
        token: &TokenHash,
        applicant: Applicant,
    ) -> Result<Outcome, Refusal> {
        let role = self.tokens.role_of(self.id, token, now)?;
        self.networks.check_node(applicant.contact.addresses())?;
        let node = applicant.key.id();
        let (index, admission) = self.roster.join(now, applicant, role)?;
        self.changed(Change::Member(node));
        Ok(Outcome::Joined {
            node,
            index,
            role,
            admission,
        })
    }

    fn renew(&mut self, node: &NodeId, contact: Contact) -> Result<Outcome, Refusal> {
        self.networks.check_node(contact.addresses())?;
        self.roster.renew(node, contact)?;
        Ok(self.changed(Change::Member(*node)))
    }

    fn set_labels(&mut self, node: &NodeId, labels: Labels) -> Result<Outcome, Refusal> {
        let name = self.roster.present(node)?.name.clone();
        for vni in self.blocks.held_by(node).into_keys() {
            if let Err(broken) = self.networks.get(vni)?.may_host(&labels) {
                return Err(Refusal::LabelsExclude { name, broken });
            }
        }
        self.roster.set_labels(node, labels)?;
        Ok(self.changed(Change::Member(*node)))
    }

    fn evict(&mut self, now: Timestamp, node: &NodeId, tokens: Tokens) -> Result<Outcome, Refusal> {
        self.tokens.check_replace(&tokens, now)?;
        let index = self.roster.evict(now, node)?;
        self.tokens = tokens;
        self.epochs.evicted();
        self.changed(Change::Epochs);
        self.gone(node);
        Ok(Outcome::Evicted { index })
    }

    /// A node knows the epochs that are held now: its addresses wait until they have retired.
    fn gone(&mut self, node: &NodeId) -> Outcome {
        self.blocks.close(node, self.epochs.newest());
        self.changed(Change::Blocks(*node));
        self.changed(Change::Member(*node))
    }

    fn create_network(
        &mut self,
        now: Timestamp,
        request: NetworkRequest,
    ) -> Result<Outcome, Refusal> {
        let nodes = node_addresses(&self.roster);
        let vni = self
            .networks
            .create(now, request, nodes, self.settings.vnis)?;
        self.changed(Change::Network(vni));
        Ok(Outcome::Created { vni })
    }

    fn remove_network(
        &mut self,
        vni: Vni,
        endpoints: u32,
        discard: u32,
    ) -> Result<Outcome, Refusal> {
        let blocks = self.blocks.count(vni);
        let discarded = usize::try_from(discard).unwrap_or(usize::MAX);
        self.networks
            .check_remove(vni, endpoints, blocks, discarded)?;
        self.take_out(vni, blocks > 0);
        Ok(Outcome::Done)
    }

    fn prune(&mut self, candidates: &[Vni]) -> Outcome {
        let mut networks = Vec::new();
        for &vni in candidates {
            if self.networks.get(vni).is_ok() && self.blocks.count(vni) == 0 {
                self.take_out(vni, false);
                networks.push(vni);
            }
        }
        Outcome::Pruned { networks }
    }

    fn take_out(&mut self, vni: Vni, had_blocks: bool) {
        for node in self.blocks.holders(vni) {
            self.changed(Change::Blocks(node));
        }
        self.blocks.remove(vni);
        self.networks.remove(vni, had_blocks, self.epochs.newest());
        self.changed(Change::Network(vni));
    }

    /// Whether the node may have addresses for new endpoints of the network.
    fn check_takes_endpoints(&self, vni: Vni, node: &NodeId) -> Result<(), Refusal> {
        let member = self.roster.present(node)?;
        let network = self.networks.get(vni)?;
        if member.availability == Availability::Drain {
            return Err(Refusal::Drained {
                name: member.name.clone(),
                network: network.name.clone(),
            });
        }
        Ok(())
    }

    /// The network, if the node may host endpoints of it.
    fn host(&self, vni: Vni, node: &NodeId) -> Result<&Network, Refusal> {
        let member = self.roster.present(node)?;
        let network = self.networks.get(vni)?;
        network
            .may_host(&member.labels)
            .map_err(|refusal| Refusal::Network(refusal.into()))?;
        Ok(network)
    }

    fn lease_block(
        &mut self,
        vni: Vni,
        node: &NodeId,
        family: Family,
        known: u32,
    ) -> Result<Outcome, Refusal> {
        self.check_takes_endpoints(vni, node)?;
        self.host(vni, node)?;
        if let Some(epoch) = self.epochs.restoring() {
            return Err(Refusal::Restoring { epoch });
        }
        let network = self.networks.get(vni)?;
        let blocks = self.blocks.lease(network, node, family, known)?;
        self.changed(Change::Blocks(*node));
        Ok(Outcome::Leased { blocks })
    }

    fn claim_block(&mut self, vni: Vni, node: &NodeId, block: IpNet) -> Result<Outcome, Refusal> {
        // A block is what the node held before a restored backup: a drained node keeps what it has.
        if block.prefix_len() == block.max_prefix_len() {
            self.check_takes_endpoints(vni, node)?;
        }
        self.host(vni, node)?;
        let network = self.networks.get(vni)?;
        let blocks = vec![self.blocks.claim(network, node, block)?];
        self.changed(Change::Blocks(*node));
        Ok(Outcome::Leased { blocks })
    }

    fn fault(&self) -> Option<String> {
        let networks = &self.networks;
        let members = || self.roster.fault();
        let labels = || {
            self.roster.iter().find_map(|(node, member)| {
                self.blocks.held_by(node).into_keys().find_map(|vni| {
                    let broken = networks.get(vni).ok()?.may_host(&member.labels).err()?;
                    Some(broken.to_string())
                })
            })
        };
        let blocks = || {
            self.blocks.fault(
                |vni| networks.get(vni).ok(),
                |node| self.roster.present(node).is_ok(),
            )
        };
        let hidden = || {
            let addresses = node_addresses(&self.roster).map(|(address, _)| address);
            networks.check_node(addresses).err().map(|e| e.to_string())
        };
        let tokens = || {
            let same = self.tokens.worker.secret == self.tokens.manager.secret;
            same.then(|| "both tokens are the same".to_owned())
        };
        members()
            .or_else(|| self.authorities.fault(self.id))
            .or_else(|| networks.fault())
            .or_else(blocks)
            .or_else(labels)
            .or_else(hidden)
            .or_else(tokens)
            .or_else(|| self.epochs.fault())
            .or_else(|| self.settings.check().err().map(|e| e.to_string()))
            .or_else(|| self.changes.fault(self.revision))
            .or_else(|| (self.revision > u64::MAX / 2).then(|| "an absurd revision".into()))
    }
}

/// The addresses of the nodes that take part.
fn node_addresses(roster: &Roster) -> impl Iterator<Item = (std::net::IpAddr, &NodeName)> {
    roster
        .iter()
        .filter(|(_, member)| member.is_present())
        .flat_map(|(_, member)| {
            let addresses = member.contact.addresses();
            addresses.map(move |address| (address, &member.name))
        })
}
