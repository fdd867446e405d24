//! UDP packets of one size: how many arrive.
//!
//! On several CPUs one thread sends without pause and another receives, so what counts is the pace of
//! the slower side, and the share that is lost is told. On one CPU the two would fight for it, and the
//! scheduler decide: there one thread sends a few datagrams, takes them out at the other end, and so on.
//! Nothing is lost, and the pace is that of the whole path.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use super::{Ends, LOST, Measured};

/// What fits every network here: 1416 bytes of MTU, the smallest, less the headers of IPv4 and UDP.
pub(super) const LARGE: usize = 1388;
/// Datagrams on their way at once on one CPU: few enough for a socket's default buffer, of which a
/// decrypted packet of 1,388 bytes takes seven thousand.
const BURST: u32 = 16;

pub(super) fn run(ends: &Ends<'_>, size: usize, duration: Duration) -> Result<Measured> {
    let (sender, receiver) = sockets(ends)?;
    let counts = if thread::available_parallelism().map_or(1, usize::from) > 1 {
        flood(&sender, receiver, size, duration)?
    } else {
        bursts(&sender, &receiver, size, duration)?
    };
    let Counts {
        sent,
        received,
        elapsed,
    } = counts;
    let seconds = elapsed.as_secs_f64();
    Ok(Measured {
        value: f64::from(received) / seconds,
        details: [
            ("sent_per_s", f64::from(sent) / seconds),
            (
                "lost_percent",
                100.0 * (1.0 - f64::from(received) / f64::from(sent.max(1))),
            ),
        ]
        .into(),
    })
}

struct Counts {
    sent: u32,
    received: u32,
    elapsed: Duration,
}

/// A connected socket at the client and one that waits at the server.
pub(super) fn sockets(ends: &Ends<'_>) -> Result<(UdpSocket, UdpSocket)> {
    let receiver = ends
        .server
        .enter(|| UdpSocket::bind((ends.address, 0)))?
        .context("open the receiving socket")?;
    receiver.set_read_timeout(Some(LOST))?;
    let address: SocketAddr = receiver.local_addr()?;
    let sender = ends
        .client
        .enter(|| {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            Ok::<_, std::io::Error>(socket)
        })?
        .context("open the sending socket")?;
    sender.set_read_timeout(Some(LOST))?;
    Ok((sender, receiver))
}

fn bursts(
    sender: &UdpSocket,
    receiver: &UdpSocket,
    size: usize,
    duration: Duration,
) -> Result<Counts> {
    let datagram = vec![0; size];
    let mut buffer = vec![0; size];
    let (mut sent, mut received) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < duration {
        for _ in 0..BURST {
            sender.send(&datagram).context("send a datagram")?;
        }
        sent += BURST;
        for _ in 0..BURST {
            match receiver.recv(&mut buffer) {
                Ok(_) => received += 1,
                // What is missing is lost.
                Err(error) if is_timeout(&error) => break,
                Err(error) => return Err(error).context("receive a datagram"),
            }
        }
    }
    Ok(Counts {
        sent,
        received,
        elapsed: started.elapsed(),
    })
}

fn flood(
    sender: &UdpSocket,
    receiver: UdpSocket,
    size: usize,
    duration: Duration,
) -> Result<Counts> {
    let over = Arc::new(AtomicBool::new(false));
    let counter = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut buffer = vec![0; size];
            let mut received = 0;
            while !over.load(Ordering::Relaxed) {
                match receiver.recv(&mut buffer) {
                    Ok(_) => received += 1,
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(received)
        }
    });
    let datagram = vec![0; size];
    let mut sent = 0;
    let started = Instant::now();
    while started.elapsed() < duration {
        // The clock costs as much as a part of a packet.
        for _ in 0..BURST {
            // A full queue is the path's answer, and counts as lost.
            let _full = sender.send(&datagram);
        }
        sent += BURST;
    }
    let elapsed = started.elapsed();
    over.store(true, Ordering::Relaxed);
    let received = counter
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))?
        .context("receive a datagram")?;
    Ok(Counts {
        sent,
        received,
        elapsed,
    })
}

pub(super) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
