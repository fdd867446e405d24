//! Who belongs to no cluster, or to another, gets nothing and changes nothing; a member that lies changes
//! nothing but what is its own.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_agent::{
    daemon::tls::{Own, Service},
    state::membership::Membership,
};
use overlay_cluster::{
    control::{
        member::{MemberRefused, MemberRequest, MemberResponse, ProposeRefused},
        renew::RenewRequest,
    },
    gossip::{
        anti_entropy::MAX_MESSAGE,
        record::{Body, Content, Endpoint, Key, Node, Record, Version},
        store::MAX_OF_OWNER,
    },
    id::{Generation, NodeId},
    identity::{csr::CertificateRequest, node_key::NodeKey},
    log::{command::Command, names::NodeName},
};
use overlay_ebpf::abi::{MacAddr, Vni};
use overlay_tests::{
    cluster::{
        Agent, Cluster, SETTLE,
        liar::{Liar, Said, gossip},
        nodes,
        stranger::{ask, frame},
    },
    lab::{Family, Netns, eventually},
};
use serde_json::Value;

/// Where every node listens.
const PORT: u16 = 7790;
/// What attacks may cost an agent, in bytes, beside what it needs for its work.
const MEMORY: u64 = 32 << 20;
/// Between two looks at a connection.
const TICK: Duration = Duration::from_millis(20);

/// What nodes believe, and what is in their kernels, by node. Counters and what is of the node `but` are
/// left out.
#[derive(Debug, PartialEq)]
struct Believed(BTreeMap<u32, [Vec<String>; 5]>);

impl Believed {
    fn of(cluster: &Cluster, asked: &[u32], but: Option<u32>) -> Result<Self> {
        let elsewhere = format!("peer {}", but.unwrap_or(0));
        let but = but.map(overlay_tests::cluster::name);
        let list = |node: u32, what: &[&str], fields: &[&str]| -> Result<Vec<String>> {
            let all = cluster.json(node, what)?;
            Ok(lines(&all, fields, but.as_deref()))
        };
        asked
            .iter()
            .map(|&node| {
                let nodes = list(
                    node,
                    &["node", "ls"],
                    &["id", "name", "index", "role", "vteps"],
                )?;
                let networks = list(node, &["network", "ls"], &["name", "vni", "subnets"])?;
                let fields = ["network", "name", "node", "mac", "addresses"];
                let endpoints = list(node, &["endpoint", "ls", "--all"], &fields)?;
                let peers = list(
                    node,
                    &["peers"],
                    &["index", "name", "vtep", "device", "path_mtu"],
                )?;
                let shown = cluster.json(node, &["dataplane", "show"])?;
                let fields = ["vni", "mac", "addresses", "location", "altered"];
                let mut in_kernel = lines(&shown["endpoints"], &fields, None);
                in_kernel.retain(|line| !line.contains(&elsewhere));
                Ok((node, [nodes, networks, endpoints, peers, in_kernel]))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// An error if there is nothing that could change.
    fn is_full(&self) -> Result<()> {
        let mut lists = self.0.values().flatten();
        ensure!(lists.all(|list| !list.is_empty()), "{self:?}");
        Ok(())
    }
}

/// These fields of each entry, in order; without the entries of a node.
fn lines(all: &Value, fields: &[&str], but: Option<&str>) -> Vec<String> {
    let entries = all.as_array().into_iter().flatten();
    let mut lines: Vec<String> = entries
        .filter(|one| but.is_none_or(|but| one["name"] != but && one["node"] != but))
        .map(|one| {
            let text = fields
                .iter()
                .map(|field| format!("{field}={} ", one[field]));
            text.collect()
        })
        .collect();
    lines.sort();
    lines
}

/// The certificate and key that an agent has.
fn shown_by(agent: &Agent) -> Result<(NodeKey, Arc<Own>)> {
    let stored = Membership::new(&agent.state()).load()?;
    let stored = stored.context("the agent is no member")?;
    let own = Own::new(stored.key.clone(), &stored.certificate)?;
    Ok((stored.key, Arc::new(own)))
}

fn memory(cluster: &Cluster, nodes: &[u32]) -> Result<Vec<u64>> {
    nodes
        .iter()
        .map(|node| cluster.agent(*node)?.memory())
        .collect()
}

fn bounded(cluster: &Cluster, nodes: &[u32], before: &[u64]) -> Result<()> {
    let after = memory(cluster, nodes)?;
    println!("agents held {before:?} bytes, and hold {after:?}");
    for ((node, before), after) in nodes.iter().zip(before).zip(after) {
        ensure!(
            after < before + MEMORY,
            "agent {node} had {before} bytes and has {after}"
        );
    }
    Ok(())
}

/// Pseudo-random bytes, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// What is no TLS, or stops being any.
fn garbage() -> Vec<Vec<u8>> {
    let mut noise = Noise(7);
    let record = |kind: u8, length: u16| [&[kind, 3, 3], &length.to_be_bytes()[..]].concat();
    vec![
        Vec::new(),
        vec![0; 4096],
        vec![0xff; 4096],
        noise.bytes(65536),
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(),
        // A handshake record of the greatest length that never comes, and one that is too long.
        record(22, 1 << 14),
        record(22, u16::MAX),
        // Application data before any handshake; an alert.
        [record(23, 512), noise.bytes(512)].concat(),
        [record(21, 2), vec![2, 40]].concat(),
        // A client hello that says to be 16 MiB long.
        [record(22, 64), vec![1, 0xff, 0xff, 0xff], noise.bytes(60)].concat(),
    ]
}

/// Says something, and waits until the other side ends the connection; whether it said something itself.
fn say(address: SocketAddr, bytes: &[u8]) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, SETTLE)?;
    stream.set_read_timeout(Some(SETTLE))?;
    // It may be ended before everything is said.
    let _partly = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("wait for the end of a connection"),
    }
    // An alert is no answer.
    Ok(answer.iter().any(|byte| *byte != 0) && answer.first() != Some(&21))
}

