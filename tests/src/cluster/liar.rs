//! A member that lies: it has all that a member has, and says with it what it wants.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_agent::{
    daemon::{
        control::{
            client::{Client, ClientError, Connection},
            limits::ClientLimits,
        },
        members::LiveMembers,
        tls::{Own, Tls},
    },
    state::membership::{Membership, Stored},
};
use overlay_cluster::{
    control::member::{MemberRequest, MemberResponse},
    gossip::{
        engine::{Gossip, Settings},
        envelope::{BootNonce, Sealer},
        record::{Body, Content, Record, Signed, Version},
        store::Store,
    },
    id::{ClusterId, Generation, NodeId},
    identity::node_key::NodeKey,
    keys::{EphemeralRecord, EpochSecrets},
    log::view::View,
    time::Instant,
};
use rustls::time_provider::DefaultTimeProvider;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::lab::Netns;

/// A member without an agent. Its agent has ended, and others still believe it to be there.
pub struct Liar {
    stored: Stored,
    /// Larger than that of every start of its agent.
    generation: Generation,
    boot: BootNonce,
    client: Client,
    runtime: Runtime,
}

impl Liar {
    /// Takes the place of the agent that kept its state in this directory.
    pub fn of(state: &Path) -> Result<Self> {
        let files = Membership::new(state);
        let stored = files.load()?.context("no member's state")?;
        let own = Arc::new(Own::new(stored.key.clone(), &stored.certificate)?);
        let members = Arc::new(LiveMembers::new(&stored.view));
        let tls = Tls::new(own, members, Arc::new(DefaultTimeProvider));
        Ok(Self {
            generation: files.start()?,
            boot: BootNonce::from_bytes(rand::random()),
            client: Client::new(tls, ClientLimits::default())?,
            runtime: Builder::new_current_thread().enable_all().build()?,
            stored,
        })
    }

    pub const fn key(&self) -> &NodeKey {
        &self.stored.key
    }

    pub fn id(&self) -> NodeId {
        self.stored.key.node_id()
    }

    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Of this start, in its own node's record.
    pub const fn boot(&self) -> BootNonce {
        self.boot
    }

    /// What it knew last of the managers' log.
    pub const fn view(&self) -> &View {
        &self.stored.view
    }

    /// The certificate that it shows.
    pub fn shown(&self) -> Result<Arc<Own>> {
        Ok(Arc::new(Own::new(
            self.stored.key.clone(),
            &self.stored.certificate,
        )?))
    }

    /// The member of this name, and where it listens.
    pub fn member(&self, name: &str) -> Result<(NodeId, SocketAddr)> {
        let mut peers = self.stored.view.peers.iter();
        peers
            .find(|(_, peer)| peer.name.as_str() == name)
            .map(|(node, peer)| (*node, peer.contact.control))
            .with_context(|| format!("there is no member {name}"))
    }

    /// What a member answers to requests on one connection from this namespace.
    pub fn ask(
        &self,
        from: &Netns,
        whom: &str,
        requests: &[MemberRequest],
    ) -> Result<Vec<MemberResponse>> {
        let (node, address) = self.member(whom)?;
        from.enter(|| {
            self.runtime.block_on(async {
                let mut connection = self.client.connect(address, node).await?;
                let mut answers = Vec::new();
                for request in requests {
                    answers.push(match connection.request(request).await {
                        Err(ClientError::Refused(refused)) => MemberResponse::Refused(refused),
                        answer => answer?,
                    });
                }
                Ok(answers)
            })
        })?
    }

    /// The secrets of the epoch that all send in.
    pub fn secrets(&self, from: &Netns, manager: &str) -> Result<EpochSecrets> {
        let epochs = vec![self.stored.view.epochs.current];
        let request = MemberRequest::PullSecrets {
            epochs: epochs.clone(),
        };
        match self.ask(from, manager, &[request])?.pop() {
            Some(MemberResponse::Secrets(handout)) => {
                let secrets = handout.open(&epochs)?.pop();
                Ok(secrets.context("no secrets")?.1)
            }
            other => bail!("no secrets, but {other:?}"),
        }
    }

    /// Every record that a member has, by an honest exchange; `look` is shown them.
    pub fn learn<T>(
        &self,
        from: &Netns,
        whom: &str,
        look: impl FnOnce(&Store) -> T + Send,
    ) -> Result<T>
    where
        T: Send,
    {
        let (node, address) = self.member(whom)?;
        let roster: BTreeMap<_, _> = self
            .stored
            .view
            .peers
            .iter()
            .map(|(id, peer)| (*id, *peer.key.verifying_key()))
            .collect();
        let settings = Settings {
            cluster: self.stored.view.cluster,
            key: self.stored.key.signing_key().clone(),
            generation: self.generation,
            boot: self.boot,
            seed: rand::random(),
            managers: Vec::new(),
        };
        let now = Instant::from_start(Duration::ZERO);
        from.enter(|| {
            self.runtime.block_on(async {
                let mut gossip = Gossip::new(now, settings, roster);
                let mut connection = self.client.connect(address, node).await?;
                let (mut sync, mut message) = gossip.start_sync(node);
                loop {
                    let answer = say(&mut connection, message).await?;
                    match gossip.continue_sync(now, &mut sync, &answer)? {
                        (Some(next), _) => message = next,
                        (None, _) => return Ok(look(gossip.store())),
                    }
                }
            })
        })?
    }

