//! How a host becomes a node of a cluster, and ceases to be one.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use overlay_cluster::{
    control::{
        found::{Founder, found},
        join::{Join, Joiner},
    },
    identity::{
        Role,
        authority::Validity,
        backup::{Backup as SealedBackup, BackupKey},
        node_key::NodeKey,
        trust::TrustBundle,
        unlock::{Lock, UnlockKey as Key},
    },
    log::{
        command::Command,
        epochs::RotationPolicy,
        member::Contact,
        names::SoftwareVersion,
        settings::Settings,
        state::State,
        tokens::Tokens,
        view::{Update, View},
    },
};
use rustls::time_provider::DefaultTimeProvider;

use super::{
    Agent, Part, errors,
    running::{Beginning, ManagerState, Running, is_wrong_key},
};
use crate::{
    api::{
        ApiError, Code, SecretText,
        cluster::{
            Backup, InitRequest, Initialised, JoinRequest, LeaveRequest, Membership as Own,
            RestoreRequest, UnlockKey, UnlockRequest,
        },
        secret::Blob,
    },
    daemon::{
        control::{
            client::{self, ClientError},
            limits::ClientLimits,
        },
        managers::{Clock as _, HostClock, HostRandom, Random as _},
    },
    kernel::removal,
    state::{
        endpoints,
        manager::Manager,
        membership::{Membership, Stored},
    },
};

/// What other nodes are told that this one runs.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Attempts at one manager that is busy or has no leader.
const ATTEMPTS: u32 = 4;
const AGAIN: Duration = Duration::from_secs(2);

impl Agent {
    /// Goes on with what this host was before the agent's start.
    pub(super) async fn go_on(self: &Arc<Self>) -> Result<(), ApiError> {
        let files = self.files();
        let Some(stored) = files.load().map_err(|error| errors::host(&error))? else {
            return Ok(());
        };
        self.run(files, stored, Beginning::AsStored).await?;
        Ok(())
    }

    async fn run(
        self: &Arc<Self>,
        files: Membership,
        stored: Stored,
        beginning: Beginning,
    ) -> Result<Arc<Running>, ApiError> {
        let own = stored.view.peers.get(&stored.view.node);
        let control = own.map(|own| own.contact.control).ok_or_else(|| {
            ApiError::new(
                Code::Internal,
                "the view of the cluster that this node kept does not have it",
                "give the membership up with `overlay leave --force`, and join again",
            )
        })?;
        let kept = files.listen().map_err(|error| errors::host(&error))?;
        let listen = kept.unwrap_or_else(|| self.listen(control));
        let started = Running::start(&self.options, files, stored, listen, beginning);
        let running = started.await.map_err(|error| errors::run(&error))?;
        self.set(Part::Node(running.clone()));
        self.follow_names(&running);
        Ok(running)
    }

    /// Nobody may make this host a node while it is one.
    fn check_free(&self) -> Result<(), ApiError> {
        let cluster = match self.part() {
            Part::None => return Ok(()),
            Part::Broken(why) => return Err(errors::broken(&why)),
            Part::Node(running) => running.node.view().cluster,
        };
        Err(ApiError::new(
            Code::Conflict,
            format!("this node is part of cluster {cluster} already"),
            "leave it first with `overlay leave`",
        ))
    }