/// Datagrams of every length, some with a header that names a member.
fn flood(from: &Netns, to: IpAddr, members: &[NodeId], count: usize) -> Result<usize> {
    from.enter(|| {
        let socket = UdpSocket::bind((Family::of(to).unspecified(), 0))?;
        let mut noise = Noise(11);
        let mut sent = 0;
        for number in 0..count {
            let mut bytes = noise.bytes(number % 1473);
            if let (Some(header), true) = (bytes.get_mut(..25), number % 2 == 0) {
                header[0] = 1;
                header[1..9].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1 + (number % 8) as u8]);
                header[9..].copy_from_slice(members[number / 2 % members.len()].as_bytes());
            }
            // What the own kernel refuses is no part of the flood.
            sent += usize::from(socket.send_to(&bytes, (to, PORT)).is_ok());
        }
        Ok(sent)
    })?
}

#[test]
fn strangers_get_nothing_and_hold_nobody_up() -> Result<()> {
    const VICTIMS: [u32; 2] = [1, 2];
    const INTRUDER: u32 = 3;
    const LATE: u32 = 4;
    let mut cluster = Cluster::new(nodes(&["a", "b", "c", "d"]))?;
    for node in 1..=4 {
        cluster.agent_mut(node)?.start()?;
    }
    cluster.init(1, &[])?;
    cluster.join(2, 1, "worker")?;
    cluster.init(INTRUDER, &[])?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &["a", "b"])?;
    let before = Believed::of(&cluster, &VICTIMS, None)?;
    before.is_full()?;
    let held = memory(&cluster, &VICTIMS)?;
    let (_echo, stream) = cluster.stream("a", "b", "green")?;
    let wire = &cluster.lab.node(INTRUDER)?.netns;
    let addresses: Vec<_> = VICTIMS
        .iter()
        .map(|node| Ok(SocketAddr::new(cluster.address(*node)?, PORT)))
        .collect::<Result<_>>()?;

    // Who is a member is answered: what follows is refused for who asks.
    let view = frame(&MemberRequest::PullView { have: None })?;
    let (member, member_shows) = shown_by(cluster.agent(2)?)?;
    let (foreign, foreign_shows) = shown_by(cluster.agent(INTRUDER)?)?;
    let manager = addresses[0];
    let answer =
        wire.enter(|| ask(manager, Service::Member.alpn(), Some(member_shows), &view))??;
    ensure!(!answer.is_empty(), "a member is not answered");
    let renew = |key: &NodeKey| -> Result<Vec<u8>> {
        let request = CertificateRequest::sign(key)?;
        frame(&RenewRequest::Renew { request })
    };
    for service in Service::ALL {
        for shown in [None, Some(foreign_shows.clone())] {
            let said = match service {
                Service::Member => view.clone(),
                Service::Renew if shown.is_none() => renew(&member)?,
                Service::Renew => renew(&foreign)?,
                Service::Join | Service::Raft => Noise(3).bytes(200),
            };
            let with = if shown.is_some() { "a foreign" } else { "no" };
            let answer = wire.enter(|| ask(manager, service.alpn(), shown, &said))?;
            ensure!(
                answer.as_ref().map_or(true, Vec::is_empty),
                "{service:?} answers who shows {with} certificate: {answer:?}"
            );
        }
    }

    // More silent connections than one address may have. Others are let in meanwhile.
    let silent: Vec<_> = wire.enter(|| {
        addresses
            .iter()
            .flat_map(|address| (0..100).map(|_| TcpStream::connect_timeout(address, SETTLE)))
            .collect::<Result<_, _>>()
    })??;
    cluster.join(LATE, 1, "worker")?;
    cluster.create("red", &["--subnet", "10.8.0.0/24"])?;
    cluster.sees(2, "red")?;
    drop(silent);
    wire.enter(|| {
        thread::scope(|scope| {
            let noisy: Vec<_> = addresses
                .iter()
                .flat_map(|address| garbage().into_iter().map(|bytes| (*address, bytes)))
                .map(|(address, bytes)| scope.spawn(move || say(address, &bytes)))
                .collect();
            for answered in noisy {
                let answered = answered.join().map_err(|_| anyhow::anyhow!("a panic"))??;
                ensure!(!answered, "garbage is answered");
            }
            Ok(())
        })
    })??;

    let members: Vec<NodeId> = [&member, &shown_by(cluster.agent(1)?)?.0]
        .iter()
        .map(|key| key.node_id())
        .collect();
    for address in &addresses {
        let sent = flood(wire, address.ip(), &members, 20_000)?;
        ensure!(sent > 10_000, "the flood has only {sent} datagrams");
    }
    for node in VICTIMS {
        eventually(SETTLE, || {
            cluster.good(node)?;
            let status = cluster.status(node)?;
            ensure!(status["nodes"]["ready"] == 3, "{status}");
            let drops = status["drops"].as_array().into_iter().flatten();
            let refused: u64 = drops
                .filter(|drop| drop["layer"] == "gossip")
                .filter_map(|drop| drop["packets"].as_u64())
                .sum();
            ensure!(refused > 1000, "the status hides the flood: {status}");
            Ok(())
        })?;
    }
    bounded(&cluster, &VICTIMS, &held)?;
    // The late node and the network are there, and nothing else is new.
    cluster.overlay(1, &["network", "rm", "--yes", "red"])?;
    eventually(SETTLE, || {
        let after = Believed::of(&cluster, &VICTIMS, Some(LATE))?;
        ensure!(after == before, "{before:?} has become {after:?}");
        Ok(())
    })?;
    stream
        .stop()?
        .lossless()
        .with_context(|| cluster.explain())?;

    let log = cluster.agent(1)?.log_text();
    let from = format!("from={}", cluster.address(INTRUDER)?);
    for why in [
        "a control connection was ended",
        "a control connection is refused",
        "the handshake failed",
        "the handshake was not over",
    ] {
        let named = log
            .lines()
            .any(|line| line.contains(&from) && line.contains(why));
        ensure!(named, "no line of the log says of the intruder that {why}");
    }
    Ok(())
}