    /// Brings a member these records, in messages of anti-entropy that are as long as they may be.
    pub fn bring(&self, from: &Netns, whom: &str, records: &[Vec<u8>]) -> Result<()> {
        let chunks = records.chunks(RECORDS);
        let requests: Vec<_> = chunks
            .map(|records| MemberRequest::Sync(brought(records)))
            .collect();
        for answer in self.ask(from, whom, &requests)? {
            ensure!(
                matches!(answer, MemberResponse::Sync(_)),
                "records are answered with {answer:?}"
            );
        }
        Ok(())
    }

    /// A record as its owner would sign it, signed with `key` and without any check.
    pub fn sign(&self, key: &NodeKey, record: &Record) -> Result<Vec<u8>> {
        const LABEL: &[u8] = b"overlay gossip record v1";
        let body = postcard::to_extend(record, vec![1])?;
        let cluster = self.stored.view.cluster;
        let signature = key.sign(&[LABEL, cluster.as_bytes(), &body].concat());
        Ok([&body[..], &signature.to_bytes()].concat())
    }

    /// A record of its own, with the n-th version of this start.
    pub fn own(&self, counter: u64, content: Content) -> Result<Vec<u8>> {
        let version = Version {
            generation: self.generation,
            counter,
        };
        let record = Record {
            owner: self.id(),
            version,
            content,
        };
        self.sign(&self.stored.key, &record)
    }

    /// What seals datagrams in the name of any member with the group's key: `boot` is of its newest start.
    pub fn sealer(&self, sender: NodeId, boot: BootNonce, secrets: &EpochSecrets) -> Sealer {
        let mut sealer = Sealer::new(sender, boot);
        sealer.activate(self.stored.view.epochs.current, &secrets.gossip);
        sealer
    }
}

/// Records in one message: 200 bytes each are less than its limit.
const RECORDS: usize = 1000;

/// One message of anti-entropy, and what is answered.
pub async fn say(connection: &mut Connection, message: Vec<u8>) -> Result<Vec<u8>> {
    match connection.request(&MemberRequest::Sync(message)).await? {
        MemberResponse::Sync(answer) => Ok(answer),
        other => bail!("no answer to anti-entropy, but {other:?}"),
    }
}

/// Bytes of a record of a node's first start, as the node itself signs it.
pub fn signed(key: &NodeKey, cluster: ClusterId, counter: u64, body: Body) -> Result<Vec<u8>> {
    let record = Record {
        owner: key.node_id(),
        version: Version {
            generation: Generation(1),
            counter,
        },
        content: Content::Live(body),
    };
    let signed = Signed::new(record, cluster, key.signing_key())?;
    Ok(signed.bytes().to_vec())
}

/// The third kind of question of anti-entropy, as it is on the wire.
#[derive(Serialize)]
struct Versions<'a> {
    version: u8,
    kind: u8,
    records: &'a [Vec<u8>],
    listings: &'a [Listing],
}

/// That one has no record of an owner between two places.
#[derive(Serialize)]
struct Listing {
    owner: NodeId,
    from: u64,
    to: u64,
    entries: Vec<()>,
}

impl Versions<'_> {
    fn bytes(records: &[Vec<u8>], listings: &[Listing]) -> Vec<u8> {
        let message = Versions {
            version: 1,
            kind: 2,
            records,
            listings,
        };
        postcard::to_stdvec(&message).expect("bytes have an encoding")
    }
}

/// A message of anti-entropy that brings records, as it is on the wire.
pub fn brought(records: &[Vec<u8>]) -> Vec<u8> {
    Versions::bytes(records, &[])
}

/// A message of anti-entropy that asks for all records of an owner, as it is on the wire.
pub fn lacking(owner: NodeId) -> Vec<u8> {
    let everywhere = Listing {
        owner,
        from: 0,
        to: u64::MAX,
        entries: Vec::new(),
    };
    Versions::bytes(&[], &[everywhere])
}

/// The ephemeral keys among the records of an answer to [`lacking`].
pub fn ephemerals(answer: &[u8]) -> Result<Vec<EphemeralRecord>> {
    const DELTA: u8 = 3;
    let (head, _): ((u8, u8, Vec<Vec<u8>>), _) = postcard::take_from_bytes(answer)?;
    let (version, kind, records) = head;
    ensure!((version, kind) == (1, DELTA), "no records, but kind {kind}");
    let mut found = Vec::new();
    for bytes in records {
        if let Some(Body::Ephemeral(record)) = Signed::decode(&bytes)?.record().content.body() {
            found.push(*record);
        }
    }
    Ok(found)
}

/// What one member says of another in a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    pub node: NodeId,
    pub generation: Generation,
    /// Up, or down.
    pub up: bool,
}

/// The payload of a datagram by which `source` tells `to` of members, and of records: foca's gossip as
/// it is on the wire.
pub fn gossip(
    source: (NodeId, Generation),
    to: (NodeId, Generation),
    members: &[Said],
    records: &[Vec<u8>],
) -> Vec<u8> {
    const GOSSIP: u8 = 8;
    let identity = |(node, generation): (NodeId, Generation)| {
        let mut bytes = node.as_bytes().to_vec();
        bytes.extend(generation.0.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes
    };
    let incarnation = u16::MAX - 1;
    let mut payload = identity(source);
    payload.extend(incarnation.to_be_bytes());
    payload.extend(identity(to));
    payload.push(GOSSIP);
    payload.extend((members.len() as u16).to_be_bytes());
    for said in members {
        payload.extend(identity((said.node, said.generation)));
        payload.extend(incarnation.to_be_bytes());
        payload.push(if said.up { 0 } else { 2 });
    }
    for record in records {
        payload.extend((record.len() as u16).to_be_bytes());
        payload.extend(record);
    }
    payload
}