    /// Makes a cluster of this host alone.
    pub(super) async fn do_init(
        self: &Arc<Self>,
        request: InitRequest,
    ) -> Result<Initialised, ApiError> {
        let _turn = self.turning.lock().await;
        self.check_free()?;
        let contact = self.contact(&request.advertise, request.listen)?;
        let mut settings = Settings::default();
        if !request.subnet_pools.is_empty() {
            let pools = request.subnet_pools.into_iter();
            settings.subnet_pools = pools.map(Into::into).collect();
        }
        let mut policy = RotationPolicy::default();
        if let Some(seconds) = request.key_rotation_interval_seconds {
            policy.interval = Duration::from_secs(seconds);
        }
        policy
            .check()
            .map_err(|error| ApiError::bad_request(&error))?;
        settings
            .check()
            .map_err(|error| ApiError::bad_request(&error))?;
        contact
            .check()
            .map_err(|error| ApiError::bad_request(&error))?;

        let (now, mut rng) = (now()?, rng()?);
        let files = self.files();
        let key = new_key(&files)?;
        let founder = Founder {
            key: &key,
            name: request.name.unwrap_or_else(|| self.options.name.clone()),
            contact,
            labels: request.labels,
            settings,
            policy,
            validity: Validity::default(),
            token_lifetime: None,
        };
        let founded = found(founder, now, &mut rng).map_err(|error| errors::host(&error))?;
        // The log says the same to who asks it.
        let mut state = State::default();
        let begin = Command::Initialise(Box::new(founded.genesis.clone()));
        state
            .apply(now, begin)
            .map_err(|error| ApiError::bad_request(&error))?;
        let view = view_of(&state, &key)?;
        let manager = Manager::new(&self.options.directories.state, view.cluster);
        // What an attempt that did not come to its end has left; nobody has joined there.
        manager.forget().map_err(|error| errors::host(&error))?;
        let lock = if request.autolock {
            Lock::Unlock
        } else {
            Lock::Disk
        };
        let created = manager
            .create(lock, &mut rng)
            .map_err(|error| errors::host(&error))?;
        let trust = TrustBundle::new(founded.genesis.authority.root().clone());
        keep(&files, &founded.certificate, &trust, request.listen)?;
        let stored = Stored {
            key,
            certificate: founded.certificate,
            trust,
            view,
        };
        let beginning = Beginning::Found(Box::new(founded.genesis), created.key);
        let running = match self.run(files, stored, beginning).await {
            Ok(running) => running,
            Err(error) => {
                let _rest = manager.forget();
                let _rest = self.files().forget();
                return Err(error);
            }
        };
        Ok(Initialised {
            membership: own(&running)?,
            managers: managers(&running.node.view()),
            worker_token: token_text(&running, Role::Worker)?,
            unlock_key: created.unlock_key.map(|key| key.to_text().into()),
        })
    }

    /// Joins a cluster by a token, at the first manager that answers.
    pub(super) async fn do_join(self: &Arc<Self>, request: JoinRequest) -> Result<Own, ApiError> {
        let _turn = self.turning.lock().await;
        self.check_free()?;
        if request.managers.is_empty() {
            return Err(ApiError::new(
                Code::BadRequest,
                "no manager is named",
                "name the address of one",
            ));
        }
        let files = self.files();
        let key = new_key(&files)?;
        let joined = match self.ask_to_join(&request, &key).await {
            Ok(joined) => joined,
            Err(error) => {
                // A key that no roster has is of no use to anybody.
                let _rest = files.forget();
                return Err(error);
            }
        };
        keep(&files, &joined.certificate, &joined.trust, request.listen)?;
        files
            .keep_view(&joined.view)
            .map_err(|error| errors::host(&error))?;
        let stored = Stored {
            key,
            certificate: joined.certificate,
            trust: joined.trust,
            view: joined.view,
        };
        match self.run(files, stored, Beginning::AsStored).await {
            Ok(running) => own(&running),
            Err(error) => {
                // The cluster has this node: it goes on at the next start, or leaves.
                self.set(Part::Broken(error.to_string()));
                Err(error)
            }
        }
    }

