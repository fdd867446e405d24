//! The tasks of a running node. Each ends when the node stops; none waits without an end.

use std::{sync::Arc, time::Duration};

use overlay_cluster::{
    control::secrets::MAX_EPOCHS,
    id::NodeId,
    log::{command::Command, names::SoftwareVersion},
};
use rand::RngExt as _;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    calls::{Call, Turn},
    clock::Backoff,
    shared::{KEEP_VIEW, Shared, end_unsynced},
    upstream::UpstreamError,
};
use crate::daemon::control::client::{ClientError, Connection};

/// Peers that are asked at the start.
const ASKED: usize = 3;
/// Peers that are spoken with at a time.
const WORKERS: usize = 16;
/// Datagrams that are taken before anything else is done.
const BURST: usize = 64;
/// Between two looks at what is due.
const TURN: Duration = Duration::from_millis(1);
/// More than any datagram of gossip has.
const DATAGRAM: usize = 2048;
/// Messages of one anti-entropy exchange.
const EXCHANGE: usize = 64;
/// For one exchange.
const EXCHANGE_TIME: Duration = Duration::from_secs(60);
/// Between two pulls for what gossip hints at: hints are nobody's word.
const HINTS: Duration = Duration::from_millis(500);
/// Between two looks at connections that nobody uses.
const TIDY: Duration = Duration::from_secs(5);

/// Between attempts with managers.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// And after this node was put out: it may be let in again under its key after it left.
const PUT_OUT: Duration = Duration::from_secs(60);

pub fn start(shared: &Arc<Shared>) -> JoinSet<()> {
    ask_around(shared);
    let mut tasks = JoinSet::new();
    tasks.spawn(gossip(shared.clone()));
    tasks.spawn(follow_view(shared.clone()));
    tasks.spawn(follow_hints(shared.clone()));
    tasks.spawn(pull_secrets(shared.clone()));
    tasks.spawn(report(shared.clone()));
    tasks.spawn(tell_release(shared.clone()));
    tasks.spawn(keep(shared.clone()));
    tasks.spawn(tidy(shared.clone()));
    for _ in 0..WORKERS {
        tasks.spawn(speak(shared.clone()));
    }
    tasks
}

/// Hears from a few peers what has happened since the last start: over their own connections, for
/// which no epoch's secret is needed.
fn ask_around(shared: &Shared) {
    let view = shared.view.borrow().clone();
    let others = view.peers.iter().filter(|(id, _)| **id != view.node);
    let mut others: Vec<_> = others
        .map(|(id, peer)| (*id, peer.contact.control))
        .collect();
    if others.is_empty() {
        return;
    }
    let first = rand::rng().random_range(0..others.len());
    others.rotate_left(first);
    for (peer, address) in others.into_iter().take(ASKED) {
        // The first calls: nothing is pushed out.
        let _dropped = shared.calls.push(peer, address, Call::Sync);
    }
}

/// Runs `work` until the node stops; what it was in the middle of is dropped.
async fn until_stopped(shared: &Arc<Shared>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = shared.stopped() => {}
        () = work => {}
    }
}

/// Datagrams and timers.
async fn gossip(shared: Arc<Shared>) {
    let mut bytes = [0; DATAGRAM];
    let work = async {
        while !shared.is_stopped() {
            end_unsynced(&shared);
            // Whatever is overdue, others have their turn.
            let deadline = shared.deadline().max(tokio::time::Instant::now() + TURN);
            tokio::select! {
                // A flood of datagrams does not delay the timers.
                biased;
                () = tokio::time::sleep_until(deadline) => {
                    shared.with(|member, now, rng| member.advance(now, rng));
                }
                () = shared.changed.notified() => {}
                () = send(&shared) => {}
                received = shared.socket.recv_from(&mut bytes) => {
                    let Ok((len, from)) = received else {
                        // Of an earlier datagram that met nobody.
                        continue;
                    };
                    let mut next = Some((len, from));
                    shared.with(|member, now, rng| {
                        for _ in 0..BURST {
                            let Some((len, from)) = next.take() else { break };
                            let from = std::net::SocketAddr::new(from.ip().to_canonical(), from.port());
                            member.datagram(from, &bytes[..len], now, rng);
                            next = shared.socket.try_recv_from(&mut bytes).ok();
                        }
                    });
                }
            }
        }
    };
    until_stopped(&shared, work).await;
    // What says that this node stops.
    let _late = timeout(Duration::from_secs(1), send(&shared)).await;
}

