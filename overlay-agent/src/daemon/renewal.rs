//! Keeps this node's certificate good: a manager issues its own, other nodes ask the managers.
//!
//! What is due, [`overlay_cluster::identity::renewal`] decides. A new certificate is on disk, after
//! the roots that it belongs to, before connections show it. Whatever fails is tried again, later and
//! later, at another manager; the traffic of the node does not need its certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use overlay_cluster::{
    control::renew::Renewed,
    id::NodeId,
    identity::{
        Role,
        authority::AuthorityError,
        certificate::CertificateError,
        csr::CertificateRequest,
        node_key::NodeKey,
        renewal::{Renewal, decide, retry_after},
    },
};
use rand::{Rng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    control::client::{Client, ClientError},
    tls::{Own, OwnError},
};
use crate::state::{StateError, membership::Membership};

/// How long to sleep at the most: the clock of the host may be set meanwhile.
const NAP: Duration = Duration::from_secs(600);

/// From one renewal to the next at the least. A manager that lags issues what is due again.
const PAUSE: Duration = Duration::from_secs(10);

/// What the node knows of its cluster now.
pub trait Roster: Send + Sync + 'static {
    /// The role of this node; `None` if it does not take part.
    fn role(&self) -> Option<Role>;
    /// The managers that can be asked, this node not among them.
    fn managers(&self) -> Vec<(NodeId, SocketAddr)>;
    /// A certificate for this node of its own making, on a manager that has its log.
    fn issue(&self, key: &NodeKey, role: Role) -> Option<Result<Renewed, String>>;
}

