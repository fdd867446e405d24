//! The sockets in one network namespace, and the answers to what comes to them.
//!
//! What a container sends costs bounded work: queries are taken at a bounded rate, and the rest waits in
//! the socket's buffer until the kernel drops it.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use overlay_ebpf::abi::Vni;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    answer::{MAX_QUERY, Query, Transport, Verdict, decide},
    forward::{Forwarder, write_message},
    lock,
    names::Names,
    pace::Pace,
};

/// Bounds of one container.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Queries a second.
    pub rate: u32,
    /// Queries at once after a silence.
    pub burst: u32,
    /// Queries being forwarded.
    pub forwarded: usize,
    pub connections: usize,
    /// For the next query of a connection.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: 2000,
            burst: 1000,
            forwarded: 64,
            connections: 32,
            idle: Duration::from_secs(10),
        }
    }
}

/// What the resolvers of all containers share.
#[derive(Debug)]
pub struct Shared {
    pub names: Mutex<Arc<Names>>,
    pub forwarder: Forwarder,
    pub limits: Limits,
}

/// The sockets of one container, not served yet.
#[derive(Debug)]
pub struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

/// The resolver of one container; its sockets are closed as it is dropped.
#[derive(Debug)]
pub struct Resolver {
    scope: Arc<Mutex<Arc<[Vni]>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Resolver {
    /// Needs a tokio runtime.
    pub fn start(sockets: Sockets, shared: Arc<Shared>) -> Self {
        let scope = Arc::<Mutex<Arc<[Vni]>>>::default();
        let container = Arc::new(Container {
            pace: tokio::sync::Mutex::new(Pace::new(shared.limits.rate, shared.limits.burst)),
            forwarded: Arc::new(Semaphore::new(shared.limits.forwarded)),
            scope: Arc::clone(&scope),
            shared,
        });
        let udp = tokio::spawn(serve_udp(Arc::new(sockets.udp), Arc::clone(&container)));
        let tcp = tokio::spawn(serve_tcp(sockets.tcp, container));
        Self {
            scope,
            tasks: [udp, tcp],
        }
    }

    /// Closes the sockets.
    pub async fn stop(mut self) {
        for task in &mut self.tasks {
            task.abort();
            // It was aborted: its end is no error.
            let _ = task.await;
        }
    }

    /// The networks that the container is in, the first attached first.
    pub fn set_scope(&self, scope: impl Into<Arc<[Vni]>>) {
        *lock(&self.scope) = scope.into();
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // With the tasks go the sockets, which hold the network namespace.
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Container {
    shared: Arc<Shared>,
    scope: Arc<Mutex<Arc<[Vni]>>>,
    pace: tokio::sync::Mutex<Pace>,
    forwarded: Arc<Semaphore>,
}

/// What is to be done for a query.
enum Todo {
    Nothing,
    Answer(Vec<u8>),
    Forward(Query, OwnedSemaphorePermit),
}

impl Container {
    /// Waits until another query may be taken.
    async fn pace(&self) {
        let mut pace = self.pace.lock().await;
        sleep_until(pace.take(Instant::now())).await;
    }

    fn decide(&self, bytes: &[u8], transport: Transport) -> Todo {
        let names = Arc::clone(&lock(&self.shared.names));
        let scope = Arc::clone(&lock(&self.scope));
        match decide(bytes, transport, &names, &scope, rand::random()) {
            Verdict::Drop => Todo::Nothing,
            Verdict::Answer(answer) => Todo::Answer(answer),
            Verdict::Forward(query) => match Arc::clone(&self.forwarded).try_acquire_owned() {
                Ok(place) => Todo::Forward(query, place),
                Err(_) => query
                    .refusal(ResponseCode::ServFail)
                    .map_or(Todo::Nothing, Todo::Answer),
            },
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, container: Arc<Container>) {
    let mut forwards = JoinSet::new();
    // One more than may come: a datagram that is cut is known, and dropped.
    let mut buffer = [0; MAX_QUERY + 1];
    loop {
        container.pace().await;
        while forwards.try_join_next().is_some() {}
        let (len, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                pause("receive a query", &error).await;
                continue;
            }
        };
        match container.decide(&buffer[..len], Transport::Udp) {
            Todo::Nothing => {}
            Todo::Answer(answer) => reply(&socket, &answer, client),
            Todo::Forward(query, place) => {
                let (socket, container) = (Arc::clone(&socket), Arc::clone(&container));
                forwards.spawn(async move {
                    if let Some(answer) = container.shared.forwarder.forward(&query).await {
                        reply(&socket, &answer, client);
                    }
                    drop(place);
                });
            }
        }
    }
}

fn reply(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    // A client that is gone, or takes nothing, has no answer: it asks again.
    if let Err(error) = socket.try_send_to(answer, client) {
        tracing::debug!(%client, "cannot answer: {error}");
    }
}

async fn serve_tcp(listener: TcpListener, container: Arc<Container>) {
    let mut connections = JoinSet::new();
    loop {
        // With all places taken the next waits in the listener's queue.
        while connections.len() >= container.shared.limits.connections {
            connections.join_next().await;
        }
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, Arc::clone(&container)));
            }
            Err(error) => pause("accept a connection", &error).await,
        }
    }
}

async fn serve_connection(mut stream: TcpStream, container: Arc<Container>) {
    let idle = container.shared.limits.idle;
    let mut buffer = [0; MAX_QUERY];
    while let Ok(Ok(len)) = timeout(idle, read_message(&mut stream, &mut buffer)).await {
        container.pace().await;
        let answer = match container.decide(&buffer[..len], Transport::Tcp) {
            Todo::Nothing => return,
            Todo::Answer(answer) => answer,
            Todo::Forward(query, place) => {
                let answer = container.shared.forwarder.forward(&query).await;
                drop(place);
                match answer {
                    Some(answer) => answer,
                    None => return,
                }
            }
        };
        if write_message(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

async fn read_message(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    let message = buffer
        .get_mut(..len)
        .ok_or_else(|| io::Error::other("the query is too long"))?;
    stream.read_exact(message).await?;
    Ok(len)
}

/// What fails once may fail at once again: without file descriptors, for example.
async fn pause(attempt: &str, error: &io::Error) {
    tracing::debug!("cannot {attempt}: {error}");
    sleep(Duration::from_millis(50)).await;
}
