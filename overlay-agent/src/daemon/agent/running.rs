//! A host that is a node of a cluster: its node, its control channel, its certificate, and if it is a
//! manager its part of the log.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_cluster::{
    control::renew::Renewed,
    id::NodeId,
    identity::{
        Role,
        node_key::NodeKey,
        unlock::{DataKey, Lock, UnlockError, UnlockKey},
    },
    log::{
        command::{Command, Genesis},
        roster::RosterRefusal,
        state::State,
        tokens::Tokens,
        view::{Update, View},
    },
};
use rustls::time_provider::DefaultTimeProvider;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Options, office::Bureau};
use crate::{
    daemon::{
        control::{
            client::Client,
            desk::Desk,
            limits::{ClientLimits, ServerLimits},
            server::Server,
        },
        managers::{self, HostClock, HostRandom, Managers, ManagersError, Random as _, Timing},
        members::LiveMembers,
        node::{self, Node, StartError, Upstream},
        renewal::{Keeper, Roster},
        store::seal::ManagerSeal,
        tls::{Own, OwnError, Tls},
    },
    state::{
        StateError,
        manager::{Manager, ManagerError, Opened},
        membership::{Membership, Stored},
    },
};

/// Tasks have ended within it, or are cut.
const END: Duration = Duration::from_secs(10);
/// Between two attempts to begin or end being a manager.
const AGAIN: Duration = Duration::from_secs(5);
/// For managers to answer a node that starts.
const FRESHEN: Duration = Duration::from_secs(5);
/// How often the leader looks at the age of the roots when nothing calls it.
const ROOTS: Duration = Duration::from_secs(60);

/// Why this host does not run as a node.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Manager(#[from] ManagerError),
    #[error(transparent)]
    Managers(#[from] ManagersError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(
        "cannot listen for other nodes at TCP {address}: {error}; the address must be one of this host, and the port free"
    )]
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    /// The new log does not have its own manager.
    #[error("the managers' log does not have this node: {0}")]
    Roster(#[from] RosterRefusal),
    #[error("the managers' log is empty after its first command: try again")]
    EmptyLog,
}

/// How the managers' part of a node begins.
pub enum Beginning {
    /// As its role and its files say.
    AsStored,
    /// The first manager of a new cluster.
    Found(Box<Genesis>, DataKey),
    /// The only manager of a cluster that is restored.
    Restore(Box<State>, Tokens, DataKey),
}

/// The managers' part of this node.
enum Part {
    Worker,
    /// An operator must unlock it.
    Locked,
    Manager {
        key: DataKey,
        managers: Managers,
    },
}

/// Whether this node is a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagerState {
    Worker,
    Locked,
    Running,
}