/// What client and server said on a connection.
type Overheard = Arc<Mutex<[Vec<u8>; 2]>>;

/// Passes one connection on, and keeps what is said on it.
fn proxy(on: &Netns, at: SocketAddr, to: SocketAddr) -> Result<Overheard> {
    let said = Overheard::default();
    let (asked, answered) = (Arc::clone(&said), Arc::clone(&said));
    let listener = on.enter(|| TcpListener::bind(at))?.context("listen")?;
    let _running = on.spawn(move || -> Result<()> {
        let (client, _) = listener.accept()?;
        let server = TcpStream::connect(to)?;
        let (answers, back) = (server.try_clone()?, client.try_clone()?);
        let answering = thread::spawn(move || pass(answers, back, &answered, 1));
        pass(client, server, &asked, 0)?;
        answering.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    Ok(said)
}

fn pass(mut from: TcpStream, mut to: TcpStream, said: &Overheard, by: usize) -> Result<()> {
    let mut buffer = [0; 16384];
    loop {
        let length = from.read(&mut buffer)?;
        let bytes = &buffer[..length];
        said.lock().unwrap_or_else(PoisonError::into_inner)[by].extend(bytes);
        to.write_all(bytes)?;
        if length == 0 {
            return Ok(to.shutdown(std::net::Shutdown::Write)?);
        }
    }
}

/// The bytes again, as fast as they go, or one part after the other as a client would that waits for
/// answers. What the other side answers.
fn replay(address: SocketAddr, parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, SETTLE)?;
    stream.set_read_timeout(Some(SETTLE))?;
    let mut answer = Vec::new();
    for part in parts {
        if stream.write_all(part).is_err() {
            break;
        }
        let before = answer.len();
        let deadline = std::time::Instant::now() + Duration::from_millis(500);
        stream.set_nonblocking(true)?;
        while answer.len() == before && std::time::Instant::now() < deadline {
            let mut buffer = [0; 16384];
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => answer.extend(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => thread::sleep(TICK),
                Err(_) => break,
            }
        }
        stream.set_nonblocking(false)?;
    }
    let _ended = stream.shutdown(std::net::Shutdown::Write);
    let _ended = stream.read_to_end(&mut answer);
    Ok(answer)
}

/// The records of TLS in what somebody said.
fn records(mut said: &[u8]) -> Result<Vec<&[u8]>> {
    let mut records = Vec::new();
    while let [_, _, _, high, low, ..] = said {
        let length = 5 + usize::from(u16::from_be_bytes([*high, *low]));
        ensure!(length <= said.len(), "a record is cut short");
        let (record, rest) = said.split_at(length);
        records.push(record);
        said = rest;
    }
    ensure!(said.is_empty(), "{} bytes are no record", said.len());
    Ok(records)
}

#[test]
fn a_join_that_was_overheard_lets_nobody_in() -> Result<()> {
    const JOINS: u32 = 2;
    const LISTENS: u32 = 3;
    let mut cluster = Cluster::new(nodes(&["a", "b", "c"]))?;
    for node in [1, JOINS] {
        cluster.agent_mut(node)?.start()?;
    }
    cluster.init(1, &[])?;
    let manager = SocketAddr::new(cluster.address(1)?, PORT);
    let between = SocketAddr::new(cluster.address(LISTENS)?, PORT);
    let wire = &cluster.lab.node(LISTENS)?.netns;
    let said = proxy(wire, between, manager)?;
    let token = cluster.token(1, "worker")?;
    // It goes by the address of who listens; a token names the root, and no address.
    cluster.join_with(JOINS, LISTENS, &token)?;
    eventually(SETTLE, || cluster.good(JOINS))?;
    let [said, answered] = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let readable = String::from_utf8_lossy(&said);
    ensure!(!readable.contains(&token), "the token is on the wire");
    let parts = records(&said)?;
    ensure!(parts.len() >= 3, "a join has {} records", parts.len());

    let replay_all = || -> Result<()> {
        wire.enter(|| {
            for parts in [&[&said[..]][..], &parts[..], &parts[..1], &parts[1..]] {
                let answer = replay(manager, parts)?;
                // A handshake is answered by anybody's; what was said in it is for who has its keys.
                ensure!(
                    answer.len() < answered.len() / 2,
                    "{} parts of a join are answered with {} bytes, where the join had {}",
                    parts.len(),
                    answer.len(),
                    answered.len()
                );
            }
            Ok(())
        })?
    };
    let before = Believed::of(&cluster, &[1, JOINS], None)?;
    replay_all()?;
    let after = Believed::of(&cluster, &[1, JOINS], None)?;
    ensure!(after == before, "{before:?} has become {after:?}");
    let log = cluster.agent(1)?.log_text();
    let from = format!("from={}", cluster.address(LISTENS)?);
    ensure!(
        log.lines()
            .any(|line| line.contains(&from) && line.contains("ended")),
        "the manager does not say whom it refused: {log}"
    );

    // Nor does it bring back who has left.
    cluster.overlay(JOINS, &["leave", "--yes"])?;
    let before = Believed::of(&cluster, &[1], None)?;
    replay_all()?;
    let after = Believed::of(&cluster, &[1], None)?;
    ensure!(after == before, "{before:?} has become {after:?}");
    let nodes = cluster.json(1, &["node", "ls"])?;
    let is_left = |node: &Value| node["name"] == "node-2" && node["status"] == "left";
    ensure!(
        nodes
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().any(is_left)),
        "{nodes}"
    );
    ensure!(token == cluster.token(1, "worker")?);
    cluster.good(1)
}