/// Sends what the socket did not take at once; returns when some of it went.
async fn send(shared: &Shared) {
    loop {
        let Some((to, bytes)) = shared.state().outbox.front().cloned() else {
            if shared.is_stopped() {
                return;
            }
            shared.send_wanted.notified().await;
            continue;
        };
        if shared.socket.writable().await.is_err() {
            return;
        }
        let sent = shared.socket.try_send_to(&bytes, to);
        if !matches!(&sent, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
            shared.state().outbox.pop_front();
        }
    }
}

/// Hears of each change of the view at once.
async fn follow_view(shared: Arc<Shared>) {
    let work = async {
        let mut retry = RETRY;
        loop {
            let have = shared.view.borrow().version;
            let update = shared.upstream.watch_view(have).await;
            match shared.updated(update).await {
                Ok(()) => {
                    retry.succeeded();
                    shared.problem("managers", None);
                }
                Err(UpstreamError::PutOut(_)) => sleep(PUT_OUT).await,
                Err(error) => {
                    // One refusal is not yet a problem: managers start anew, and others answer.
                    if retry.failures() > 2 {
                        shared.problem("managers", Some(error.to_string()));
                    }
                    tracing::debug!(%error, "no news of the view");
                    sleep(retry.failed()).await;
                }
            }
        }
    };
    until_stopped(&shared, work).await;
}

/// Pulls when gossip hints that there is something new.
async fn follow_hints(shared: Arc<Shared>) {
    let work = async {
        loop {
            shared.pull_wanted.notified().await;
            if let Err(error) = shared.pull().await {
                tracing::debug!(%error, "the view is not pulled");
            }
            sleep(HINTS).await;
        }
    };
    until_stopped(&shared, work).await;
}

/// Pulls secrets until they are given, or of no use any more.
async fn pull_secrets(shared: Arc<Shared>) {
    let work = async {
        let mut retry = RETRY;
        loop {
            let wanted: Vec<_> = {
                let kept = shared.view.borrow().epochs.kept.clone();
                let mut state = shared.state();
                // The view may not have heard of the newest; the rotation asks again for it.
                let newest = kept.iter().max().copied();
                state.secrets.retain(|name| {
                    kept.contains(name) || newest.is_none_or(|newest| *name > newest)
                });
                state
                    .secrets
                    .iter()
                    .rev()
                    .take(MAX_EPOCHS)
                    .copied()
                    .collect()
            };
            if wanted.is_empty() {
                retry.succeeded();
                shared.problem("secrets", None);
                shared.secrets_wanted.notified().await;
                continue;
            }
            match shared.upstream.pull_secrets(wanted.clone()).await {
                Ok(given) => {
                    for (name, secrets) in given {
                        shared.state().secrets.remove(&name);
                        let taken =
                            shared.with(|member, now, rng| member.secrets(name, secrets, now, rng));
                        if let Err(error) = taken {
                            tracing::warn!(%name, %error, "secrets are not taken");
                        }
                    }
                    let left = wanted
                        .iter()
                        .any(|name| shared.state().secrets.contains(name));
                    if !left {
                        retry.succeeded();
                        continue;
                    }
                }
                Err(UpstreamError::PutOut(reason)) => {
                    shared.put_out(reason);
                    sleep(PUT_OUT).await;
                    continue;
                }
                Err(error) => {
                    if retry.failures() > 2 {
                        shared.problem("secrets", Some(error.to_string()));
                    }
                    tracing::debug!(%error, "no secrets yet");
                }
            }
            sleep(retry.failed()).await;
        }
    };
    until_stopped(&shared, work).await;
}

/// Tells a manager the newest digest.
async fn report(shared: Arc<Shared>) {
    let work = async {
        let mut retry = RETRY;
        loop {
            let Some(digest) = shared.state().report.clone() else {
                shared.report_wanted.notified().await;
                continue;
            };
            match shared.upstream.report(digest.clone()).await {
                Ok(()) => {
                    retry.succeeded();
                    let mut state = shared.state();
                    if state.report.as_ref() == Some(&digest) {
                        state.report = None;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the digest is not told");
                    sleep(retry.failed()).await;
                }
            }
        }
    };
    until_stopped(&shared, work).await;
}

/// Lets the log say which release this node runs: another one than before, after an update.
async fn tell_release(shared: Arc<Shared>) {
    let work = async {
        let mut views = shared.view.subscribe();
        let mut retry = RETRY;
        loop {
            let own = {
                let view = views.borrow_and_update();
                let own = view.peers.get(&view.node);
                own.map(|peer| (view.node, peer.contact.clone()))
            };
            if let Some((node, mut contact)) = own
                && let Ok(software) = SoftwareVersion::new(env!("CARGO_PKG_VERSION"))
                && contact.software != software
            {
                contact.software = software;
                if let Err(error) = shared
                    .upstream
                    .propose(Command::Renew { node, contact })
                    .await
                {
                    tracing::debug!(%error, "the release of this node is not told");
                    sleep(retry.failed()).await;
                    continue;
                }
                retry.succeeded();
            }
            if views.changed().await.is_err() {
                return;
            }
        }
    };
    until_stopped(&shared, work).await;
}

/// Keeps on disk what changes.
async fn keep(shared: Arc<Shared>) {
    let work = async {
        let mut views = shared.view.subscribe();
        loop {
            tokio::select! {
                changed = views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(KEEP_VIEW).await;
                }
                () = shared.generation_wanted.notified() => {}
            }
            views.mark_unchanged();
            shared.keep_now().await;
        }
    };
    until_stopped(&shared, work).await;
}

