//! Members without an agent: their joins, leases, signed records and acknowledgements reach the agents by
//! the ways of real ones.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use overlay_agent::daemon::{
    config::DEFAULT_PORT,
    control::{
        client::{self, Client, Connection},
        limits::ClientLimits,
    },
    members::LiveMembers,
    tls::{Own, Tls},
};
use overlay_cluster::{
    control::{
        join::{Join, Joined, Joiner},
        member::{MemberRequest, MemberResponse},
    },
    gossip::{
        envelope::BootNonce,
        record::{Body, Endpoint, Node},
    },
    id::{EpochName, Generation, NodeId},
    identity::node_key::NodeKey,
    keys::{EphemeralRecord, PublicKey},
    log::{
        addresses::Family,
        command::{Command, Outcome},
        member::Contact,
        names::{Labels, NodeName, SoftwareVersion},
    },
    rotation::{Acknowledgement, EpochState, Seen, Staged},
    time::Timestamp,
};
use overlay_ebpf::abi::{MacAddr, Slot, Vni};
use rustls::time_provider::DefaultTimeProvider;

use super::members::AGENTS;
use crate::cluster::{
    self, Cluster,
    liar::{brought, ephemerals, lacking, say, signed},
};

/// Endpoints of each member.
pub const EACH: u32 = 50;
/// SAs of each pair, epoch and direction.
pub const LANES: u8 = 4;
/// Members in one network: a subnet has 256 blocks of addresses.
pub const TOGETHER: u32 = 200;
/// Records in one message of anti-entropy.
const RECORDS: usize = 1000;
/// Of each member's only start.
const GENERATION: Generation = Generation(1);

pub fn network(number: u32) -> String {
    format!("n{number}")
}

/// All of them.
pub struct Crowd<'a> {
    cluster: &'a Cluster,
    members: Vec<Member>,
}

impl<'a> Crowd<'a> {
    /// All join, and have a block of addresses leased.
    pub fn join(cluster: &'a Cluster, count: u32) -> Result<Self> {
        let token = cluster.token(1, "worker")?;
        let manager = SocketAddr::new(cluster.address(1)?, DEFAULT_PORT);
        let members = inside(cluster, async || {
            let mut members = Vec::new();
            for number in 1..=count {
                let member = Member::join(number, &token, manager).await;
                members.push(member.with_context(|| format!("member {number}"))?);
            }
            Ok(members)
        })?;
        Ok(Self { cluster, members })
    }

    /// All that they would tell of themselves.
    pub fn records(&self) -> Result<Vec<Vec<u8>>> {
        self.of_all(Member::records)
    }

    /// They go on to the epoch that the manager has begun: the records of their keys in it.
    pub fn next_epoch(&mut self) -> Result<Vec<Vec<u8>>> {
        let known = self.bringer()?.ephemerals.last().map(|last| last.epoch);
        let mut next = None;
        crate::lab::eventually(cluster::SETTLE, || {
            let live = self.told(1)?;
            next = live
                .last()
                .map(|last| last.epoch)
                .filter(|at| Some(*at) > known);
            ensure!(
                next.is_some(),
                "node 1 has no key in an epoch after {known:?}"
            );
            Ok(())
        })?;
        let next = next.context("an epoch")?;
        for member in &mut self.members {
            member.ephemerals.push(ephemeral(next));
        }
        self.of_all(|member| Ok(vec![member.newest_key()?]))
    }

