//! What a node says to its peers over their own connections: acknowledgements and anti-entropy.
//!
//! Calls wait in a short queue per peer; a few workers take one peer after the other, so that a
//! thousand peers cost no thousand connections at a time. A peer that cannot be reached is left
//! alone for a while: what is lost comes again.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use overlay_cluster::{id::NodeId, rotation::Acknowledgement};
use tokio::sync::Notify;

use super::clock::Backoff;
use crate::daemon::control::client::Connection;

/// Calls that wait for one peer. More push out the oldest.
const WAITING: usize = 8;
/// Connections that are kept for the next call, and for how long: others have as few to spare.
const KEPT: usize = 64;
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Between attempts with a peer that cannot be reached.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

/// One thing to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Acknowledge(Acknowledgement),
    Sync,
}

/// The calls of one peer, for a worker.
pub struct Turn {
    pub peer: NodeId,
    pub address: SocketAddr,
    pub calls: VecDeque<Call>,
    /// One that was used a moment ago.
    pub connection: Option<Connection>,
}

#[derive(Default)]
pub struct Calls {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, Peer>,
    /// Peers with calls, whose turn has not come.
    ready: VecDeque<NodeId>,
    kept: BTreeMap<NodeId, (Connection, Instant)>,
}

struct Peer {
    address: SocketAddr,
    calls: VecDeque<Call>,
    /// A worker has it.
    busy: bool,
    pause: Backoff,
    not_before: Option<Instant>,
}

impl Calls {
    /// Says it when its turn comes. Tells which calls will not be made: others push them out, or the
    /// peer is being left alone.
    pub fn push(&self, peer: NodeId, address: SocketAddr, call: Call) -> Option<Call> {
        let mut state = self.state();
        let known = state.peers.entry(peer).or_insert_with(|| Peer {
            address,
            calls: VecDeque::new(),
            busy: false,
            pause: PAUSE,
            not_before: None,
        });
        known.address = address;
        if known.not_before.is_some_and(|until| Instant::now() < until) {
            return Some(call);
        }
        if known.calls.contains(&call) {
            return None;
        }
        known.calls.push_back(call);
        let dropped = (known.calls.len() > WAITING)
            .then(|| known.calls.pop_front())
            .flatten();
        if !known.busy && known.calls.len() == 1 {
            state.ready.push_back(peer);
            self.ready.notify_one();
        }
        dropped
    }

    /// The next peer with calls.
    pub async fn next(&self) -> Turn {
        loop {
            if let Some(turn) = self.take() {
                return turn;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Option<Turn> {
        let mut state = self.state();
        state
            .kept
            .retain(|_, (_, since)| since.elapsed() < KEPT_FOR);
        let peer = state.ready.pop_front()?;
        // One permit is kept of many notifications.
        if !state.ready.is_empty() {
            self.ready.notify_one();
        }
        let connection = state.kept.remove(&peer).map(|(connection, _)| connection);
        let known = state.peers.get_mut(&peer)?;
        known.busy = true;
        Some(Turn {
            peer,
            address: known.address,
            calls: std::mem::take(&mut known.calls),
            connection,
        })
    }

    /// The turn is over: all was said, or the peer cannot be reached. Gives back what came
    /// meanwhile and will not be said.
    pub fn done(&self, peer: NodeId, connection: Option<Connection>, reached: bool) -> Vec<Call> {
        let mut state = self.state();
        if let Some(connection) = connection.filter(Connection::is_usable)
            && state.kept.len() < KEPT
        {
            state.kept.insert(peer, (connection, Instant::now()));
        }
        let Some(known) = state.peers.get_mut(&peer) else {
            return Vec::new();
        };
        known.busy = false;
        if reached {
            known.pause.succeeded();
            known.not_before = None;
        } else {
            let pause = known.pause.failed();
            known.not_before = Some(Instant::now() + pause);
            return known.calls.drain(..).collect();
        }
        if !known.calls.is_empty() {
            state.ready.push_back(peer);
            self.ready.notify_one();
        }
        Vec::new()
    }

    /// Forgets who takes part no longer, and closes connections that nobody has used for a while.
    pub fn tidy(&self, is_member: impl Fn(&NodeId) -> bool) {
        let mut state = self.state();
        state
            .kept
            .retain(|peer, (_, since)| is_member(peer) && since.elapsed() < KEPT_FOR);
        state
            .peers
            .retain(|peer, known| is_member(peer) || known.busy || !known.calls.is_empty());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn address(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 7946).into()
    }

    #[test]
    fn each_peer_has_its_turn_once_and_comes_again_with_what_came_meanwhile() {
        let calls = Calls::default();
        for number in [1, 2, 1] {
            assert_eq!(calls.push(peer(number), address(number), Call::Sync), None);
        }
        let first = calls.take().unwrap();
        assert_eq!((first.peer, first.calls.len()), (peer(1), 1), "asked once");
        assert_eq!(calls.take().unwrap().peer, peer(2));
        assert_eq!(calls.push(peer(1), address(1), Call::Sync), None);
        assert!(calls.take().is_none(), "a worker has it");
        assert_eq!(calls.done(peer(1), None, true), []);
        assert_eq!(calls.take().unwrap().peer, peer(1));
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_left_alone_for_a_while() {
        let calls = Calls::default();
        calls.push(peer(1), address(1), Call::Sync);
        calls.take().unwrap();
        calls.push(peer(1), address(1), Call::Sync);
        assert_eq!(calls.done(peer(1), None, false), [Call::Sync]);
        assert_eq!(
            calls.push(peer(1), address(1), Call::Sync),
            Some(Call::Sync)
        );
        assert!(calls.take().is_none());
        std::thread::sleep(Duration::from_millis(260));
        assert_eq!(calls.push(peer(1), address(1), Call::Sync), None);
        assert!(calls.take().is_some());
    }

    #[test]
    fn who_is_no_member_is_forgotten() {
        let calls = Calls::default();
        calls.push(peer(1), address(1), Call::Sync);
        calls.take().unwrap();
        calls.done(peer(1), None, true);
        calls.tidy(|_| false);
        assert!(calls.state().peers.is_empty());
    }
}
