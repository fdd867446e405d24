//! What memory an agent holds in a large cluster: a manager and a worker, both real, and members
//! without an agent, whose joins, leases and signed records reach both by the ways of real ones.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use overlay_agent::daemon::{
    config::DEFAULT_PORT,
    control::{
        client::{self, Client},
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
    time::Timestamp,
};
use overlay_ebpf::abi::{MacAddr, Vni};
use rustls::time_provider::DefaultTimeProvider;
use serde_json::{Map, Value, json};

use super::{field, times};
use crate::{
    cluster::{
        Cluster,
        liar::{brought, signed},
    },
    lab::{NodeSpec, Spec, eventually},
};

/// Endpoints of each member.
const EACH: u32 = 50;
/// Attached and detached beside them.
const ATTACHES: u32 = 20;
/// For the copies of planning, recording and checking to come and go.
const SETTLE: Duration = Duration::from_secs(20);
/// Records in one message of anti-entropy.
const RECORDS: usize = 1000;
/// Members in one network: a subnet has 256 blocks of addresses.
const TOGETHER: u32 = 200;

/// Lets so many members come, and says what the agents hold then.
pub fn measure(count: u32, encrypted: bool) -> Result<()> {
    let spec = Spec::new().routed();
    let mut cluster = Cluster::up(
        spec.node(NodeSpec::new().container("a", &[]))
            .node(NodeSpec::new().container("b", &[])),
    )?;
    let bench = Bench { count, encrypted };
    for node in [1, 2] {
        bench.print("no network", node, &cluster, &[])?;
    }
    for number in 1..=count.div_ceil(TOGETHER) {
        let subnet = format!("10.{}.0.0/16", 64 + number);
        let mut options = vec!["--subnet", &subnet];
        if encrypted {
            options.extend(["--opt", "encrypted"]);
        }
        cluster.create(&network(number), &options)?;
        for container in ["a", "b"] {
            // Encrypted networks are closed where the kernel has no ESP.
            let attached = cluster.attach(container, &network(number), &[]);
            ensure!(encrypted || attached.is_ok(), "{attached:?}");
        }
    }
    thread::sleep(Duration::from_secs(5));
    for node in [1, 2] {
        bench.print("alone", node, &cluster, &[])?;
    }

    let began = Instant::now();
    let members = join_all(&cluster, count)?;
    bench.print_time("joins and leases", began.elapsed());
    let records = records(&members)?;
    let began = Instant::now();
    for node in [1, 2] {
        tell(&cluster, &members, node, &records)?;
        eventually(crate::cluster::SETTLE, || {
            let endpoints = cluster.status(node)?["endpoints"].clone();
            let known = endpoints["remote"].as_u64().unwrap_or_default();
            ensure!(known >= u64::from(count * EACH), "{endpoints}");
            Ok(())
        })?;
    }
    bench.print_time("records", began.elapsed());
    thread::sleep(SETTLE);
    for node in [1, 2] {
        bench.print("full", node, &cluster, &[])?;
    }
    if encrypted {
        // Where the kernel has ESP: SAs of two epochs, inbound alone, because the members say nothing.
        for node in [1, 2] {
            // What was held at the most is counted from now on (proc(5), `clear_refs`).
            let peak = format!("/proc/{}/clear_refs", cluster.agent(node)?.pid()?);
            fs::write(&peak, "5").with_context(|| peak)?;
        }
        cluster.overlay(1, &["keys", "rotate"])?;
        thread::sleep(SETTLE / 2);
        for node in [1, 2] {
            bench.print("rotating", node, &cluster, &[])?;
        }
        return Ok(());
    }

    let netns = cluster.lab.netns("b")?.name().to_owned();
    let (mut attached, mut detached) = (Vec::new(), Vec::new());
    for _ in 0..ATTACHES {
        let words = ["endpoint", "attach", "n1", "--name", "x"];
        let words = [&words[..], &["--netns", &netns, "--interface", "x0"]].concat();
        let began = Instant::now();
        cluster.overlay(2, &words)?;
        attached.push(began.elapsed());
        let began = Instant::now();
        cluster.overlay(2, &["endpoint", "detach", "n1", "x"])?;
        detached.push(began.elapsed());
    }
    thread::sleep(SETTLE);
    bench.print(
        "attach, command",
        2,
        &cluster,
        &times::columns(&mut attached),
    )?;
    bench.print(
        "detach, command",
        2,
        &cluster,
        &times::columns(&mut detached),
    )?;
    Ok(())
}

struct Bench {
    count: u32,
    encrypted: bool,
}

