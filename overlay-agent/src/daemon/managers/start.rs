//! How a manager begins: the first one, after a restart, after a promotion, from a backup.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{Config, Raft, SnapshotPolicy};
use overlay_cluster::{
    control::member::ProposeRefused,
    identity::Role,
    keys::EpochSecrets,
    log::{
        command::{Command, Genesis},
        epochs::NewEpoch,
        state::State,
        tokens::Tokens,
    },
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use super::{
    Inner, Managers, ManagersError, Setup, Timing,
    address::{Address, id},
    links::Links,
    network::Network,
    reports::Reports,
};
use crate::daemon::store::{self, LogStore, Machine, StoreError};

/// A snapshot after so many entries.
const SNAPSHOT_EVERY: u64 = 1000;

/// A manager that lacks more entries gets a snapshot.
const LAG: u64 = 2000;

/// Bytes of a chunk of a snapshot.
const CHUNK: u64 = 256 * 1024;

/// For a chunk to go, or for a whole snapshot to be written to disk.
const CHUNK_TIME: Duration = Duration::from_secs(30);

/// openraft holds the store for a moment after its shutdown.
const LET_GO: Duration = Duration::from_secs(3);

/// Epoch numbers skipped when a backup is restored: SAs of epochs that the backup does not know are in
/// kernels, under their numbers.
const EPOCH_GAP: u32 = 1 << 16;

fn config(timing: &Timing) -> Result<Arc<Config>, ManagersError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "overlay".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election.0),
        election_timeout_max: millis(timing.election.1),
        install_snapshot_timeout: millis(CHUNK_TIME),
        max_payload_entries: 128,
        replication_lag_threshold: LAG,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        snapshot_max_chunk_size: CHUNK,
        // Entries hold secrets: what a snapshot has, the log forgets.
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|error| ManagersError::Timing(error.to_string()))
}

async fn open_store(setup: &Setup) -> Result<(LogStore, Machine), StoreError> {
    let begun = Instant::now();
    loop {
        match store::open(&setup.store, setup.seal.clone()) {
            Err(StoreError::NotADatabase { source, .. })
                if matches!(*source, redb::DatabaseError::DatabaseAlreadyOpen)
                    && begun.elapsed() < LET_GO =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened,
        }
    }
}

/// Runs raft on the store, whatever is in it.
async fn start(setup: Setup) -> Result<Managers, ManagersError> {
    let config = config(&setup.timing)?;
    let (log, machine) = open_store(&setup).await?;
    let reader = machine.reader();
    let links = Links::new(setup.client.clone(), setup.index, reader.clone());
    let network = Network(links.clone());
    let raft = Raft::new(id(setup.index), config, network, log, machine)
        .await
        .map_err(|error| ManagersError::Raft(error.to_string()))?;
    let inner = Arc::new(Inner {
        setup,
        raft,
        reader,
        links,
        reports: Reports::default(),
        stop: watch::Sender::new(false),
        tasks: std::sync::Mutex::new(JoinSet::new()),
        changing: Mutex::new(()),
    });
    inner.begin();
    Ok(Managers(inner))
}

impl Inner {
    fn begin(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(|it| it.into_inner());
        macro_rules! run {
            ($($task:ident),*) => {
                $({
                    let inner = self.clone();
                    tasks.spawn(async move {
                        let task = inner.clone().$task();
                        tokio::select! {
                            () = inner.stopped() => {}
                            () = task => {}
                        }
                    });
                })*
            };
        }
        run!(keep_epochs, keep_voters, pass_on, forget_secrets);
    }

    /// A manager that is alone needs not wait whether another one leads.
    async fn lead_alone(&self) -> Result<(), ManagersError> {
        let own = id(self.setup.index);
        let stopped = |error: &dyn std::fmt::Display| ManagersError::Raft(error.to_string());
        let alone = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective();
            membership.voter_ids().eq([own])
        });
        if alone.await.map_err(|error| stopped(&error))? {
            let elected = self.raft.trigger().elect().await;
            elected.map_err(|error| stopped(&error))?;
        }
        Ok(())
    }
}

impl Managers {
    /// The manager, or nothing of it is left running.
    async fn or_shutdown<T>(
        self,
        done: Result<T, ManagersError>,
    ) -> Result<(Self, T), ManagersError> {
        match done {
            Ok(value) => Ok((self, value)),
            Err(error) => {
                self.shutdown().await;
                Err(error)
            }
        }
    }
}

/// Makes a cluster, of which this node is the first manager. What was begun and not ended is ended.
pub async fn found(setup: Setup, genesis: Genesis) -> Result<Managers, ManagersError> {
    if id(setup.index) != 1 {
        return Err(ManagersError::FirstIndex(setup.index));
    }
    let managers = start(setup).await?;
    let done = first(&managers.0, genesis).await;
    Ok(managers.or_shutdown(done).await?.0)
}

