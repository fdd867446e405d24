//! The server: from a connection to the answers to its requests.
//!
//! Until the peer is known to be a member it has a place among strangers; a member has one of its
//! own. Every wait has an end: for the handshake as a whole, for each request as a whole, for the
//! answer, for the peer to take it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use overlay_cluster::{
    control::{
        handler::Caller,
        join::{JoinRequest, JoinResponse},
        member::{MemberRequest, MemberResponse},
        message::Message,
        raft::{RaftRequest, RaftResponse},
        renew::{RenewRequest, RenewResponse},
    },
    id::NodeId,
};
use rustls::{ServerConfig, pki_types::CertificateDer, server::Acceptor};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    frame::{self, FrameError},
    limits::ServerLimits,
    places::{NoPlace, Place, Places},
};
use crate::daemon::tls::{self, NotServed, PeerError, Service, Tls};

/// Who answers the requests. A request that is not answered within [`ServerLimits::answer`] is
/// dropped where it waits.
pub trait Host: Send + Sync + 'static {
    fn join(&self, from: SocketAddr, request: JoinRequest) -> BoxFuture<'_, JoinResponse>;
    fn renew(&self, caller: Caller, request: RenewRequest) -> BoxFuture<'_, RenewResponse>;
    fn member(&self, caller: Caller, request: MemberRequest) -> BoxFuture<'_, MemberResponse>;
    /// The caller is a manager.
    fn raft(&self, caller: Caller, request: RaftRequest) -> BoxFuture<'_, RaftResponse>;
}

/// Why a connection was ended by this side, or broke.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The handshake failed: who the peer is or says it is, is in the source.
    #[error("the handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The handshake took too long.
    #[error("the handshake was not over after {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    NotServed(#[from] NotServed),
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// The peer is let in no longer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The answer was not found in time.
    #[error("no answer was found within {0:?}")]
    NoAnswer(Duration),
    /// Certificates have times.
    #[error("the clock of this host cannot be read")]
    NoClock,
}

/// The server's side of all services, at one address.
pub struct Server {
    tls: Tls,
    member: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    renew: Arc<ServerConfig>,
    raft: Arc<ServerConfig>,
    host: Arc<dyn Host>,
    limits: ServerLimits,
    strangers: Arc<Places<IpAddr>>,
    members: Arc<Places<NodeId>>,
    managers: Arc<Places<NodeId>>,
    /// Anybody can claim to be of another release: of that the log says little.
    warned: Mutex<Option<Instant>>,
}

