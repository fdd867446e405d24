//! Forwarding: what is of no network is asked of the resolvers of this host, from the network namespace
//! of the agent.
//!
//! Each query has a socket of its own, connected to one resolver, so its port is random and only that
//! resolver is heard; its number is random too. Queries under way are bounded, in all and for each
//! question: a resolver that asks a container that asks us goes round that often, and no more.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::op::{Query as Question, ResponseCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use super::{
    answer::{MAX_UDP, Query, Transport},
    lock,
};

/// Bounds of forwarding.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Queries under way.
    pub queries: usize,
    /// Of these, with one question.
    pub of_question: usize,
    /// For one resolver's answer.
    pub answer: Duration,
    /// For all resolvers together. A client asks again after five seconds.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries: 1024,
            of_question: 128,
            answer: Duration::from_millis(1500),
            total: Duration::from_millis(4500),
        }
    }
}

/// Datagrams that are no answer, before a resolver is given up: somebody guesses.
const MAX_WRONG: usize = 16;

#[derive(Debug)]
pub struct Forwarder {
    limits: Limits,
    resolvers: Mutex<Arc<[SocketAddr]>>,
    /// Place of the resolver that answered last.
    first: AtomicUsize,
    places: Semaphore,
    questions: Mutex<HashMap<Question, usize>>,
}

impl Forwarder {
    pub fn new(resolvers: Vec<SocketAddr>, limits: Limits) -> Self {
        Self {
            places: Semaphore::new(limits.queries),
            limits,
            resolvers: Mutex::new(resolvers.into()),
            first: AtomicUsize::new(0),
            questions: Mutex::default(),
        }
    }

    /// Returns whether they are others than before.
    pub fn set_resolvers(&self, resolvers: Vec<SocketAddr>) -> bool {
        let mut current = lock(&self.resolvers);
        let others = **current != *resolvers;
        if others {
            *current = resolvers.into();
            self.first.store(0, Ordering::Relaxed);
        }
        others
    }

    /// The answer of a resolver, or a failure; `None` if not even that can be written.
    pub async fn forward(&self, query: &Query) -> Option<Vec<u8>> {
        let failure = || query.refusal(ResponseCode::ServFail);
        let Ok(_place) = self.places.try_acquire() else {
            tracing::warn!(
                "{} queries are under way: one is refused",
                self.limits.queries
            );
            return failure();
        };
        let Some(_asked) = Asked::enter(&self.questions, query.question(), self.limits.of_question)
        else {
            tracing::warn!(
                question = %query.question(),
                "asked {} times at once: refused, is there a loop of resolvers?",
                self.limits.of_question
            );
            return failure();
        };
        let resolvers = Arc::clone(&lock(&self.resolvers));
        let end = Instant::now() + self.limits.total;
        let first = self.first.load(Ordering::Relaxed);
        let mut refused = None;
        for step in 0..resolvers.len() {
            let place = (first + step) % resolvers.len();
            let by = end.min(Instant::now() + self.limits.answer);
            match timeout_at(by, ask(query, resolvers[place])).await {
                Ok(Ok(answer)) if Query::is_refused(&answer) => refused = Some(answer),
                Ok(Ok(answer)) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Err(error)) => {
                    tracing::debug!(resolver = %resolvers[place], "no answer: {error}");
                }
                Err(_) => tracing::debug!(resolver = %resolvers[place], "no answer in time"),
            }
        }
        refused.or_else(failure)
    }
}

/// A question that is being asked.
struct Asked<'a> {
    questions: &'a Mutex<HashMap<Question, usize>>,
    question: &'a Question,
}

impl<'a> Asked<'a> {
    fn enter(
        questions: &'a Mutex<HashMap<Question, usize>>,
        question: &'a Question,
        most: usize,
    ) -> Option<Self> {
        let mut asked = lock(questions);
        match asked.get_mut(question) {
            Some(times) if *times >= most => return None,
            Some(times) => *times += 1,
            None => {
                asked.insert(question.clone(), 1);
            }
        }
        Some(Self {
            questions,
            question,
        })
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut asked = lock(self.questions);
        match asked.get_mut(self.question) {
            Some(times) if *times > 1 => *times -= 1,
            _ => {
                asked.remove(self.question);
            }
        }
    }
}

/// Over the client's own transport: an answer that is too long for UDP says so, and the client comes
/// again over TCP.
async fn ask(query: &Query, resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let id = rand::random();
    let bytes = query
        .outgoing(id)
        .ok_or_else(|| io::Error::other("the question cannot be written"))?;
    match query.transport() {
        Transport::Udp => ask_udp(query, id, &bytes, resolver).await,
        Transport::Tcp => ask_tcp(query, id, &bytes, resolver).await,
    }
}

async fn ask_udp(
    query: &Query,
    id: u16,
    bytes: &[u8],
    resolver: SocketAddr,
) -> io::Result<Vec<u8>> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    // One more than may come: a datagram that is cut is known.
    let mut buffer = [0; MAX_UDP + 1];
    for _ in 0..MAX_WRONG {
        let len = socket.recv(&mut buffer).await?;
        if let Some(answer) = query.incoming(id, &buffer[..len]) {
            return Ok(answer);
        }
    }
    Err(io::Error::other(format!(
        "{MAX_WRONG} datagrams were no answer"
    )))
}

async fn ask_tcp(
    query: &Query,
    id: u16,
    bytes: &[u8],
    resolver: SocketAddr,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, bytes).await?;
    let mut len = [0; 2];
    stream.read_exact(&mut len).await?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer).await?;
    query
        .incoming(id, &answer)
        .ok_or_else(|| io::Error::other("what came is no answer"))
}

/// A message over TCP has its length before it (RFC 1035 section 4.2.2).
pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len())
        .map_err(|_| io::Error::other("a message has at most 65,535 bytes"))?;
    // In one segment: some implementations read no further than the first.
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(len.to_be_bytes());
    bytes.extend(message);
    timeout(Duration::from_secs(5), stream.write_all(&bytes))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests;
