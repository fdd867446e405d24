//! Request and answer, one at a time, between two threads.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Ends, Measured, STALLED,
    latency::Latencies,
    packets::{is_timeout, sockets},
};

/// Bytes of a request and of its answer.
const SIZE: usize = 64;

pub(super) fn udp(ends: &Ends<'_>, duration: Duration) -> Result<Measured> {
    let (client, server) = sockets(ends)?;
    let _echo = Echo::start(server);
    let request = [7; SIZE];
    let mut answer = [0; SIZE];
    let (mut latencies, mut lost) = (Latencies::default(), 0.0);
    let started = Instant::now();
    while started.elapsed() < duration {
        let sent = Instant::now();
        client.send(&request).context("send a request")?;
        match client.recv(&mut answer) {
            Ok(_) => latencies.push(sent.elapsed()),
            Err(error) if is_timeout(&error) => lost += 1.0,
            Err(error) => return Err(error).context("receive an answer"),
        }
    }
    let mut measured = latencies.measured(started.elapsed());
    measured.details.insert("lost", lost);
    Ok(measured)
}

pub(super) fn tcp(ends: &Ends<'_>, duration: Duration) -> Result<Measured> {
    let listener = ends
        .server
        .enter(|| TcpListener::bind((ends.address, 0)))?
        .context("listen")?;
    let address = listener.local_addr()?;
    let mut client = ends
        .client
        .enter(|| TcpStream::connect_timeout(&address, STALLED))?
        .context("connect")?;
    let (mut server, _) = listener.accept().context("accept")?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(STALLED))?;
    }
    // Ends when the client does.
    let echo = thread::spawn(move || {
        let mut buffer = [0; SIZE];
        while server.read_exact(&mut buffer).is_ok() && server.write_all(&buffer).is_ok() {}
    });
    let mut buffer = [7; SIZE];
    let mut latencies = Latencies::default();
    let started = Instant::now();
    while started.elapsed() < duration {
        let sent = Instant::now();
        client.write_all(&buffer).context("send a request")?;
        client.read_exact(&mut buffer).context("read an answer")?;
        latencies.push(sent.elapsed());
    }
    let elapsed = started.elapsed();
    drop(client);
    ensure!(echo.join().is_ok(), "the server panicked");
    Ok(latencies.measured(elapsed))
}

/// Returns datagrams until it is dropped.
pub(super) struct Echo {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// The socket has a read timeout.
    pub(super) fn start(socket: UdpSocket) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut buffer = [0; SIZE];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        // Lost, as any datagram may be; the client counts.
                        let _lost = socket.send_to(&buffer[..length], from);
                    }
                }
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _panicked = thread.join();
        }
    }
}