    async fn ask_to_join(
        &self,
        request: &JoinRequest,
        key: &NodeKey,
    ) -> Result<overlay_cluster::control::join::Joined, ApiError> {
        let mut last = None;
        for &manager in &request.managers {
            let advertise = if request.advertise.is_empty() {
                vec![address_towards(manager)?]
            } else {
                request.advertise.clone()
            };
            let joiner = Joiner {
                key,
                name: request
                    .name
                    .clone()
                    .unwrap_or_else(|| self.options.name.clone()),
                contact: self.contact(&advertise, request.listen)?,
                labels: request.labels.clone(),
            };
            for attempt in 1..=ATTEMPTS {
                let join = Join::new(request.token.expose(), joiner.clone(), now()?)
                    .map_err(|error| ApiError::bad_request(&error))?;
                let clock = Arc::new(DefaultTimeProvider);
                match client::join(manager, join, clock, ClientLimits::default()).await {
                    Ok((_, joined)) => return Ok(joined),
                    Err(ClientError::JoinRefused(refused)) if !refused.is_transient() => {
                        return Err(ApiError::from_error(Code::Forbidden, &refused));
                    }
                    Err(error @ ClientError::JoinRefused(_)) if attempt < ATTEMPTS => {
                        tracing::info!(%manager, %error, "joining again");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => {
                        tracing::warn!(%manager, %error, "no join at this manager");
                        last = Some(error);
                        break;
                    }
                }
            }
        }
        let error = last.map_or_else(String::new, |error| error.to_string());
        Err(ApiError::from_error(Code::NoQuorum, &error))
    }

    fn contact(
        &self,
        advertise: &[IpAddr],
        listen: Option<SocketAddr>,
    ) -> Result<Contact, ApiError> {
        let Some(first) = advertise.first() else {
            return Err(ApiError::new(
                Code::BadRequest,
                "no address is advertised",
                "name the one that other nodes reach (`--advertise`)",
            ));
        };
        let families =
            [true, false].map(|v4| advertise.iter().filter(move |ip| ip.is_ipv4() == v4));
        if families.into_iter().any(|of| of.count() > 1) {
            return Err(ApiError::new(
                Code::BadRequest,
                "two addresses of one family are advertised",
                "name at most one IPv4 and one IPv6 address",
            ));
        }
        let port = listen.map_or(self.options.port, |listen| listen.port());
        Ok(Contact {
            vteps: advertise.iter().copied().collect(),
            control: SocketAddr::new(*first, port),
            software: SoftwareVersion::new(VERSION).map_err(|error| errors::host(&error))?,
        })
    }

    /// Leaves the cluster. With `force` whatever the managers say.
    pub(super) async fn do_leave(&self, request: LeaveRequest) -> Result<(), ApiError> {
        let _turn = self.turning.lock().await;
        match self.part() {
            Part::None => return Err(ApiError::not_member()),
            Part::Broken(why) if !request.force => return Err(errors::broken(&why)),
            Part::Broken(_) => {}
            Part::Node(running) => {
                if !request.force {
                    check_leave(&running)?;
                }
                self.say_goodbye(&running, request.force).await?;
            }
        }
        self.clear().await?;
        let state = &self.options.directories.state;
        if let Ok(Some(stored)) = self.files().load() {
            Manager::new(state, stored.view.cluster)
                .forget()
                .map_err(|error| errors::host(&error))?;
        }
        // A node that the managers did not let go has not forgotten them, and has addresses of theirs.
        endpoints::remove(&self.options.directories.run).map_err(|error| errors::host(&error))?;
        self.files()
            .forget()
            .map_err(|error| errors::host(&error))?;
        self.set(Part::None);
        Ok(())
    }

    async fn say_goodbye(&self, running: &Arc<Running>, force: bool) -> Result<(), ApiError> {
        self.drop_names().await;
        let left = running.node.leave().await;
        if let Err(error) = left {
            if !force {
                return Err(ApiError::new(
                    Code::Conflict,
                    error.to_string(),
                    "see `overlay status`, or leave whatever the managers say with `--force`",
                ));
            }
            tracing::warn!(%error, "this node leaves without the managers' word");
        }
        running
            .forget_manager()
            .await
            .map_err(|error| errors::run(&error))?;
        running.stop().await;
        self.set(Part::None);
        Ok(())
    }

    /// Takes everything of ours out of the kernel.
    async fn clear(&self) -> Result<(), ApiError> {
        let directories = self.options.directories.clone();
        let removed = on_a_thread(move || async move {
            removal::remove(&directories, || false)
                .await
                .map_err(|error| error.to_string())
        });
        let left = match removed.await {
            Ok(report) if report.is_complete() => return Ok(()),
            Ok(report) => report
                .failed
                .iter()
                .map(|failure| failure.step.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            Err(error) => error,
        };
        Err(ApiError::new(
            Code::Internal,
            format!("the data path is not all gone: {left}"),
            "run `overlay dataplane clear`",
        ))
    }

    /// Opens the managers' state of this node.
    pub(super) async fn do_unlock(&self, request: UnlockRequest) -> Result<(), ApiError> {
        let running = self.running()?;
        let key: Key = request
            .key
            .expose()
            .trim()
            .parse()
            .map_err(|error| ApiError::bad_request(&error))?;
        match running.manager_state() {
            ManagerState::Worker => return Err(ApiError::not_manager()),
            ManagerState::Running => {
                return Err(ApiError::new(
                    Code::Conflict,
                    "the managers' state on this node is not locked",
                    "",
                ));
            }
            ManagerState::Locked => {}
        }
        running.unlock(&key).await.map_err(|error| {
            if is_wrong_key(&error) {
                ApiError::from_error(Code::Forbidden, &error)
            } else {
                errors::run(&error)
            }
        })
    }

    /// Makes a new unlock key, and prints it once: the old one is of no use then.
    pub(super) fn do_rotate_unlock_key(&self) -> Result<UnlockKey, ApiError> {
        let running = self.running()?;
        let mut rng = rng()?;
        let rotated = running.with_key(|key| running.files().rotate_unlock_key(key, &mut rng));
        let key = rotated
            .ok_or_else(|| not_open(&running))?
            .map_err(|error| ApiError::conflict(&error))?;
        Ok(UnlockKey {
            autolock: true,
            key: Some(key.to_text().into()),
        })
    }

    /// Whether an operator must unlock this manager after each start.
    pub(super) fn do_set_autolock(&self, enabled: bool) -> Result<UnlockKey, ApiError> {
        let running = self.running()?;
        let mut rng = rng()?;
        let set = running.with_key(|key| running.files().set_autolock(enabled, key, &mut rng));
        let key = set
            .ok_or_else(|| not_open(&running))?
            .map_err(|error| errors::host(&error))?;
        Ok(UnlockKey {
            autolock: enabled,
            key: key.map(|key| key.to_text().into()),
        })
    }

    /// Whether it is on; its key is kept nowhere.
    pub(super) fn do_unlock_key(&self) -> Result<UnlockKey, ApiError> {
        let running = self.running()?;
        if running.manager_state() == ManagerState::Worker {
            return Err(ApiError::not_manager());
        }
        let lock = running
            .files()
            .lock()
            .map_err(|error| errors::host(&error))?;
        Ok(UnlockKey {
            autolock: lock == Lock::Unlock,
            key: None,
        })
    }

    /// The managers' state, sealed under a key that is given once.
    pub(super) fn do_backup(&self) -> Result<Backup, ApiError> {
        let running = self.running()?;
        let managers = running.managers().ok_or_else(|| not_open(&running))?;
        let state = managers.state();
        let (now, mut rng) = (now()?, rng()?);
        let key = BackupKey::generate(&mut rng);
        let sealed = SealedBackup::seal(&state, now, &key, &mut rng)
            .map_err(|error| errors::host(&error))?;
        Ok(Backup {
            backup: Blob(sealed),
            key: key.to_text().into(),
        })
    }

    /// Makes this node the only manager of the cluster in a backup.
    pub(super) async fn do_restore(
        self: &Arc<Self>,
        request: RestoreRequest,
    ) -> Result<Own, ApiError> {
        let _turn = self.turning.lock().await;
        let files = self.files();
        let Some(mut stored) = files.load().map_err(|error| errors::host(&error))? else {
            return Err(ApiError::new(
                Code::NotMember,
                "this host has no node key of a cluster",
                "restore on a host that was a manager when the backup was made, with its state directory",
            ));
        };
        let key: BackupKey = request
            .key
            .expose()
            .trim()
            .parse()
            .map_err(|error| ApiError::bad_request(&error))?;
        let sealed = SealedBackup::parse(&request.backup.0)
            .map_err(|error| ApiError::bad_request(&error))?;
        let state = sealed
            .open(&key, Some(stored.view.cluster))
            .map_err(|error| ApiError::bad_request(&error))?;
        let view = view_of(&state, &stored.key)?;
        if let Part::Node(running) = self.part() {
            self.drop_names().await;
            running.stop().await;
            self.set(Part::None);
        }
        let (now, mut rng) = (now()?, rng()?);
        let manager = Manager::new(&self.options.directories.state, view.cluster);
        // The key of a locked state is the operator's: the new state has another, and says so.
        let was_locked = manager.lock().is_ok_and(|lock| lock == Lock::Unlock);
        if was_locked {
            tracing::warn!(
                "autolock is off after a restore: turn it on with `overlay autolock on`"
            );
        }
        manager.forget().map_err(|error| errors::host(&error))?;
        let created = manager
            .create(Lock::Disk, &mut rng)
            .map_err(|error| errors::host(&error))?;
        stored.view = view;
        stored.trust = stored.view.trust.clone();
        let tokens = match state.cluster() {
            Some(log) => log.tokens().renewed(log.now(now), &mut rng),
            None => Tokens::random(now, None, &mut rng),
        };
        let beginning = Beginning::Restore(Box::new(state), tokens, created.key);
        let running = self
            .run(files, stored, beginning)
            .await
            .inspect_err(|error| {
                self.set(Part::Broken(error.to_string()));
            })?;
        own(&running)
    }
}

/// Runs it on a thread of its own: network namespaces belong to threads.
async fn on_a_thread<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>>,
{
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let outcome = match runtime {
            Ok(runtime) => runtime.block_on(work()),
            Err(error) => Err(error.to_string()),
        };
        // Who waits may have gone.
        let _unheard = done.send(outcome);
    });
    result
        .await
        .unwrap_or_else(|_| Err("the thread that removes it ended".to_owned()))
}

