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
            Some(issued) => issued.map_err(RenewalError::Issue)?,
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