/// Between two warnings of peers of other releases.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl Server {
    pub fn new(
        tls: Tls,
        host: Arc<dyn Host>,
        limits: ServerLimits,
    ) -> Result<Arc<Self>, rustls::Error> {
        let config = |service| tls.server(service).map(Arc::new);
        Ok(Arc::new(Self {
            member: config(Service::Member)?,
            join: config(Service::Join)?,
            renew: config(Service::Renew)?,
            raft: config(Service::Raft)?,
            strangers: Places::new(limits.strangers, limits.strangers_per_source),
            members: Places::new(limits.members, limits.per_member),
            managers: Places::new(limits.managers, limits.per_manager),
            warned: Mutex::new(None),
            tls,
            host,
            limits,
        }))
    }

    /// Serves until `stop` is true or its sender gone; then no connection is accepted any more,
    /// silent ones are closed, and requests under way are answered within [`ServerLimits::grace`].
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let mut stopped = pin!(stopped(stop.clone()));
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => self.clone().accept(&mut connections, stream, from, &stop),
                    Err(error) => {
                        // Of this connection, or no more files: those that end give some back.
                        tracing::warn!(%error, "a control connection cannot be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
        drop(listener);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.grace, all_ended).await.is_err() {
            tracing::warn!("control connections are cut with requests under way");
        }
        connections.shutdown().await;
    }

    fn accept(
        self: Arc<Self>,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        from: SocketAddr,
        stop: &watch::Receiver<bool>,
    ) {
        match self.strangers.take(from.ip().to_canonical()) {
            Ok(place) => {
                let stop = stop.clone();
                connections.spawn(async move {
                    match self.talk(stream, from, place, stop).await {
                        Ok(()) => {}
                        Err(ended @ Ended::NotServed(NotServed::OtherRelease { .. }))
                            if self.may_warn() =>
                        {
                            tracing::warn!(%from, error = %ended, "an agent is of another release");
                        }
                        Err(ended) => {
                            tracing::debug!(%from, error = %ended, "a control connection was ended");
                        }
                    }
                });
            }
            Err(error) => tracing::debug!(%from, %error, "a control connection is refused"),
        }
    }

    async fn talk(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        stranger: Place<IpAddr>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        // Messages are small and waited for. Without it they are late, and nothing else.
        let _ = stream.set_nodelay(true);
        let stalled = self.limits.handshake;
        let (service, mut stream) = tokio::select! {
            biased;
            () = stopped(stop.clone()) => return Ok(()),
            shaken = timeout(stalled, self.shake_hands(stream)) => {
                shaken.map_err(|_| Ended::Stalled(stalled))??
            }
        };
        let certificates = stream.get_ref().1.peer_certificates().map(|shown| {
            shown
                .iter()
                .map(|der| der.clone().into_owned())
                .collect::<Vec<_>>()
        });
        match service {
            Service::Join => self.answer_join(&mut stream, from).await?,
            Service::Renew => {
                let caller = self.caller(certificates.as_deref(), service)?;
                self.answer_renewal(&mut stream, caller).await?;
            }
            Service::Member => {
                let caller = self.caller(certificates.as_deref(), service)?;
                let _place = self.members.take(caller.node)?;
                drop(stranger);
                let answer = |caller, request| self.host.member(caller, request);
                let waits = |request: &_| matches!(request, MemberRequest::WatchView { .. });
                let shown = certificates.as_deref();
                self.answer_all(&mut stream, shown, service, answer, waits, stop)
                    .await?;
            }
            Service::Raft => {
                let caller = self.caller(certificates.as_deref(), service)?;
                let _place = self.managers.take(caller.node)?;
                drop(stranger);
                let answer = |caller, request| self.host.raft(caller, request);
                let shown = certificates.as_deref();
                self.answer_all(&mut stream, shown, service, answer, |_| false, stop)
                    .await?;
            }
        }
        // The goodbye: the peer may be gone already.
        let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
        Ok(())
    }

    fn may_warn(&self) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let may = warned.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if may {
            *warned = Some(Instant::now());
        }
        may
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
    ) -> Result<(Service, TlsStream<TcpStream>), Ended> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(Ended::Handshake)?;
        let service = match Service::asked_for(&start.client_hello()) {
            Ok(service) => service,
            Err(not_served) => {
                // Any service refuses what it does not speak, and tells the client.
                let _alerted = start.into_stream(self.member.clone()).await;
                return Err(not_served.into());
            }
        };
        let config = match service {
            Service::Member => &self.member,
            Service::Join => &self.join,
            Service::Renew => &self.renew,
            Service::Raft => &self.raft,
        };
        let stream = start
            .into_stream(config.clone())
            .await
            .map_err(Ended::Handshake)?;
        Ok((service, stream))
    }

    /// Who is at the other end, if it is still let in.
    fn caller(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
        service: Service,
    ) -> Result<Caller, Ended> {
        let now = self.tls.now().ok_or(Ended::NoClock)?;
        let peer = tls::peer(certificates, service, &**self.tls.members(), now)?;
        Ok(Caller::from(&peer.identity))
    }

    async fn answer_join(
        &self,
        stream: &mut TlsStream<TcpStream>,
        from: SocketAddr,
    ) -> Result<(), Ended> {
        let pace = self.limits.pace;
        // Who is let in by a token alone has no time to think.
        if let Some(request) = frame::receive(stream, pace.base, pace).await? {
            let response = self.wait(self.host.join(from, request)).await?;
            frame::send(stream, &response, pace).await?;
        }
        Ok(())
    }

    async fn answer_renewal(
        &self,
        stream: &mut TlsStream<TcpStream>,
        caller: Caller,
    ) -> Result<(), Ended> {
        let pace = self.limits.pace;
        if let Some(request) = frame::receive(stream, pace.base, pace).await? {
            let response = self.wait(self.host.renew(caller, request)).await?;
            frame::send(stream, &response, pace).await?;
        }
        Ok(())
    }

    /// One request after the other, as long as the peer is let in.
    async fn answer_all<'a, Q: Message, A: Message>(
        &'a self,
        stream: &mut TlsStream<TcpStream>,
        certificates: Option<&[CertificateDer<'_>]>,
        service: Service,
        answer: impl Fn(Caller, Q) -> BoxFuture<'a, A>,
        waits: impl Fn(&Q) -> bool,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let ServerLimits { idle, pace, .. } = self.limits;
        let mut stopped = pin!(stopped(stop));
        let mut recheck = interval(self.limits.recheck);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = {
                let mut request = pin!(frame::receive(stream, idle, pace));
                loop {
                    tokio::select! {
                        biased;
                        () = &mut stopped => return Ok(()),
                        request = &mut request => break request?,
                        _ = recheck.tick() => {
                            self.caller(certificates, service)?;
                        }
                    }
                }
            };
            let Some(request) = request else {
                return Ok(());
            };
            let caller = self.caller(certificates, service)?;
            // Who waits for news is not waited for.
            let waits = waits(&request);
            let response = tokio::select! {
                biased;
                () = &mut stopped, if waits => return Ok(()),
                response = self.wait(answer(caller, request)) => response?,
            };
            frame::send(stream, &response, pace).await?;
        }
    }

    async fn wait<T>(&self, answer: BoxFuture<'_, T>) -> Result<T, Ended> {
        let time = self.limits.answer;
        timeout(time, answer)
            .await
            .map_err(|_| Ended::NoAnswer(time))
    }
}

/// Returns when the server shall stop.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error is that nobody is left who could say so.
    let _ = stop.wait_for(|stop| *stop).await;
}