/// An endpoint's record.
fn endpoint(vni: Vni, mac: MacAddr, ips: &[IpAddr], name: &str) -> Content {
    Content::Live(Body::Endpoint(Endpoint {
        vni,
        mac,
        ips: ips.into(),
        name: name.into(),
    }))
}

/// MAC and addresses of a container in network `green`.
fn of_container(cluster: &Cluster, container: &str) -> Result<(MacAddr, Vec<IpAddr>)> {
    let attachment = cluster.lab.container(container)?.attachment("green")?;
    Ok((MacAddr(attachment.mac), attachment.addresses.clone()))
}

#[test]
fn a_member_that_lies_changes_nothing_but_its_own() -> Result<()> {
    const VICTIMS: [u32; 2] = [1, 2];
    const LIAR: u32 = 3;
    let mut cluster = Cluster::up(nodes(&["a", "b", "c"]))?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &["a", "b", "c"])?;
    let green = cluster.json(1, &["network", "ls"])?;
    let vni = green[0]["vni"].as_u64().context("a VNI")?;
    let vni = Vni::new(u32::try_from(vni)?).context("a VNI")?;
    let (mac_b, ips_b) = of_container(&cluster, "b")?;
    let (mac_c, ips_c) = of_container(&cluster, "c")?;

    cluster.agent_mut(LIAR)?.kill()?;
    let liar = Liar::of(&cluster.agent(LIAR)?.state())?;
    let wire = &cluster.lab.node(LIAR)?.netns;
    let me = liar.id();
    let (boss, _) = liar.member("node-1")?;
    let (victim, victim_at) = liar.member("node-2")?;
    let before = Believed::of(&cluster, &VICTIMS, Some(LIAR))?;
    before.is_full()?;
    let held = memory(&cluster, &VICTIMS)?;
    let (_echo, stream) = cluster.stream("a", "b", "green")?;

    // Of its own endpoint it is believed: what follows is refused for what it says.
    let true_record = liar.own(0, endpoint(vni, mac_c, &ips_c, "renamed"))?;
    liar.bring(wire, "node-1", &[true_record])?;
    for node in VICTIMS {
        eventually(SETTLE, || {
            let all = cluster
                .json(node, &["endpoint", "ls", "--all"])?
                .to_string();
            ensure!(all.contains("\"renamed\""), "{all}");
            Ok(())
        })?;
    }

    // Records of others, of nobody, and beyond all bounds.
    let stranger = NodeKey::generate(&mut rand::rng());
    let high = Version {
        generation: Generation(Version::LIMIT),
        counter: Version::LIMIT,
    };
    let absurd = Version {
        generation: Generation(u64::MAX),
        counter: u64::MAX,
    };
    let moved = || endpoint(vni, mac_b, &ips_c, "moved");
    let node_at = |control: SocketAddr| {
        Content::Live(Body::Node(Node {
            vteps: vec![control.ip()],
            control,
            software: "9.9.9".to_owned(),
            boot: liar.boot(),
        }))
    };
    let of = |owner: NodeId, version: Version, content: Content| Record {
        owner,
        version,
        content,
    };
    let b = Key::Endpoint { vni, mac: mac_b };
    let evil = SocketAddr::new(cluster.address(LIAR)?, PORT);
    let forged: Vec<Vec<u8>> = [
        of(victim, high, moved()),
        of(victim, high, Content::Deleted(b)),
        of(victim, high, Content::Deleted(Key::Node)),
        of(victim, high, Content::Floor(high)),
        of(victim, high, node_at(evil)),
        of(boss, high, node_at(evil)),
        of(victim, absurd, moved()),
        of(me, absurd, endpoint(vni, mac_c, &ips_c, "absurd")),
        of(
            me,
            absurd,
            Content::Deleted(Key::Endpoint { vni, mac: mac_c }),
        ),
    ]
    .iter()
    .map(|record| liar.sign(liar.key(), record))
    .collect::<Result<_>>()?;
    let of_nobody: Vec<Vec<u8>> = [
        of(stranger.node_id(), high, moved()),
        of(stranger.node_id(), high, node_at(evil)),
        of(me, high, endpoint(vni, mac_c, &ips_c, "signed-by-another")),
    ]
    .iter()
    .map(|record| liar.sign(&stranger, record))
    .collect::<Result<_>>()?;
    let lies = [forged, of_nobody].concat();
    for whom in ["node-1", "node-2"] {
        liar.bring(wire, whom, &lies)?;
    }
    // In its own name, and not true: addresses and MACs of others, and more records than it may have.
    let own_mac = |n: u16| MacAddr([2, 0, 0, 9, (n >> 8) as u8, n as u8]);
    let mut own = vec![
        liar.own(1, endpoint(vni, mac_b, &ips_c, "their-mac"))?,
        liar.own(2, endpoint(vni, own_mac(0), &ips_b, "their-address"))?,
        liar.own(3, node_at(victim_at))?,
    ];
    for n in 1..=u16::try_from(MAX_OF_OWNER + 500)? {
        let ips = [IpAddr::from([10, 7, 200 + (n >> 8) as u8 % 50, n as u8])];
        own.push(liar.own(3 + u64::from(n), endpoint(vni, own_mac(n), &ips, "many"))?);
    }
    for whom in ["node-1", "node-2"] {
        liar.bring(wire, whom, &own)?;
    }
    // What no message may be.
    let malformed = [vec![], vec![1], vec![9; 1000], vec![1; MAX_MESSAGE]];
    let requests: Vec<_> = malformed.into_iter().map(MemberRequest::Sync).collect();
    for answer in liar.ask(wire, "node-1", &requests)? {
        let MemberResponse::Refused(refused) = &answer else {
            bail!("a malformed message is answered with {answer:?}");
        };
        ensure!(matches!(**refused, MemberRefused::Sync(_)), "{refused}");
    }
    let too_long = [&[0, 8, 0, 0, 1, 5][..], &vec![7; 1 << 19]].concat();
    let shown = liar.shown()?;
    let (_, at) = liar.member("node-1")?;
    let answer = wire.enter(|| ask(at, Service::Member.alpn(), Some(shown), &too_long))?;
    ensure!(
        answer.as_ref().map_or(true, Vec::is_empty),
        "a message beyond its limit is answered: {answer:?}"
    );
    // A worker speaks for itself alone.
    for command in [
        Command::Leave { node: victim },
        Command::Remove {
            node: victim,
            down: true,
        },
        Command::Rename {
            node: me,
            name: NodeName::new("node-9")?,
        },
    ] {
        let request = MemberRequest::Propose {
            command: Box::new(command.clone()),
            forwarded: true,
        };
        let answer = liar.ask(wire, "node-1", &[request])?.pop();
        let Some(MemberResponse::Refused(refused)) = &answer else {
            bail!("{command:?} is answered with {answer:?}");
        };
        ensure!(
            matches!(
                **refused,
                MemberRefused::Proposal(ProposeRefused::Denied(_))
            ),
            "{refused}"
        );
    }

    // Datagrams in the others' names: everybody has the group's key. Who is up is all that they say.
    let secrets = liar.secrets(wire, "node-1")?;
    let starts = liar.learn(wire, "node-1", |store| {
        [boss, victim].map(|node| {
            let (version, of) = store.node(node)?;
            Some((version.generation, of.boot))
        })
    })?;
    let [Some(start_of_boss), Some(start_of_victim)] = starts else {
        bail!("node 1 does not know of {starts:?}");
    };
    let told = [
        (victim, start_of_victim, boss, start_of_boss, "node-1"),
        (boss, start_of_boss, victim, start_of_victim, "node-2"),
    ];
    for (source, (generation, boot), to, (of, _), whom) in told {
        let mut sealer = liar.sealer(source, boot, &secrets);
        let down = |node, generation| Said {
            node,
            generation,
            up: false,
        };
        let said = [
            down(source, generation),
            down(to, of),
            down(to, Generation(u64::MAX)),
        ];
        let payload = gossip((source, generation), (to, of), &said, &lies[..2]);
        // Far ahead of what the member itself has sent, so that its own datagrams count as old.
        let mut datagram = Vec::new();
        for _ in 0..20_000 {
            datagram = sealer.seal(&payload)?;
        }
        let (_, at) = liar.member(whom)?;
        wire.enter(|| -> Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(&datagram, at)?;
            Ok(())
        })??;
    }

    // Each takes the other for down then, and nothing follows from it.
    for node in VICTIMS {
        eventually(SETTLE, || {
            let status = cluster.status(node)?;
            ensure!(status["nodes"]["ready"] == 1, "{status}");
            Ok(())
        })?;
    }
    let unchanged = || -> Result<()> {
        let after = Believed::of(&cluster, &VICTIMS, Some(LIAR))?;
        ensure!(after == before, "{before:?} has become {after:?}");
        Ok(())
    };
    for node in VICTIMS {
        let log = cluster.agent(node)?.log_text();
        for doubted in [mac_b.to_string(), own_mac(0).to_string()] {
            ensure!(
                log.contains(&format!("tells of endpoint {doubted}")),
                "node {node} does not name the lie about {doubted}"
            );
        }
        for (whose, name) in [("its own", "moved"), ("a stranger's", "absurd")] {
            let all = cluster
                .json(node, &["endpoint", "ls", "--all"])?
                .to_string();
            ensure!(
                !all.contains(name),
                "node {node} believes {whose} lie: {all}"
            );
        }
    }
    unchanged()?;
    bounded(&cluster, &VICTIMS, &held)?;

    // With its next start a member has another key for its datagrams, and is heard again.
    let mut agents = cluster.agents.iter_mut();
    let restarted = agents.find(|agent| agent.node == 2).context("node 2")?;
    restarted.stop()?;
    restarted.start()?;
    for node in VICTIMS {
        eventually(SETTLE, || {
            let status = cluster.status(node)?;
            ensure!(status["nodes"]["ready"] == 2, "{status}");
            Ok(())
        })
        .with_context(|| cluster.explain())?;
    }
    stream
        .stop()?
        .lossless()
        .with_context(|| cluster.explain())?;
    cluster.overlay(2, &["endpoint", "detach", "green", "b"])?;
    eventually(SETTLE, || {
        let all = cluster.json(1, &["endpoint", "ls", "--all"])?;
        let has_b = lines(&all, &["name"], None)
            .iter()
            .any(|line| line.contains("\"b\""));
        ensure!(!has_b, "node 1 does not hear that b is gone: {all}");
        Ok(())
    })?;

    // Put out, it has nothing left.
    cluster.overlay(1, &["node", "rm", "--force", "--yes", "node-3"])?;
    for node in VICTIMS {
        eventually(SETTLE, || {
            let all = cluster
                .json(node, &["endpoint", "ls", "--all"])?
                .to_string();
            let status = cluster.status(node)?;
            ensure!(
                !all.contains("node-3") && status["problems"].as_array().is_some_and(Vec::is_empty),
                "{all} {status}"
            );
            Ok(())
        })?;
    }
    let request = MemberRequest::PullView { have: None };
    ensure!(
        liar.ask(wire, "node-1", &[request]).is_err(),
        "it is still answered"
    );
    Ok(())
}

