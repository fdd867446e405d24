//! openraft's own tests of a store, and those of what it cannot know: disks, seals and restarts.

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration,
};

use ed25519_dalek::SigningKey;
use openraft::{
    BasicNode, Config, Raft, RaftNetwork, RaftNetworkFactory, RaftSnapshotBuilder as _,
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
    storage::RaftStateMachine as _,
    testing::{StoreBuilder, Suite},
};
use overlay_cluster::{
    id::{ClusterId, EpochName},
    identity::authority::{Authority, Validity},
    keys::EpochSecrets,
    log::{
        command::Genesis,
        epochs::{NewEpoch, RotationPolicy},
        member::{Contact, NodeKey},
        names::{Labels, NodeName, SoftwareVersion},
        roster::Applicant,
        settings::Settings,
        state::State,
        tokens::{Token, TokenSecret, Tokens},
    },
    secret::Secret,
};
use rand::{SeedableRng as _, rngs::StdRng};
use zeroize::Zeroizing;

use super::{
    seal::{Place, SealError},
    *,
};

/// No encryption, but enough to tell whether the store seals everything for its place.
struct TestSeal(u8);

impl Seal for TestSeal {
    fn seal(&self, place: Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut sealed = format!("{place}|{}|", self.0).into_bytes();
        sealed.extend(plain.iter().map(|byte| byte ^ 0x55));
        Ok(sealed)
    }

    fn open(&self, place: Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let head = format!("{place}|{}|", self.0).into_bytes();
        match sealed.strip_prefix(head.as_slice()) {
            Some(rest) => Ok(rest
                .iter()
                .map(|byte| byte ^ 0x55)
                .collect::<Vec<_>>()
                .into()),
            None => Err("sealed with another key, or for another place".into()),
        }
    }
}

fn open_in(directory: &tempfile::TempDir) -> (LogStore, Machine) {
    open(&file(directory), Arc::new(TestSeal(1))).expect("opens")
}

fn file(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("managers.redb")
}

struct Builder;

impl StoreBuilder<Managers, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let directory = tempfile::tempdir().expect("a directory");
        let (log, machine) = open_in(&directory);
        Ok((directory, log, machine))
    }
}

#[test]
fn openraft_finds_the_store_correct() {
    Suite::test_all(Builder).expect("all tests");
}

fn genesis() -> Proposal {
    let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
    let token = |n| Token {
        secret: TokenSecret::new([n; TokenSecret::LEN]),
        expires: None,
    };
    let manager = Applicant {
        key: NodeKey::new(key.to_bytes()).expect("a key"),
        name: NodeName::new("node-1").expect("a name"),
        contact: Contact {
            vteps: [[192, 0, 2, 1].into()].into_iter().collect(),
            control: ([192, 0, 2, 1], 7946).into(),
            software: SoftwareVersion::new("0.1.0").expect("a version"),
        },
        labels: Labels::default(),
    };
    let at = Timestamp::from_secs(1_800_000_000);
    let cluster = ClusterId::from_bytes([7; 16]);
    let rng = &mut StdRng::seed_from_u64(1);
    let authority = Authority::generate(cluster, &Validity::default(), at, rng);
    let authority = authority.expect("an authority");
    Proposal {
        at,
        command: Command::Initialise(Box::new(Genesis {
            cluster,
            authority,
            manager,
            tokens: Tokens {
                worker: token(1),
                manager: token(2),
            },
            epoch: NewEpoch {
                name: EpochName {
                    incarnation: 0,
                    number: 1,
                    hash: [1; 8],
                },
                secrets: EpochSecrets {
                    gossip: Secret::new(*b"a secret of gossip and no other."),
                    data: Secret::new(*b"a secret of data, which differs."),
                },
            },
            policy: RotationPolicy::default(),
            settings: Settings::default(),
        })),
    }
}

fn settings(lanes: u8) -> Proposal {
    Proposal {
        at: Timestamp::from_secs(1_800_000_001),
        command: Command::SetSettings(Settings {
            lanes: Some(lanes),
            ..Settings::default()
        }),
    }
}

/// There is one manager, and nobody to talk to.
struct Nobody;

impl RaftNetworkFactory<Managers> for Nobody {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &BasicNode) -> Self {
        Self
    }
}

type RpcError<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