async fn first(inner: &Inner, genesis: Genesis) -> Result<(), ManagersError> {
    if let Some(cluster) = inner.with_log(|log| log.map(|log| log.id())) {
        let path = inner.setup.store.clone();
        return Err(ManagersError::ClusterExists { path, cluster });
    }
    let raft = |error: String| ManagersError::Raft(error);
    let begun = inner.raft.is_initialized().await;
    if begun.map_err(|error| raft(error.to_string()))? {
        inner.lead_alone().await?;
    } else {
        let own = (id(inner.setup.index), inner.setup.address().to_raft());
        let nodes = std::collections::BTreeMap::from([own]);
        let begun = inner.raft.initialize(nodes).await;
        begun.map_err(|error| raft(error.to_string()))?;
    }
    wait_to_lead(inner).await?;
    let path = inner.setup.store.clone();
    // After a restart the log may have been carried out only now.
    if let Some(cluster) = inner.with_log(|log| log.map(|log| log.id())) {
        return Err(ManagersError::ClusterExists { path, cluster });
    }
    inner
        .write(Command::Initialise(Box::new(genesis)))
        .await
        .map_err(ManagersError::Refused)?;
    Ok(())
}

async fn wait_to_lead(inner: &Inner) -> Result<(), ManagersError> {
    let time = inner.setup.timing.settle;
    let mut metrics = inner.raft.metrics();
    let led = tokio::time::timeout(time, async {
        loop {
            if inner.leads_for_sure() {
                return Ok(());
            }
            let failure = metrics.borrow_and_update().running_state.clone().err();
            if let Some(failure) = failure {
                return Err(ManagersError::Raft(failure.to_string()));
            }
            if metrics.changed().await.is_err() {
                return Err(ManagersError::Raft("it stops".into()));
            }
        }
    });
    let silent = || ProposeRefused::NoLeader(inner.silent());
    led.await
        .unwrap_or_else(|_| Err(ManagersError::Refused(silent())))
}

/// Goes on with the store that this manager had. It does not wait for a leader.
pub async fn open(setup: Setup) -> Result<Managers, ManagersError> {
    if !exists(&setup.store)? {
        return Err(ManagersError::NoStore {
            path: setup.store.clone(),
        });
    }
    let managers = start(setup).await?;
    let done = managers.0.lead_alone().await;
    Ok(managers.or_shutdown(done).await?.0)
}

/// Becomes a manager: waits, with an empty store, until the leader gives this node the log and then a
/// vote. The node's certificate says manager. A store that is there is gone on with: the promotion
/// was begun before a restart, or this node was a manager before.
pub async fn await_promotion(setup: Setup) -> Result<Managers, ManagersError> {
    start(setup).await
}

/// Removes the store of a node that is no manager any longer: it has secrets.
pub fn forget(store: &Path) -> Result<(), ManagersError> {
    match fs::remove_file(store) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            let path = store.to_owned();
            Err(StoreError::Open { path, source }.into())
        }
        _ => Ok(()),
    }
}

fn exists(path: &Path) -> Result<bool, ManagersError> {
    path.try_exists().map_err(|source| {
        let path = path.to_owned();
        StoreError::Open { path, source }.into()
    })
}

/// Makes this node the only manager of the cluster in a backup, under the next incarnation. The other
/// managers of the backup are workers then: they remove what state they have ([`forget`]) and are
/// promoted again. The store must be empty.
pub async fn restore(
    setup: Setup,
    backup: &State,
    tokens: Tokens,
) -> Result<Managers, ManagersError> {
    let log = backup.cluster().ok_or(ManagersError::EmptyBackup)?;
    let is_own = |(node, member): (&_, &overlay_cluster::log::member::Member)| {
        *node == setup.node && member.index == setup.index
    };
    if !log.roster().managers().any(is_own) {
        return Err(ManagersError::NotInBackup(setup.index));
    }
    let next = after(log, &setup)?;
    let others: Vec<_> = log
        .roster()
        .managers()
        .map(|(node, _)| *node)
        .filter(|node| *node != setup.node)
        .collect();
    let address: Address = setup.address();
    store::restore(
        &setup.store,
        setup.seal.clone(),
        id(setup.index),
        address.to_raft(),
        backup,
    )
    .await?;
    let path = setup.store.clone();
    let begun = async {
        let managers = start(setup).await?;
        let done = begin_again(&managers.0, next, tokens, others).await;
        Ok::<_, ManagersError>(managers.or_shutdown(done).await?.0)
    };
    let begun = begun.await;
    if begun.is_err() {
        // It must not go on in the incarnation of the backup.
        forget(&path)?;
    }
    begun
}

fn after(
    log: &overlay_cluster::log::state::Cluster,
    setup: &Setup,
) -> Result<NewEpoch, ManagersError> {
    let mut rng = setup.random.rng().map_err(ManagersError::Random)?;
    let secrets = EpochSecrets::random(&mut rng);
    let incarnation = log.epochs().current().incarnation.saturating_add(1);
    let number = log.epochs().newest().saturating_add(EPOCH_GAP);
    Ok(NewEpoch {
        name: secrets.name(incarnation, number),
        secrets,
    })
}

async fn begin_again(
    inner: &Inner,
    next: NewEpoch,
    tokens: Tokens,
    others: Vec<overlay_cluster::id::NodeId>,
) -> Result<(), ManagersError> {
    // The duties of a leader would give the other managers the log before they are put out.
    let _changing = inner.changing.lock().await;
    inner.lead_alone().await?;
    wait_to_lead(inner).await?;
    inner.write(Command::Restore { next, tokens }).await?;
    for node in others {
        let role = Role::Worker;
        inner.write(Command::SetRole { node, role }).await?;
    }
    // Who becomes a manager gets a snapshot, and it shall be of this incarnation.
    inner
        .raft
        .trigger()
        .snapshot()
        .await
        .map_err(|error| ManagersError::Raft(error.to_string()))
}