#[test]
fn a_release_too_far_away_is_refused_in_words_on_both_sides() -> Result<()> {
    let mut cluster = Cluster::new(nodes(&["a", "b"]))?;
    for node in [1, 2] {
        cluster.agent_mut(node)?.start()?;
    }
    cluster.init(1, &[])?;
    // A node of a release to come calls a manager.
    let wire = &cluster.lab.node(2)?.netns;
    let manager = SocketAddr::new(cluster.address(1)?, PORT);
    let answer = wire.enter(|| ask(manager, b"overlay-member/9", None, b"hello"))?;
    let refused = answer.map_or_else(|error| format!("{error:#}"), |said| format!("{said:?}"));
    ensure!(refused.contains("NoApplicationProtocol"), "{refused}");
    eventually(SETTLE, || {
        let log = cluster.agent(1)?.log_text();
        let words = "speaks overlay-member/9 and this release overlay-member/1";
        ensure!(log.contains(words), "the manager does not say why: {log}");
        Ok(())
    })?;

    // A node of this release joins a manager of one: it answers the hello with an alert.
    let token = cluster.token(1, "worker")?;
    let elsewhere = SocketAddr::new(cluster.address(2)?, 9000);
    let listener = wire.enter(|| TcpListener::bind(elsewhere))??;
    let said = thread::scope(|scope| -> Result<String> {
        let manager = scope.spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut header = [0; 5];
            stream.read_exact(&mut header)?;
            let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            stream.read_exact(&mut hello)?;
            // RFC 8446 section 6: an alert, fatal, no_application_protocol.
            stream.write_all(&[21, 3, 3, 0, 2, 2, 120])?;
            Ok(())
        });
        let refused = cluster.join_at(2, &elsewhere.to_string(), &token);
        manager
            .join()
            .map_err(|_| anyhow::anyhow!("the manager panicked"))??;
        match refused {
            Ok(said) => bail!("the node has joined: {said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    })?;
    ensure!(
        said.contains("more than one release apart") && said.contains(&elsewhere.to_string()),
        "{said}"
    );
    Ok(())
}