fn unreachable<E: std::error::Error>() -> RpcError<E> {
    let error = std::io::Error::other("there is nobody");
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetwork<Managers> for Nobody {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Managers>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        Err(unreachable())
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<Managers>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<InstallSnapshotError>> {
        Err(unreachable())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        Err(unreachable())
    }
}

/// Opens the store again: tasks of openraft hold it for a moment after its shutdown.
async fn open_again(
    directory: &tempfile::TempDir,
    seal: u8,
) -> Result<(LogStore, Machine), StoreError> {
    for _ in 0..200 {
        match open(&file(directory), Arc::new(TestSeal(seal))) {
            Err(StoreError::NotADatabase { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
    panic!("somebody holds the store");
}

async fn start(directory: &tempfile::TempDir) -> (Raft<Managers>, StateReader) {
    let (log, machine) = open_again(directory, 1).await.expect("opens");
    let reader = machine.reader();
    let config = Arc::new(Config::default().validate().expect("sound"));
    let raft = Raft::new(1, config, Nobody, log, machine)
        .await
        .expect("starts");
    (raft, reader)
}

fn lanes(reader: &StateReader) -> Option<u8> {
    reader.with(|state| state.cluster().and_then(|cluster| cluster.settings().lanes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_restarts_has_the_state_of_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let (raft, reader) = start(&directory).await;
    let nodes = BTreeMap::from([(1, BasicNode::new("192.0.2.1:7946"))]);
    raft.initialize(nodes).await.expect("one manager");
    raft.wait(None)
        .current_leader(1, "leads")
        .await
        .expect("leads");
    let mut changes = reader.changes();
    let write = async |proposal| raft.client_write(proposal).await.expect("written").data.0;
    assert!(matches!(
        write(genesis()).await,
        Some(Ok(Outcome::Joined { .. }))
    ));
    assert!(matches!(
        write(genesis()).await,
        Some(Err(Refusal::Initialised { .. }))
    ));
    write(settings(2)).await;
    raft.trigger().snapshot().await.expect("asked for");
    raft.wait(None)
        .metrics(|metrics| metrics.snapshot.is_some(), "a snapshot")
        .await
        .expect("a snapshot");
    write(settings(3)).await;
    changes
        .wait_for(|revision| *revision == 3)
        .await
        .expect("told");
    let before = reader.with(State::encode);
    raft.shutdown().await.expect("ends");
    drop((raft, reader));

    let (raft, reader) = start(&directory).await;
    raft.wait(None)
        .current_leader(1, "leads")
        .await
        .expect("leads");
    raft.wait(None)
        .metrics(
            |metrics| metrics.last_applied.map(|id| id.index) == metrics.last_log_index,
            "applied",
        )
        .await
        .expect("applied");
    assert_eq!(lanes(&reader), Some(3));
    assert_eq!(reader.with(State::encode), before);
    raft.shutdown().await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_on_disk_is_readable_without_the_seal() {
    let directory = tempfile::tempdir().expect("a directory");
    let (raft, _) = start(&directory).await;
    let nodes = BTreeMap::from([(1, BasicNode::new("192.0.2.1:7946"))]);
    raft.initialize(nodes).await.expect("one manager");
    raft.wait(None)
        .current_leader(1, "leads")
        .await
        .expect("leads");
    raft.client_write(genesis()).await.expect("written");
    raft.trigger().snapshot().await.expect("asked for");
    raft.shutdown().await.expect("ends");
    drop(raft);
    let bytes = fs::read(file(&directory)).expect("the file");
    let find = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(find(b"log entry 1|1|"), "the seal was used");
    for plain in [b"a secret of", b"192.0.2.1:7"] {
        assert!(!find(plain), "{plain:?}");
    }
    let error = match open_again(&directory, 2).await {
        Err(error) => error.to_string(),
        Ok((mut log, _)) => {
            let vote = openraft::storage::RaftLogStorage::read_vote(&mut log).await;
            vote.expect_err("another key").to_string()
        }
    };
    assert!(error.contains("another key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_does_not_replace_a_newer_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, mut machine) = open_in(&directory);
    let entry = |index| openraft::testing::blank_ent::<Managers>(1, 1, index);
    machine.apply([entry(1)]).await.expect("applied");
    let mut maker = machine.get_snapshot_builder().await;
    let older = maker.build_snapshot().await.expect("a snapshot");
    machine.apply([entry(2)]).await.expect("applied");
    let newer = maker.build_snapshot().await.expect("a snapshot");
    machine.keep(older).await.expect("passed over");
    let kept = machine.get_current_snapshot().await.expect("read");
    assert_eq!(kept.map(|kept| kept.meta), Some(newer.meta));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_does_not_decode_replaces_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, mut machine) = open_in(&directory);
    let meta = SnapshotMeta::default();
    let noise = Box::new(Cursor::new(vec![1, 1, 0]));
    let error = machine.install_snapshot(&meta, noise).await;
    assert!(error.expect_err("noise").to_string().contains("snapshot"));
    let kept = machine.get_current_snapshot().await.expect("read");
    assert!(kept.is_none());
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open_in(&directory));
    let path = file(&directory);
    let mode = |path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
    let error = open(&path, Arc::new(TestSeal(1))).err().expect("refused");
    assert!(error.to_string().contains("0644"), "{error}");
}

#[test]
fn a_store_that_is_open_is_refused_in_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open_in(&directory);
    let error = open(&file(&directory), Arc::new(TestSeal(1)))
        .err()
        .expect("refused");
    assert!(
        error.to_string().contains("stop the other agent"),
        "{error}"
    );
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_makes_a_manager_that_goes_on_under_the_next_incarnation() {
    let mut backup = State::default();
    let Proposal { at, command } = genesis();
    backup.apply(at, command).expect("begins");
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory);
    let node = BasicNode::new("192.0.2.1:7946");
    let make = async || {
        let seal = Arc::new(TestSeal(1));
        restore(&path, seal, 1, node.clone(), &backup).await
    };
    make().await.expect("restores");
    let error = make().await.expect_err("a second time").to_string();
    assert!(error.contains("move it away"), "{error}");

    let (raft, reader) = start(&directory).await;
    assert_eq!(reader.with(State::encode), backup.encode());
    raft.wait(None)
        .current_leader(1, "leads")
        .await
        .expect("leads");
    let token = |n| Token {
        secret: TokenSecret::new([n; TokenSecret::LEN]),
        expires: None,
    };
    let next = Proposal {
        at,
        command: Command::Restore {
            next: NewEpoch {
                name: EpochName {
                    incarnation: 1,
                    number: 2,
                    hash: [2; 8],
                },
                secrets: EpochSecrets {
                    gossip: Secret::new([5; 32]),
                    data: Secret::new([6; 32]),
                },
            },
            tokens: Tokens {
                worker: token(3),
                manager: token(4),
            },
        },
    };
    let applied = raft.client_write(next).await.expect("written").data.0;
    assert_eq!(applied, Some(Ok(Outcome::Done)));
    let incarnation =
        reader.with(|state| state.cluster().map(|cluster| cluster.version().incarnation));
    assert_eq!(incarnation, Some(1));
    raft.shutdown().await.expect("ends");
}