/// A running node. It runs until [`Self::stop`].
pub struct Running {
    pub node: Node,
    pub upstream: Upstream,
    pub own: Arc<Own>,
    key: NodeKey,
    client: Client,
    desk: Arc<Desk>,
    bureau: Arc<Bureau>,
    members: Arc<LiveMembers>,
    files: Manager,
    part: Mutex<Part>,
    /// One at a time makes this node a manager or ends it.
    turning: tokio::sync::Mutex<()>,
    /// What keeps it from being what its role says.
    trouble: Mutex<Option<String>>,
    /// Counts changes of view and log.
    changed: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl Running {
    /// Starts the node of these files. `listen` is where it takes other nodes' connections.
    pub async fn start(
        options: &Options,
        membership: Membership,
        mut stored: Stored,
        listen: SocketAddr,
        beginning: Beginning,
    ) -> Result<Arc<Self>, RunError> {
        let own_id = stored.view.node;
        let own = Arc::new(Own::new(stored.key.clone(), &stored.certificate)?);
        let members = Arc::new(LiveMembers::new(&stored.view));
        let tls = Tls::new(own.clone(), members.clone(), Arc::new(DefaultTimeProvider));
        let client = Client::new(tls.clone(), ClientLimits::default())?;
        let bureau = Bureau::new();
        let desk = Desk::new(own_id, bureau.clone(), client.clone());
        let upstream = Upstream::new(own_id, client.clone());
        let files = Manager::new(&options.directories.state, stored.view.cluster);

        let mut part = Part::Worker;
        if let Some(begun) = begin(&beginning, &files, &stored.view, &client, &bureau).await? {
            // The log knows better than what the view was made of.
            stored.view = first_view(&begun.managers, own_id)?;
            members.take_view(&stored.view);
            bureau.set_managers(Some(begun.managers.clone()));
            upstream.set_desk(Some(desk.clone()));
            part = Part::Manager {
                key: begun.key,
                managers: begun.managers,
            };
        } else {
            if is_manager(&stored.view) {
                part = open_part(&files, &stored.view, &client, &bureau)
                    .await
                    .unwrap_or_else(|error| {
                        tracing::error!(%error, "this manager does not begin; it is tried again");
                        Part::Worker
                    });
            }
            if let Part::Manager { managers, .. } = &part {
                bureau.set_managers(Some(managers.clone()));
                upstream.set_desk(Some(desk.clone()));
            }
            upstream.follow(&stored.view);
            freshen(&mut stored.view, &upstream).await;
            members.take_view(&stored.view);
        }
        if let Err(error) = membership.keep_view(&stored.view) {
            end(part).await;
            return Err(error.into());
        }
        let started = listen_and_start(
            options, membership, &stored, listen, &upstream, &members, &tls, &desk,
        );
        let (node, listener, server) = match started.await {
            Ok(started) => started,
            Err(error) => {
                end(part).await;
                return Err(error);
            }
        };
        bureau.open(node.clone());
        let (stop, stopped) = watch::channel(false);
        let running = Arc::new(Self {
            node,
            upstream,
            own,
            key: stored.key,
            client,
            desk,
            bureau,
            members,
            files,
            part: Mutex::new(part),
            turning: tokio::sync::Mutex::new(()),
            trouble: Mutex::new(None),
            changed: watch::Sender::new(0),
            stop,
            tasks: Mutex::new(JoinSet::new()),
        });
        // A manager's log goes on before others ask for it.
        running.follow_role().await;
        running.begin(options, server, listener, stopped)?;
        Ok(running)
    }

    fn begin(
        self: &Arc<Self>,
        options: &Options,
        server: Arc<Server>,
        listener: TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        let keeper = Keeper::new(
            self.key.clone(),
            self.own.clone(),
            self.client.clone(),
            Arc::new(OwnRoster(self.clone())),
            Arc::new(Membership::new(&options.directories.state)),
            rng()?,
        );
        let mut tasks = self.tasks();
        tasks.spawn(server.serve(listener, stopped.clone()));
        let until = |task| until_stopped(stopped.clone(), task);
        let changed = self.changed.subscribe();
        tasks.spawn(until(Box::pin(keeper.run(changed)) as Task));
        tasks.spawn(until(Box::pin(self.clone().watch_role())));
        tasks.spawn(until(Box::pin(self.clone().watch_log())));
        tasks.spawn(until(Box::pin(self.clone().keep_roots())));
        Ok(())
    }

    /// Whether this node is a manager, and whether it is locked.
    pub fn manager_state(&self) -> ManagerState {
        match *self.part() {
            Part::Worker => ManagerState::Worker,
            Part::Locked => ManagerState::Locked,
            Part::Manager { .. } => ManagerState::Running,
        }
    }

    /// The managers, on one that is not locked.
    pub fn managers(&self) -> Option<Managers> {
        self.bureau.managers()
    }

    /// Why this node is not what its role says, if it is not.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files of this manager's state.
    pub const fn files(&self) -> &Manager {
        &self.files
    }

    /// What `work` makes of the key of this manager's state; `None` on one that is none, or locked.
    pub fn with_key<T>(&self, work: impl FnOnce(&DataKey) -> T) -> Option<T> {
        match &*self.part() {
            Part::Manager { key, .. } => Some(work(key)),
            Part::Worker | Part::Locked => None,
        }
    }

    /// Opens the managers' state with an operator's key, and goes on with it.
    pub async fn unlock(&self, key: &UnlockKey) -> Result<(), RunError> {
        let _turn = self.turning.lock().await;
        if self.manager_state() == ManagerState::Running {
            return Ok(());
        }
        let data = self.files.unlock(key)?;
        self.run_manager(data).await
    }

    /// Stops the agent's part: what is in the kernel stays and works.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks());
        self.node.stop().await;
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if timeout(END, all_ended).await.is_err() {
            tracing::warn!("tasks of the agent are cut");
        }
        tasks.shutdown().await;
        self.stop_manager().await;
    }