    fn of_all(&self, of: impl Fn(&Member) -> Result<Vec<Vec<u8>>>) -> Result<Vec<Vec<u8>>> {
        let all: Vec<_> = self.members.iter().map(of).collect::<Result<_>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    /// One of them brings an agent everybody's records.
    pub fn tell(&self, node: u32, records: &[Vec<u8>]) -> Result<()> {
        let bringer = self.bringer()?;
        inside(self.cluster, async || {
            let mut connection = bringer.connect(node).await?;
            for records in records.chunks(RECORDS) {
                say(&mut connection, brought(records)).await?;
            }
            connection.close().await;
            Ok(())
        })
    }

    /// Each tells each agent that it can receive in all epochs that it knows.
    pub fn acknowledge(&self) -> Result<()> {
        for node in AGENTS {
            let live = self.told(node)?;
            inside(self.cluster, async || {
                for member in &self.members {
                    let number = member.number;
                    let said = member.acknowledge(node, &live).await;
                    said.with_context(|| format!("member {number} to node {node}"))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The ephemeral keys that an agent tells of itself, oldest epoch first.
    fn told(&self, node: u32) -> Result<Vec<EphemeralRecord>> {
        let bringer = self.bringer()?;
        let (id, _) = bringer.agent(node)?;
        let answer = inside(self.cluster, async || {
            let mut connection = bringer.connect(node).await?;
            let answer = say(&mut connection, lacking(id)).await?;
            connection.close().await;
            Ok(answer)
        })?;
        let mut told = ephemerals(&answer)?;
        told.sort_by_key(|record| record.epoch);
        Ok(told)
    }

    /// The last to join, whose view has all nodes.
    fn bringer(&self) -> Result<&Member> {
        self.members.last().context("a member")
    }
}

/// A member without an agent.
struct Member {
    number: u32,
    key: NodeKey,
    joined: Joined,
    vni: Vni,
    block: IpNet,
    /// Of each epoch that it knows, oldest first.
    ephemerals: Vec<EphemeralRecord>,
}

impl Member {
    async fn join(number: u32, token: &str, manager: SocketAddr) -> Result<Self> {
        let key = NodeKey::generate(&mut rand::rng());
        let contact = Contact {
            vteps: [address(number).ip()].into_iter().collect(),
            control: address(number),
            software: SoftwareVersion::new(env!("CARGO_PKG_VERSION"))?,
        };
        let joiner = Joiner {
            key: &key,
            name: NodeName::new(format!("member-{number}"))?,
            contact,
            labels: Labels::default(),
        };
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now = Timestamp::from_millis(u64::try_from(clock.as_millis())?);
        let join = Join::new(token, joiner, now)?;
        let clock = Arc::new(DefaultTimeProvider);
        let (_, joined) = client::join(manager, join, clock, ClientLimits::default()).await?;
        let mut networks = joined.view.networks.values();
        let network = networks
            .find(|known| known.name.as_str() == network(number.div_ceil(TOGETHER)))
            .context("the network is in the view")?;
        let mut member = Self {
            number,
            vni: network.vni,
            key,
            ephemerals: vec![ephemeral(joined.view.epochs.current)],
            joined,
            block: IpNet::default(),
        };
        let lease = Command::LeaseBlock {
            network: member.vni,
            node: member.key.node_id(),
            family: Family::V4,
            known: 0,
        };
        let mut connection = member.connect(1).await?;
        let leased = connection.propose(lease, false).await?;
        connection.close().await;
        let Outcome::Leased { blocks } = leased else {
            anyhow::bail!("a lease gives {leased:?}");
        };
        member.block = *blocks.first().context("a block")?;
        Ok(member)
    }

    /// All that it would tell of itself.
    fn records(&self) -> Result<Vec<Vec<u8>>> {
        let node = Body::Node(Node {
            vteps: vec![address(self.number).ip()],
            control: address(self.number),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            boot: BootNonce::from_bytes(rand::random()),
        });
        let keys = self.ephemerals.iter().copied().map(Body::Ephemeral);
        let addresses = self.block.hosts().take(EACH as usize);
        let endpoints = (0..).zip(addresses).map(|(number, address)| {
            Body::Endpoint(Endpoint {
                vni: self.vni,
                mac: mac(address),
                ips: [address].into(),
                name: format!("web-{}-{number}", self.number).into(),
            })
        });
        let all = [node].into_iter().chain(keys).chain(endpoints);
        (1..)
            .zip(all)
            .map(|(counter, body)| self.sign(counter, body))
            .collect()
    }

    /// The record of its newest key, after all others.
    fn newest_key(&self) -> Result<Vec<u8>> {
        let newest = *self.ephemerals.last().context("a key")?;
        let counter = u64::from(newest.epoch.number) << 32;
        self.sign(counter, Body::Ephemeral(newest))
    }

    fn sign(&self, counter: u64, body: Body) -> Result<Vec<u8>> {
        signed(&self.key, self.joined.cluster, counter, body)
    }

    /// Tells the agent whose keys these are that it has staged SAs for it in each of their epochs.
    async fn acknowledge(&self, node: u32, live: &[EphemeralRecord]) -> Result<()> {
        let generation = live.first().context("the agent has a key")?.generation;
        let (to, _) = self.agent(node)?;
        let epochs = live.iter().filter_map(|theirs| {
            let mut own = self.ephemerals.iter();
            let own = own.find(|own| own.epoch == theirs.epoch)?;
            let number = own.epoch.number;
            Some(EpochState {
                epoch: own.epoch,
                public: own.public,
                lanes: LANES,
                staged: Some(Staged {
                    sender_generation: theirs.generation,
                    sender_public: theirs.public,
                    slot: Slot::new(number as u8),
                    lanes: LANES,
                    session: number.into(),
                }),
                refused: None,
            })
        });
        let message = Acknowledgement {
            cluster: self.joined.cluster,
            from: self.key.node_id(),
            to,
            index: self.joined.index,
            generation: GENERATION,
            sequence: self.ephemerals.len() as u64,
            seen: Some(Seen {
                generation,
                sequence: 0,
            }),
            wants_reply: false,
            epochs: epochs.collect(),
            held: Vec::new(),
            transmit: None,
        };
        let mut connection = self.connect(node).await?;
        let request = MemberRequest::Acknowledge(message);
        let answer = connection.request(&request).await?;
        ensure!(matches!(answer, MemberResponse::Heard), "{answer:?}");
        connection.close().await;
        Ok(())
    }

    async fn connect(&self, node: u32) -> Result<Connection> {
        let own = Arc::new(Own::new(self.key.clone(), &self.joined.certificate)?);
        let members = Arc::new(LiveMembers::new(&self.joined.view));
        let tls = Tls::new(own, members, Arc::new(DefaultTimeProvider));
        let client = Client::new(tls, ClientLimits::default())?;
        let (id, address) = self.agent(node)?;
        Ok(client.connect(address, id).await?)
    }

    /// A real node, and where it listens.
    fn agent(&self, node: u32) -> Result<(NodeId, SocketAddr)> {
        let mut peers = self.joined.view.peers.iter();
        let (id, peer) = peers
            .find(|(_, peer)| peer.name.as_str() == cluster::name(node))
            .context("the agent is in the view")?;
        Ok((*id, peer.contact.control))
    }
}

fn ephemeral(epoch: EpochName) -> EphemeralRecord {
    EphemeralRecord {
        epoch,
        generation: GENERATION,
        public: PublicKey::from_bytes(rand::random()),
        lanes: LANES,
    }
}

/// The default MAC of an endpoint.
fn mac(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(v4) => MacAddr::from_ipv4(v4.octets()),
        IpAddr::V6(_) => MacAddr([2, 0, 0, 0, 0, 1]),
    }
}

/// Beyond the router, which knows no way there.
fn address(number: u32) -> SocketAddr {
    let [_, _, c, d] = number.to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, 200, c, d).into(), DEFAULT_PORT)
}

/// In the namespace of the manager.
fn inside<T: Send>(cluster: &Cluster, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    cluster.lab.node(1)?.netns.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(work())
    })?
}
