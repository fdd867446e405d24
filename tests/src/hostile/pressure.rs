//! Containers that keep sending the marker, whatever becomes of their network.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Family, Lab, Netns, eventually};

/// Plaintext that only containers of the encrypted network send. Repeated without a gap, so that every
/// packet holds it whole.
pub const MARKER: &[u8] = b"<<cleartext of the encrypted network>>";

const UDP_PORT: u16 = 4242;
const TCP_PORT: u16 = 4243;
/// Datagrams are this far apart: enough to see, and few enough for an emulated machine to capture all.
const PACE: Duration = Duration::from_millis(40);
const TICK: Duration = Duration::from_millis(50);
const DATAGRAM: usize = 700;
/// Several segments: the containers send GSO packets.
const CHUNK: usize = 16 << 10;

/// Traffic both ways between two containers: UDP of both families, and TCP. Ends when dropped.
#[derive(Debug)]
pub struct Pressure {
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    flows: Vec<Flow>,
    /// Bytes that arrived by TCP.
    tcp: Arc<AtomicU64>,
}

/// Datagrams from one container to an address of the other; their first byte is its place.
#[derive(Debug)]
struct Flow {
    name: String,
    arrived: Arc<AtomicU64>,
}

impl Pressure {
    /// Starts it. The network need not be there yet.
    pub fn start(lab: &Lab, one: &str, other: &str, network: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let paused = Arc::new(AtomicBool::new(false));
        let mut flows = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            let mut counters = Vec::new();
            for family in Family::BOTH {
                let ip = lab.ip_of(to, network, family)?;
                let number = u8::try_from(flows.len())?;
                let arrived = Arc::new(AtomicU64::new(0));
                counters.push((number, Arc::clone(&arrived)));
                flows.push(Flow {
                    name: format!("{from} → {to} {family:?}"),
                    arrived,
                });
                let (stopped, paused) = (Arc::clone(&stop), Arc::clone(&paused));
                lab.netns(from)?
                    .spawn(move || send(ip, number, &stopped, &paused))?;
            }
            receive(lab.netns(to)?, counters, &stop)?;
        }
        let tcp = Arc::new(AtomicU64::new(0));
        let (server, client) = (Arc::clone(&stop), Arc::clone(&stop));
        let received = Arc::clone(&tcp);
        lab.netns(other)?.spawn(move || serve(&received, &server))?;
        let ip = lab.ip_of(other, network, Family::V4)?;
        let pausing = Arc::clone(&paused);
        lab.netns(one)?.spawn(move || pump(ip, &client, &pausing))?;
        Ok(Self {
            stop,
            paused,
            flows,
            tcp,
        })
    }

    /// Does something in a pause: a capture ends when the wire is quiet.
    pub fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        self.paused.store(true, Ordering::Relaxed);
        thread::sleep(4 * PACE);
        let result = work();
        self.paused.store(false, Ordering::Relaxed);
        result
    }

    /// Waits until every flow gets through.
    pub fn arrives(&self, limit: Duration) -> Result<()> {
        let counts = || -> Vec<u64> {
            let load = |flow: &Flow| flow.arrived.load(Ordering::Relaxed);
            self.flows.iter().map(load).collect()
        };
        let before = counts();
        eventually(limit, || {
            for ((flow, before), now) in self.flows.iter().zip(&before).zip(counts()) {
                ensure!(now > before + 3, "nothing arrives: {}", flow.name);
            }
            Ok(())
        })
    }

    /// Waits until TCP gets through, with the packets that only GSO makes.
    pub fn tcp_arrives(&self, limit: Duration) -> Result<()> {
        let before = self.tcp.load(Ordering::Relaxed);
        eventually(limit, || {
            let now = self.tcp.load(Ordering::Relaxed);
            ensure!(now > before + CHUNK as u64, "no TCP arrives");
            Ok(())
        })
    }

    /// Datagrams that arrived so far at the first container's peer.
    pub fn arrived(&self) -> u64 {
        let load = |flow: &Flow| flow.arrived.load(Ordering::Relaxed);
        self.flows.iter().map(load).sum()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn markers(length: usize) -> Vec<u8> {
    MARKER.iter().copied().cycle().take(length).collect()
}

fn send(ip: IpAddr, number: u8, stop: &AtomicBool, paused: &AtomicBool) {
    let Ok(socket) = UdpSocket::bind((Family::of(ip).unspecified(), 0)) else {
        return;
    };
    let mut datagram = markers(DATAGRAM);
    datagram[0] = number;
    while !stop.load(Ordering::Relaxed) {
        if !paused.load(Ordering::Relaxed) {
            // Without an interface or a route it fails; they come back.
            let _lost = socket.send_to(&datagram, (ip, UDP_PORT));
        }
        thread::sleep(PACE);
    }
}

fn receive(
    netns: &Netns,
    counters: Vec<(u8, Arc<AtomicU64>)>,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    // IPv4 arrives there, too.
    let socket = netns
        .enter(|| UdpSocket::bind((Family::V6.unspecified(), UDP_PORT)))?
        .context("listen for datagrams")?;
    socket.set_read_timeout(Some(TICK))?;
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut buffer = [0; DATAGRAM + 1];
        while !stop.load(Ordering::Relaxed) {
            let Ok(length) = socket.recv(&mut buffer) else {
                continue;
            };
            let whole = length == DATAGRAM && buffer[1..length] == markers(DATAGRAM)[1..];
            if let Some((_, arrived)) = counters.iter().find(|(n, _)| whole && *n == buffer[0]) {
                arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(())
}

fn serve(received: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let listener = TcpListener::bind((Family::V4.unspecified(), TCP_PORT))?;
    listener.set_nonblocking(true)?;
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            connections.push(stream);
        }
        connections.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Connects anew when a connection stalls: TCP itself would wait ever longer.
fn pump(ip: IpAddr, stop: &AtomicBool, paused: &AtomicBool) {
    let address = SocketAddr::new(ip, TCP_PORT);
    let chunk = markers(CHUNK);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
            thread::sleep(TICK);
            continue;
        };
        if stream
            .set_write_timeout(Some(Duration::from_secs(2)))
            .is_err()
        {
            continue;
        }
        while !stop.load(Ordering::Relaxed) {
            if !paused.load(Ordering::Relaxed) && stream.write_all(&chunk).is_err() {
                break;
            }
            thread::sleep(PACE);
        }
    }
}