    /// Ends the managers' part of a node that leaves, and forgets its state.
    pub async fn forget_manager(&self) -> Result<(), RunError> {
        let _turn = self.turning.lock().await;
        self.stop_manager().await;
        self.files.forget()?;
        Ok(())
    }

    /// True once the node stops.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Runs a task until the node stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = until_stopped(self.stopped(), Box::pin(task));
        self.tasks().spawn(task);
    }

    async fn stop_manager(&self) {
        self.upstream.set_desk(None);
        self.bureau.set_managers(None);
        let part = std::mem::replace(&mut *self.part(), Part::Worker);
        end(part).await;
    }

    async fn watch_role(self: Arc<Self>) {
        let mut views = self.node.views();
        loop {
            let view = views.borrow_and_update().clone();
            self.members.take_view(&view);
            self.changed.send_modify(|count| *count += 1);
            self.follow_role().await;
            let next = views.changed();
            let changed = if self.trouble().is_some() {
                timeout(AGAIN, next).await.unwrap_or(Ok(()))
            } else {
                next.await
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Makes this node a manager, or ends it, as the roster says.
    async fn follow_role(&self) {
        let _turn = self.turning.lock().await;
        let view = self.node.view();
        let Some(role) = view.peers.get(&view.node).map(|own| own.role) else {
            return;
        };
        let done = match (role, self.manager_state()) {
            (Role::Manager, ManagerState::Worker) => self.become_manager().await,
            (Role::Worker, ManagerState::Running | ManagerState::Locked) => {
                tracing::info!("this node is no manager any longer");
                self.stop_manager().await;
                self.files.forget().map_err(RunError::from)
            }
            _ => Ok(()),
        };
        let trouble = done.err().map(|error| {
            tracing::error!(%error, "this node cannot be the {role} that it is");
            error.to_string()
        });
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn become_manager(&self) -> Result<(), RunError> {
        let view = self.node.view();
        let part = open_part(&self.files, &view, &self.client, &self.bureau).await?;
        self.take_part(part);
        Ok(())
    }

    async fn run_manager(&self, key: DataKey) -> Result<(), RunError> {
        let view = self.node.view();
        let part = run_part(&self.files, &view, &self.client, &self.bureau, key).await?;
        self.take_part(part);
        Ok(())
    }

    fn take_part(&self, part: Part) {
        if let Part::Manager { managers, .. } = &part {
            self.bureau.set_managers(Some(managers.clone()));
            self.upstream.set_desk(Some(self.desk.clone()));
        }
        *self.part() = part;
        self.changed.send_modify(|count| *count += 1);
    }

    /// Believes the log of this manager in what views do not say: who was put out.
    async fn watch_log(self: Arc<Self>) {
        let mut role = self.changed.subscribe();
        loop {
            let Some(managers) = self.managers() else {
                if role.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut log = managers.changes();
            loop {
                log.borrow_and_update();
                managers.with_log(|log| log.map(|log| self.members.take_log(log)));
                if log.changed().await.is_err() {
                    break;
                }
                self.changed.send_modify(|count| *count += 1);
            }
            // The manager has ended.
            if timeout(AGAIN, role.changed())
                .await
                .is_ok_and(|it| it.is_err())
            {
                return;
            }
        }
    }

    /// Replaces the root of the cluster in time, while this manager leads.
    async fn keep_roots(self: Arc<Self>) {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(managers) = self.managers().filter(Managers::is_leader)
                && let Some(command) = root_due(&managers)
                && let Err(refused) = managers.propose(command).await
            {
                tracing::warn!(%refused, "the root of the cluster is not changed now");
                sleep(AGAIN).await;
            }
            if timeout(ROOTS, changed.changed())
                .await
                .is_ok_and(|it| it.is_err())
            {
                return;
            }
        }
    }

    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn until_stopped(mut stopped: watch::Receiver<bool>, task: Task) {
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stop| *stop) => {}
        () = task => {}
    }
}

struct Begun {
    key: DataKey,
    managers: Managers,
}

async fn begin(
    beginning: &Beginning,
    files: &Manager,
    view: &View,
    client: &Client,
    bureau: &Arc<Bureau>,
) -> Result<Option<Begun>, RunError> {
    let (key, managers) = match beginning {
        Beginning::AsStored => return Ok(None),
        Beginning::Found(genesis, key) => {
            let setup = setup(files, view, client, bureau, key)?;
            (key, managers::found(setup, (**genesis).clone()).await?)
        }
        Beginning::Restore(state, tokens, key) => {
            let setup = setup(files, view, client, bureau, key)?;
            let restored = managers::restore(setup, state, tokens.clone());
            (key, restored.await?)
        }
    };
    Ok(Some(Begun {
        key: key.clone(),
        managers,
    }))
}

fn is_manager(view: &View) -> bool {
    let own = view.peers.get(&view.node);
    own.is_some_and(|own| own.role == Role::Manager)
}

/// The managers' part of a node whose role is manager.
async fn open_part(
    files: &Manager,
    view: &View,
    client: &Client,
    bureau: &Arc<Bureau>,
) -> Result<Part, RunError> {
    let opened = if files.exists()? {
        files.open()?
    } else {
        Opened::Open(files.create(Lock::Disk, &mut rng()?)?.key)
    };
    match opened {
        Opened::Open(key) => run_part(files, view, client, bureau, key).await,
        Opened::Locked => {
            tracing::warn!("the managers' state is locked: unlock it with `overlay unlock`");
            Ok(Part::Locked)
        }
    }
}

async fn run_part(
    files: &Manager,
    view: &View,
    client: &Client,
    bureau: &Arc<Bureau>,
    key: DataKey,
) -> Result<Part, RunError> {
    let setup = setup(files, view, client, bureau, &key)?;
    let managers = if files.store().exists() {
        managers::open(setup).await?
    } else {
        managers::await_promotion(setup).await?
    };
    tracing::info!("this node is a manager");
    Ok(Part::Manager { key, managers })
}

/// Pulls what has changed since the view was kept, before the node goes by it: what an earlier agent
/// did by a newer one is in the kernel, and stays. Without an answer the node begins with what it has.
async fn freshen(view: &mut View, upstream: &Upstream) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < FRESHEN {
        let left = FRESHEN.saturating_sub(begun.elapsed());
        match timeout(left, upstream.pull_view(Some(view.version))).await {
            // A manager that begins itself may not have carried out all of its log yet, and its view then
            // lacks what the kernel goes by already.
            Ok(Ok(update)) => {
                if view.take(update).is_ok() && upstream.is_current() {
                    return;
                }
            }
            Ok(Err(node::UpstreamError::PutOut(_))) => return,
            Ok(Err(error)) => tracing::debug!(%error, "the view is not pulled yet"),
            Err(_) => {}
        }
        sleep(Duration::from_millis(100)).await;
    }
    tracing::warn!(
        "the managers do not answer or have no majority: this node begins with the view that it has"
    );
}

async fn end(part: Part) {
    if let Part::Manager { managers, .. } = part {
        managers.shutdown().await;
    }
}

fn rng() -> Result<rand::rngs::StdRng, RunError> {
    HostRandom.rng().map_err(RunError::Random)
}

fn setup(
    files: &Manager,
    view: &View,
    client: &Client,
    bureau: &Arc<Bureau>,
    key: &DataKey,
) -> Result<managers::Setup, RunError> {
    let own = view
        .peers
        .get(&view.node)
        .ok_or(RunError::Roster(RosterRefusal::Unknown(view.node)))?;
    let seal = ManagerSeal::new(key, view.cluster, rng()?);
    Ok(managers::Setup {
        node: view.node,
        index: own.index,
        control: own.contact.control,
        client: client.clone(),
        store: files.store(),
        seal: Arc::new(seal),
        clock: Arc::new(HostClock),
        liveness: bureau.clone(),
        random: Arc::new(HostRandom),
        timing: Timing::default(),
    })
}

/// The view of a node, by the log of its own manager.
fn first_view(managers: &Managers, node: NodeId) -> Result<View, RunError> {
    managers.with_log(
        |log| match log.ok_or(RunError::EmptyLog)?.update(&node, None)? {
            Update::Whole(view) => Ok(*view),
            Update::Delta(_) => unreachable!("who has nothing gets the whole view"),
        },
    )
}

#[allow(
    clippy::too_many_arguments,
    reason = "the parts of one node, made one after the other"
)]
async fn listen_and_start(
    options: &Options,
    membership: Membership,
    stored: &Stored,
    listen: SocketAddr,
    upstream: &Upstream,
    members: &Arc<LiveMembers>,
    tls: &Tls,
    desk: &Arc<Desk>,
) -> Result<(Node, TcpListener, Arc<Server>), RunError> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| RunError::Listen {
            address: listen,
            error,
        })?;
    let server = Server::new(tls.clone(), desk.clone(), ServerLimits::default())?;
    let node = Node::start(node::Setup {
        stored: stored.clone(),
        membership,
        directories: options.directories.clone(),
        host: options.host.clone(),
        rotation: options.rotation,
        listen,
        upstream: upstream.clone(),
        known: members.clone(),
    })
    .await?;
    Ok((node, listener, server))
}

