//! UDP servers inside a namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::sockopt;

use super::TICK;
use crate::lab::Netns;

/// Returns every datagram to its sender; ends when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    pub address: SocketAddr,
}

impl UdpEcho {
    /// Listens on an address of the namespace.
    pub fn start(netns: &Netns, ip: IpAddr, port: u16) -> Result<Self> {
        let address = SocketAddr::new(ip, port);
        let socket = bind(netns, address)?;
        let stop = serve(socket, |socket, datagram, from| {
            // Lost, as any datagram may be; the client counts.
            let _lost = socket.send_to(datagram, from);
        });
        Ok(Self { stop, address })
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Keeps every datagram; ends when dropped.
#[derive(Debug)]
pub struct UdpSink {
    stop: Arc<AtomicBool>,
    datagrams: Arc<Mutex<Vec<Datagram>>>,
}

/// A received datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    pub payload: Vec<u8>,
}

impl UdpSink {
    /// Listens on a port of all addresses of a family, and in multicast groups on an interface.
    pub fn start(netns: &Netns, port: u16, interface: &str, groups: &[IpAddr]) -> Result<Self> {
        let ipv6 = groups.iter().any(IpAddr::is_ipv6);
        let any: IpAddr = if ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let socket = bind(netns, SocketAddr::new(any, port))?;
        for group in groups {
            // `ip maddr` knows link-layer groups only, and std has no join by name for IPv4.
            let joined = match group {
                IpAddr::V4(group) => {
                    let own = first_ipv4(netns, interface)?;
                    socket.join_multicast_v4(group, &own)
                }
                IpAddr::V6(group) => socket.join_multicast_v6(group, index(netns, interface)?),
            };
            joined.with_context(|| format!("join {group} on {interface} in {}", netns.name()))?;
        }
        let datagrams = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&datagrams);
        let stop = serve(socket, move |_, datagram, from| {
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Datagram {
                    from,
                    payload: datagram.to_vec(),
                });
        });
        Ok(Self { stop, datagrams })
    }

    /// What arrived so far.
    pub fn received(&self) -> Vec<Datagram> {
        self.datagrams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for UdpSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Room for all that a test sends: what the network delivers is not lost where a reader waits for a processor.
/// The default is that of a hundred encrypted datagrams, two seconds of a [`super::Stream`].
pub(super) fn keep_all(socket: &UdpSocket) -> io::Result<()> {
    const ROOM: usize = 8 << 20;
    sockopt::set_socket_recv_buffer_size_force(socket, ROOM)?;
    Ok(())
}

fn bind(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    netns
        .enter(|| {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(TICK))?;
            keep_all(&socket)?;
            Ok::<_, io::Error>(socket)
        })?
        .with_context(|| format!("listen on {address} in {}", netns.name()))
}

fn serve(
    socket: UdpSocket,
    mut handle: impl FnMut(&UdpSocket, &[u8], SocketAddr) + Send + 'static,
) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while !stopped.load(Ordering::Relaxed) {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => handle(&socket, &buffer[..length], from),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                // An ICMP error about an earlier answer.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    stop
}

fn first_ipv4(netns: &Netns, interface: &str) -> Result<Ipv4Addr> {
    let text = netns.ip(&format!("-o -4 addr show dev {interface}"))?;
    text.split_whitespace()
        .skip_while(|word| *word != "inet")
        .nth(1)
        .and_then(|prefix| prefix.split('/').next()?.parse().ok())
        .with_context(|| format!("no IPv4 address in `{text}`"))
}

fn index(netns: &Netns, interface: &str) -> Result<u32> {
    let text = netns.ip(&format!("-o link show dev {interface}"))?;
    text.split(':')
        .next()
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("no index in `{text}`"))
}