async fn tidy(shared: Arc<Shared>) {
    let work = async {
        loop {
            sleep(TIDY).await;
            let view = shared.view.borrow().clone();
            shared.calls.tidy(|node| view.peers.contains_key(node));
        }
    };
    until_stopped(&shared, work).await;
}

/// Speaks with one peer after the other.
async fn speak(shared: Arc<Shared>) {
    let work = async {
        loop {
            let turn = shared.calls.next().await;
            let peer = turn.peer;
            let (connection, reached) = converse(&shared, turn).await;
            for call in shared.calls.done(peer, connection, reached) {
                if call == Call::Sync {
                    end_sync(&shared, peer);
                }
            }
        }
    };
    until_stopped(&shared, work).await;
}

/// Makes the calls of one peer. Gives the connection back, and whether the peer answered.
async fn converse(shared: &Arc<Shared>, turn: Turn) -> (Option<Connection>, bool) {
    let Turn {
        peer,
        address,
        calls,
        mut connection,
    } = turn;
    let mut reached = true;
    for call in calls {
        if !reached {
            if call == Call::Sync {
                end_sync(shared, peer);
            }
            continue;
        }
        let mut result = Err(None);
        // The peer may have closed a connection that was kept.
        if let Some(kept) = connection.take().filter(Connection::is_usable) {
            let mut kept = kept;
            result = say(shared, &mut kept, peer, &call).await.map_err(Some);
            if kept.is_usable() {
                connection = Some(kept);
            }
        }
        if matches!(
            &result,
            Err(None | Some(ClientError::Closed { .. } | ClientError::Frame { .. }))
        ) {
            result = match shared.upstream.client().connect(address, peer).await {
                Ok(mut fresh) => {
                    let said = say(shared, &mut fresh, peer, &call).await;
                    connection = Some(fresh);
                    said.map_err(Some)
                }
                Err(error) => Err(Some(error)),
            };
        }
        if let Err(error) = result {
            if call == Call::Sync {
                end_sync(shared, peer);
            }
            // A peer that refuses one thing is there all the same.
            reached = matches!(&error, Some(ClientError::Refused(_)));
            if let Some(error) = error {
                tracing::debug!(%peer, %error, "a peer was not spoken with");
            }
        }
    }
    (connection, reached)
}

fn end_sync(shared: &Shared, peer: NodeId) {
    shared.with(|member, now, rng| member.end_sync(peer, None, now, rng));
}

async fn say(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    peer: NodeId,
    call: &Call,
) -> Result<(), ClientError> {
    match call {
        Call::Acknowledge(message) => connection.acknowledge(message.clone()).await,
        Call::Sync => match timeout(EXCHANGE_TIME, exchange(shared, connection, peer)).await {
            Ok(exchanged) => exchanged,
            Err(_) => {
                end_sync(shared, peer);
                Ok(())
            }
        },
    }
}

/// One exchange of anti-entropy. An error is of the connection, and the exchange is not ended.
async fn exchange(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    peer: NodeId,
) -> Result<(), ClientError> {
    let (mut sync, mut message) = shared.with(|member, _, _| member.start_sync(peer));
    for _ in 0..EXCHANGE {
        let answer = connection.sync(message).await?;
        let next =
            shared.with(|member, now, rng| member.continue_sync(&mut sync, &answer, now, rng));
        match next {
            Ok(Some(next)) => message = next,
            Ok(None) => {
                shared.with(|member, now, rng| member.end_sync(peer, Some(sync), now, rng));
                return Ok(());
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "anti-entropy ended");
                end_sync(shared, peer);
                return Ok(());
            }
        }
    }
    end_sync(shared, peer);
    Ok(())
}