impl Bench {
    fn line(&self, what: &str) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("members".into(), json!(what));
        line.insert("count".into(), json!(self.count));
        line.insert("endpoints".into(), json!(self.count * EACH));
        line.insert("encrypted".into(), json!(self.encrypted));
        line
    }

    /// What of a node's agent is in memory now, and was at the most.
    fn print(
        &self,
        what: &str,
        node: u32,
        cluster: &Cluster,
        more: &[(&'static str, Value)],
    ) -> Result<()> {
        let mut line = self.line(what);
        let role = if node == 1 { "manager" } else { "worker" };
        line.insert("agent".into(), json!(role));
        let status = format!("/proc/{}/status", cluster.agent(node)?.pid()?);
        for (name, of) in [
            ("rss_kib", "VmRSS:"),
            ("anon_kib", "RssAnon:"),
            ("file_kib", "RssFile:"),
            ("peak_kib", "VmHWM:"),
        ] {
            let value = field(&status, of).with_context(|| format!("{of} in {status}"))?;
            line.insert(name.into(), json!(value));
        }
        line.extend(
            more.iter()
                .cloned()
                .map(|(name, value)| (name.into(), value)),
        );
        println!("{}", Value::Object(line));
        Ok(())
    }

    fn print_time(&self, what: &str, took: Duration) {
        let mut line = self.line(what);
        line.insert("seconds".into(), json!(took.as_secs_f64()));
        println!("{}", Value::Object(line));
    }
}

/// A member without an agent.
struct Member {
    number: u32,
    key: NodeKey,
    joined: Joined,
    vni: Vni,
    block: IpNet,
}

impl Member {
    fn client(&self) -> Result<Client> {
        let own = Arc::new(Own::new(self.key.clone(), &self.joined.certificate)?);
        let members = Arc::new(LiveMembers::new(&self.joined.view));
        let tls = Tls::new(own, members, Arc::new(DefaultTimeProvider));
        Ok(Client::new(tls, ClientLimits::default())?)
    }

    /// All that it would tell of itself.
    fn records(&self) -> Result<Vec<Vec<u8>>> {
        let (cluster, epoch) = (self.joined.cluster, self.joined.view.epochs.current);
        let addresses = self.block.hosts().take(EACH as usize);
        let endpoints = (0..).zip(addresses).map(|(number, address)| {
            Body::Endpoint(Endpoint {
                vni: self.vni,
                mac: mac(address),
                ips: [address].into(),
                name: format!("web-{}-{number}", self.number).into(),
            })
        });
        let own = [
            Body::Node(Node {
                vteps: vec![address(self.number).ip()],
                control: address(self.number),
                software: env!("CARGO_PKG_VERSION").to_owned(),
                boot: BootNonce::from_bytes(rand::random()),
            }),
            Body::Ephemeral(ephemeral(epoch)),
        ];
        (1..)
            .zip(own.into_iter().chain(endpoints))
            .map(|(counter, body)| signed(&self.key, cluster, counter, body))
            .collect()
    }
}

fn ephemeral(epoch: EpochName) -> EphemeralRecord {
    EphemeralRecord {
        epoch,
        generation: Generation(1),
        public: PublicKey::from_bytes(rand::random()),
        lanes: 4,
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

fn network(number: u32) -> String {
    format!("n{number}")
}

/// The manager, as members ask it.
struct Manager {
    node: NodeId,
    address: SocketAddr,
}

impl Manager {
    fn of(joined: &Joined) -> Result<Self> {
        let mut peers = joined.view.peers.iter();
        let (node, peer) = peers
            .find(|(_, peer)| peer.name.as_str() == crate::cluster::name(1))
            .context("the manager is in the view")?;
        Ok(Self {
            node: *node,
            address: peer.contact.control,
        })
    }
}

/// All join, and have a block of addresses leased.
fn join_all(cluster: &Cluster, count: u32) -> Result<Vec<Member>> {
    let token = cluster.token(1, "worker")?;
    let manager = SocketAddr::new(cluster.address(1)?, DEFAULT_PORT);
    inside(cluster, async || {
        let mut members = Vec::new();
        for number in 1..=count {
            let member = join(number, &token, manager).await;
            members.push(member.with_context(|| format!("member {number}"))?);
        }
        Ok(members)
    })
}

async fn join(number: u32, token: &str, manager: SocketAddr) -> Result<Member> {
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
    let mut member = Member {
        number,
        vni: network.vni,
        key,
        joined,
        block: IpNet::default(),
    };
    let lease = Command::LeaseBlock {
        network: member.vni,
        node: member.key.node_id(),
        family: Family::V4,
        known: 0,
    };
    let manager = Manager::of(&member.joined)?;
    let mut connection = member
        .client()?
        .connect(manager.address, manager.node)
        .await?;
    let leased = connection.propose(lease, false).await?;
    connection.close().await;
    let Outcome::Leased { blocks } = leased else {
        anyhow::bail!("a lease gives {leased:?}");
    };
    member.block = *blocks.first().context("a block")?;
    Ok(member)
}

fn records(members: &[Member]) -> Result<Vec<Vec<u8>>> {
    let all: Vec<_> = members.iter().map(Member::records).collect::<Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// The last member to join, whose view has all nodes, brings a node everybody's records.
fn tell(cluster: &Cluster, members: &[Member], node: u32, records: &[Vec<u8>]) -> Result<()> {
    let bringer = members.last().context("a member")?;
    let mut peers = bringer.joined.view.peers.iter();
    let (id, peer) = peers
        .find(|(_, peer)| peer.name.as_str() == crate::cluster::name(node))
        .context("the agent is in the view")?;
    inside(cluster, async || {
        let client = bringer.client()?;
        let mut connection = client.connect(peer.contact.control, *id).await?;
        for records in records.chunks(RECORDS) {
            let message = MemberRequest::Sync(brought(records));
            let answer = connection.request(&message).await?;
            ensure!(matches!(answer, MemberResponse::Sync(_)), "{answer:?}");
        }
        connection.close().await;
        Ok(())
    })
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