/// What keeps a node from leaving, unless it is forced.
fn check_leave(running: &Running) -> Result<(), ApiError> {
    let refuse =
        |message: String, remedy: &str| Err(ApiError::new(Code::Conflict, message, remedy));
    let endpoints = running.node.endpoints().len();
    if endpoints > 0 {
        return refuse(
            format!("{endpoints} endpoints are attached on this node"),
            "detach them, or leave with `--force`",
        );
    }
    if running.manager_state() != ManagerState::Worker {
        return refuse(
            "this node is a manager".into(),
            "demote it first with `overlay node demote`, or leave with `--force`",
        );
    }
    Ok(())
}

pub(super) fn not_open(running: &Running) -> ApiError {
    match running.manager_state() {
        ManagerState::Locked => ApiError::locked(),
        ManagerState::Worker | ManagerState::Running => ApiError::not_manager(),
    }
}

pub(super) fn now() -> Result<overlay_cluster::time::Timestamp, ApiError> {
    HostClock
        .now()
        .ok_or_else(|| ApiError::new(Code::Internal, "the clock of this host cannot be read", ""))
}

pub(super) fn rng() -> Result<rand::rngs::StdRng, ApiError> {
    HostRandom.rng().map_err(|error| errors::host(&error))
}

/// The key that an attempt before has left, or a new one.
fn new_key(files: &Membership) -> Result<NodeKey, ApiError> {
    if let Some(key) = files.key().map_err(|error| errors::host(&error))? {
        return Ok(key);
    }
    let key = NodeKey::generate(&mut rng()?);
    files.keep_key(&key).map_err(|error| errors::host(&error))?;
    Ok(key)
}