/// Why there is no new certificate this time.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// This host cannot tell the time.
    #[error("the clock of this host cannot be read: set it")]
    NoClock,
    /// The node was put out, or its own view does not have it yet.
    #[error("this node is not in its own view of the roster: it joins again, or waits for a view")]
    NoMember,
    /// Managers would not believe the present certificate.
    #[error("{0}; until then this node cannot renew its certificate by itself")]
    Certificate(#[from] CertificateError),
    /// The own request cannot be made.
    #[error("the request for a certificate cannot be made: {0}")]
    Request(#[from] AuthorityError),
    /// Nobody to ask.
    #[error("no manager is known that could renew the certificate of this node")]
    NoManager,
    /// What this manager, or the last one that was asked, said.
    #[error("{0}")]
    Issue(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was issued is not for this node.
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error(transparent)]
    State(#[from] StateError),
    /// The thread that writes ended.
    #[error("the new certificate was not written: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do for so long, if nothing changes.
    Idle(Duration),
    Renewed,
}

/// Renews the certificate of this node.
pub struct Keeper<R> {
    key: NodeKey,
    own: Arc<Own>,
    client: Client,
    roster: Arc<R>,
    files: Arc<Membership>,
    rng: StdRng,
}

impl<R: Roster> Keeper<R> {
    /// `own` is what `client` and the servers of this node show; `rng` is seeded by the operating
    /// system.
    pub fn new(
        key: NodeKey,
        own: Arc<Own>,
        client: Client,
        roster: Arc<R>,
        files: Arc<Membership>,
        rng: StdRng,
    ) -> Self {
        Self {
            key,
            own,
            client,
            roster,
            files,
            rng,
        }
    }

    /// Renews whenever it is due, and looks again whenever the view or the log has `changed`. It ends
    /// when nobody can change them any longer.
    pub async fn run(mut self, mut changed: watch::Receiver<u64>) {
        let mut failures = 0;
        while changed.has_changed().is_ok() {
            changed.mark_unchanged();
            let step = self.step().await;
            failures = if step.is_err() { failures + 1 } else { 0 };
            match step {
                // Whether it ended by time, by a change or because nobody changes anything any
                // longer, is looked at next.
                Ok(Step::Idle(time)) => drop(timeout(time, changed.changed()).await),
                Ok(Step::Renewed) => sleep(PAUSE).await,
                Err(error) => {
                    report(&error, failures);
                    sleep(retry_after(failures, self.rng.next_u32())).await;
                }
            }
        }
    }

    /// Renews if it is due.
    pub async fn step(&mut self) -> Result<Step, RenewalError> {
        let now = self.client.tls().now().ok_or(RenewalError::NoClock)?;
        let role = self.roster.role().ok_or(RenewalError::NoMember)?;
        let trust = self.client.tls().members().trust();
        let expired = match decide(&self.own.certificate(), role, &trust, now) {
            Renewal::At(time) => return Ok(Step::Idle(time.since(now).min(NAP))),
            Renewal::Due => false,
            Renewal::Expired => true,
            Renewal::Refused(error) => {
                // A manager believes itself, whatever others think of its certificate.
                let issued = self.roster.issue(&self.key, role);
                let renewed = issued.ok_or(error)?.map_err(RenewalError::Issue)?;
                return self.keep(renewed).await;
            }
        };
        let renewed = match self.roster.issue(&self.key, role) {
            Some(Ok(issued)) => issued,
            // Its log may lag; the log of another does not.
            Some(Err(error)) => self
                .ask(expired)
                .await
                .map_err(|_| RenewalError::Issue(error))?,
            None => self.ask(expired).await?,
        };
        self.keep(renewed).await
    }

    /// Asks one manager after the other, in random order.
    async fn ask(&mut self, expired: bool) -> Result<Renewed, RenewalError> {
        let request = CertificateRequest::sign(&self.key)?;
        let mut managers = self.roster.managers();
        let mut failed = RenewalError::NoManager;
        while !managers.is_empty() {
            let at = self.rng.next_u32() as usize % managers.len();
            let (node, address) = managers.swap_remove(at);
            match ask(&self.client, node, address, request.clone(), expired).await {
                Ok(renewed) => return Ok(renewed),
                Err(error) => {
                    tracing::debug!(%node, %address, %error, "this manager renewed nothing");
                    failed = error.into();
                }
            }
        }
        Err(failed)
    }

    /// Writes it, roots first, and shows it.
    async fn keep(&self, renewed: Renewed) -> Result<Step, RenewalError> {
        let role = renewed.role;
        let certificate = renewed.certificate.clone();
        let files = Arc::clone(&self.files);
        let written = tokio::task::spawn_blocking(move || {
            files.keep_trust(&renewed.trust)?;
            files.keep_certificate(&renewed.certificate)
        });
        let written = written.await;
        // A full disk is no reason to let the certificate expire.
        self.own.renew(&certificate)?;
        written??;
        tracing::info!(%role, "the certificate of this node was renewed");
        Ok(Step::Renewed)
    }
}

async fn ask(
    client: &Client,
    node: NodeId,
    address: SocketAddr,
    request: Vec<u8>,
    expired: bool,
) -> Result<Renewed, ClientError> {
    if expired {
        return client.renew(address, node, request).await;
    }
    let mut connection = client.connect(address, node).await?;
    let renewed = connection.renew(request).await?;
    connection.close().await;
    Ok(renewed)
}

/// The first failures are usual: a manager restarts.
fn report(error: &RenewalError, failures: u32) {
    if failures < 3 {
        tracing::debug!(%error, failures, "the certificate of this node is not renewed yet");
    } else {
        tracing::warn!(%error, failures, "the certificate of this node is not renewed");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        RwLock,
        atomic::{AtomicU64, Ordering},
    };

    use overlay_cluster::{
        identity::{
            authority::{Authority, Validity},
            certificate::{Identity, verify},
        },
        log::{command::Command, state::State},
        time::Timestamp,
    };
    use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

    use super::*;
    use crate::daemon::{
        control::limits::ClientLimits,
        members::LiveMembers,
        testing::{HOUR, NOW, apply, apply_at, founded, join, key, node, rng, tokens, view},
        tls::Tls,
    };

    #[derive(Debug)]
    struct Clock(AtomicU64);

    impl Clock {
        fn set(&self, now: Timestamp) {
            self.0.store(now.as_secs(), Ordering::Relaxed);
        }
    }

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            let now = Duration::from_secs(self.0.load(Ordering::Relaxed));
            Some(UnixTime::since_unix_epoch(now))
        }
    }

    /// Node `n`, which knows the log; a manager issues from it.
    struct World {
        n: u8,
        state: RwLock<State>,
        clock: Arc<Clock>,
    }

    impl World {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(self.clock.0.load(Ordering::Relaxed))
        }

        fn change(&self, command: Command) {
            apply(&mut self.state.write().unwrap(), command);
        }

        fn shown_to(&self, members: &LiveMembers) {
            members.take_log(self.state.read().unwrap().cluster().unwrap());
        }

        fn issued(&self, key: &NodeKey, role: Role) -> Result<Renewed, String> {
            let state = self.state.read().unwrap();
            let log = state.cluster().unwrap();
            let (validity, now) = (Validity::default(), self.now());
            let certificate = log
                .issue(&key.public(), role, &validity, now, &mut rng(7))
                .map_err(|error| error.to_string())?;
            Ok(Renewed {
                certificate,
                trust: log.trust().clone(),
                role,
            })
        }
    }

    impl Roster for World {
        fn role(&self) -> Option<Role> {
            let state = self.state.read().unwrap();
            let member = state.cluster()?.roster().present(&node(self.n));
            Some(member.ok()?.role)
        }

        fn managers(&self) -> Vec<(NodeId, SocketAddr)> {
            Vec::new()
        }

        fn issue(&self, key: &NodeKey, role: Role) -> Option<Result<Renewed, String>> {
            (self.role()? == Role::Manager).then(|| self.issued(key, role))
        }
    }

    struct Agent {
        world: Arc<World>,
        members: Arc<LiveMembers>,
        own: Arc<Own>,
        keeper: Keeper<World>,
        files: Arc<Membership>,
        _directory: tempfile::TempDir,
    }

    impl Agent {
        fn new(n: u8) -> Self {
            let mut state = founded();
            join(&mut state, 2);
            let directory = tempfile::tempdir().unwrap();
            let members = Arc::new(LiveMembers::new(&view(&state, n)));
            let clock = Arc::new(Clock(AtomicU64::new(NOW.as_secs())));
            let world = Arc::new(World {
                n,
                state: RwLock::new(state),
                clock: clock.clone(),
            });
            let role = world.role().unwrap();
            let first = world.issued(&key(n), role).unwrap();
            let own = Arc::new(Own::new(key(n), &first.certificate).unwrap());
            let files = Arc::new(Membership::new(directory.path()));
            files.keep_key(&key(n)).unwrap();
            let trust = world
                .state
                .read()
                .unwrap()
                .cluster()
                .unwrap()
                .trust()
                .clone();
            files.keep_trust(&trust).unwrap();
            files
                .keep_view(&view(&world.state.read().unwrap(), n))
                .unwrap();
            let tls = Tls::new(own.clone(), members.clone(), clock);
            let client = Client::new(tls, ClientLimits::default()).unwrap();
            let keeper = Keeper::new(
                key(n),
                own.clone(),
                client,
                world.clone(),
                files.clone(),
                rng(8),
            );
            Self {
                world,
                members,
                own,
                keeper,
                files,
                _directory: directory,
            }
        }

        fn decided(&self, command: Command) {
            let mut state = self.world.state.write().unwrap();
            apply_at(&mut state, self.world.now(), command);
            assert!(self.members.take_log(state.cluster().unwrap()));
        }

        fn shown(&self) -> Identity {
            let state = self.world.state.read().unwrap();
            let trust = state.cluster().unwrap().trust();
            verify(&self.own.certificate(), trust, self.world.now()).unwrap()
        }

        fn pass(&self, time: Duration) {
            self.world.clock.set(self.world.now().saturating_add(time));
        }

        async fn renews(&mut self) {
            let before = self.own.certificate();
            assert_eq!(self.keeper.step().await.unwrap(), Step::Renewed);
            let now = self.own.certificate();
            assert_ne!(now, before);
            let stored = self.files.load().unwrap().unwrap();
            assert_eq!(stored.certificate, now, "the next start shows it too");
            self.idles().await;
        }

        async fn idles(&mut self) {
            let step = self.keeper.step().await.unwrap();
            assert!(matches!(step, Step::Idle(time) if !time.is_zero()));
        }
    }

    #[tokio::test]
    async fn a_manager_renews_its_own_certificate_before_and_after_it_ends() {
        let mut agent = Agent::new(1);
        agent.idles().await;
        agent.pass(70 * 24 * HOUR);
        agent.renews().await;
        agent.pass(100 * 24 * HOUR);
        agent.renews().await;
        assert!(agent.shown().not_after > agent.world.now());
    }

    #[tokio::test]
    async fn a_manager_shows_a_new_root_at_once_and_a_new_role() {
        let mut agent = Agent::new(1);
        let issuer = agent.shown().issuer;
        let cluster = agent.shown().cluster;
        let validity = Validity::default();
        let next = Authority::generate(cluster, &validity, NOW, &mut rng(9)).unwrap();
        let root = next.root().digest();
        agent.decided(Command::IntroduceRoot {
            expected: issuer,
            authority: Box::new(next),
        });
        agent.idles().await;
        agent.decided(Command::PromoteRoot {
            expected: issuer,
            root,
            tokens: tokens(50),
            force: true,
        });
        agent.renews().await;
        assert_eq!(agent.shown().issuer, root);
    }

    #[tokio::test]
    async fn a_promoted_node_becomes_a_manager_with_the_next_step() {
        let mut agent = Agent::new(2);
        agent.idles().await;
        agent.decided(Command::SetRole {
            node: node(2),
            role: Role::Manager,
        });
        agent.renews().await;
        assert_eq!(agent.shown().role, Role::Manager);
    }

    #[tokio::test]
    async fn a_worker_without_managers_keeps_what_it_has_and_says_so() {
        let mut agent = Agent::new(2);
        agent.pass(70 * 24 * HOUR);
        let before = agent.own.certificate();
        let error = agent.keeper.step().await.unwrap_err();
        assert!(matches!(error, RenewalError::NoManager), "{error}");
        assert_eq!(agent.own.certificate(), before);
        // Who was put out does not ask.
        agent.world.change(Command::Leave { node: node(2) });
        let error = agent.keeper.step().await.unwrap_err();
        assert!(matches!(error, RenewalError::NoMember), "{error}");
    }

    #[tokio::test]
    async fn the_task_looks_again_when_the_log_changes() {
        let agent = Agent::new(2);
        let (log, changed) = watch::channel(0);
        let before = agent.own.certificate();
        let Agent {
            world,
            members,
            own,
            keeper,
            _directory,
            ..
        } = agent;
        let task = tokio::spawn(keeper.run(changed));
        sleep(Duration::from_millis(100)).await;
        assert_eq!(own.certificate(), before);
        let role = Role::Manager;
        let promote = Command::SetRole {
            node: node(2),
            role,
        };
        world.change(promote);
        world.shown_to(&members);
        log.send_replace(1);
        let renewed = async {
            while own.certificate() == before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), renewed).await.unwrap();
        task.abort();
    }
}