/// What this node's certificate is renewed by.
struct OwnRoster(Arc<Running>);

impl Roster for OwnRoster {
    fn role(&self) -> Option<Role> {
        let view = self.0.node.view();
        view.peers.get(&view.node).map(|own| own.role)
    }

    fn managers(&self) -> Vec<(NodeId, SocketAddr)> {
        let view = self.0.node.view();
        let others = view.peers.iter().filter(|(id, _)| **id != view.node);
        others
            .filter(|(_, peer)| peer.role == Role::Manager)
            .map(|(id, peer)| (*id, peer.contact.control))
            .collect()
    }

    fn issue(&self, key: &NodeKey, role: Role) -> Option<Result<Renewed, String>> {
        use crate::daemon::control::desk::Office as _;

        let managers = self.0.managers()?;
        let trust = managers.with_log(|log| Some(log?.trust().clone()))?;
        let issued = self.0.bureau.issue(&key.public(), role);
        Some(issued.map(|certificate| Renewed {
            certificate,
            trust,
            role,
        }))
    }
}

/// The next step of a change of root, if one is due.
fn root_due(managers: &Managers) -> Option<Command> {
    use crate::daemon::managers::Clock as _;

    let clock = HostClock.now()?;
    let mut rng = HostRandom.rng().ok()?;
    managers.with_log(|log| {
        log?.next_root_step(clock, &mut rng)
            .inspect_err(|error| tracing::error!(%error, "no new root can be made"))
            .ok()?
    })
}

/// Whether a wrong key was given, rather than none or a damaged file.
pub fn is_wrong_key(error: &RunError) -> bool {
    matches!(
        error,
        RunError::Manager(ManagerError::Unlock(UnlockError::WrongKey { .. }))
    )
}