fn keep(
    files: &Membership,
    certificate: &[u8],
    trust: &TrustBundle,
    listen: Option<SocketAddr>,
) -> Result<(), ApiError> {
    files
        .keep_trust(trust)
        .and_then(|()| files.keep_certificate(certificate))
        .and_then(|()| listen.map_or(Ok(()), |listen| files.keep_listen(listen)))
        .map_err(|error| errors::host(&error))
}

/// The view of the node with this key.
fn view_of(state: &State, key: &NodeKey) -> Result<View, ApiError> {
    let node = key.node_id();
    let updated = state.cluster().map(|log| log.update(&node, None));
    match updated {
        Some(Ok(Update::Whole(view))) => Ok(*view),
        Some(Err(refusal)) => Err(ApiError::conflict(&refusal)),
        Some(Ok(Update::Delta(_))) | None => Err(ApiError::new(
            Code::Conflict,
            "the managers' state has no cluster",
            "use another backup",
        )),
    }
}

/// This node in its cluster.
pub(super) fn own(running: &Running) -> Result<Own, ApiError> {
    let view = running.node.view();
    let peer = view
        .peers
        .get(&view.node)
        .ok_or_else(ApiError::not_member)?;
    Ok(Own {
        cluster: view.cluster,
        node: view.node,
        name: peer.name.clone(),
        index: peer.index,
        role: peer.role,
    })
}

/// Control addresses of managers, to join at.
pub(super) fn managers(view: &View) -> Vec<SocketAddr> {
    let managers = view
        .peers
        .values()
        .filter(|peer| peer.role == Role::Manager);
    managers.map(|peer| peer.contact.control).collect()
}

/// The text of a role's token.
pub(super) fn token_text(running: &Running, role: Role) -> Result<SecretText, ApiError> {
    let managers = running.managers().ok_or_else(|| not_open(running))?;
    managers
        .with_log(|log| Some(log?.token(role).to_text()))
        .map(SecretText::from)
        .ok_or_else(|| ApiError::unavailable("this manager does not have the log yet"))
}

/// The address of this host that packets to the manager go out with.
fn address_towards(manager: SocketAddr) -> Result<IpAddr, ApiError> {
    let any: SocketAddr = match manager {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    // Nothing is sent: the kernel looks the route up.
    let found = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(manager)?;
        Ok(socket.local_addr()?.ip())
    });
    found.map_err(|error| {
        ApiError::new(
            Code::Internal,
            format!("this host has no route to the manager at {manager}: {error}"),
            "check the address, or name the address to advertise (`--advertise`)",
        )
    })
}
