//! TCP connections one after the other, each with a request and an answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{Shutdown, shutdown};

use super::{Ends, Measured, STALLED, latency::Latencies};

/// Bytes of a request and of its answer.
const SIZE: usize = 64;

pub(super) fn run(ends: &Ends<'_>, duration: Duration) -> Result<Measured> {
    let server = Server::start(ends)?;
    let address = server.address;
    let mut latencies = Latencies::default();
    let elapsed = ends.client.enter(|| {
        let started = Instant::now();
        while started.elapsed() < duration {
            let opened = Instant::now();
            once(address)?;
            latencies.push(opened.elapsed());
        }
        Ok::<_, anyhow::Error>(started.elapsed())
    })??;
    Ok(latencies.measured(elapsed))
}

/// The server closes first, so that no port of the client has to wait.
pub(super) fn once(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STALLED).context("connect")?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.write_all(&[7; SIZE]).context("send a request")?;
    let mut answer = Vec::with_capacity(SIZE);
    stream.read_to_end(&mut answer).context("read an answer")?;
    ensure!(answer.len() == SIZE, "an answer of {} bytes", answer.len());
    Ok(())
}

/// Answers one request per connection, until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    over: Arc<AtomicBool>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(ends: &Ends<'_>) -> Result<Self> {
        let listener = ends
            .server
            .enter(|| TcpListener::bind((ends.address, 0)))?
            .context("listen")?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (over, listener) = (Arc::clone(&over), listener.try_clone()?);
            move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok((stream, _)) = listener.accept() {
                        // The client reports what fails.
                        let _failed = answer(stream);
                    }
                }
            }
        });
        Ok(Self {
            address,
            over,
            listener,
            thread: Some(thread),
        })
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; SIZE];
    stream.set_read_timeout(Some(STALLED))?;
    stream.read_exact(&mut request)?;
    stream.write_all(&request)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It may wait in `accept`, which this ends.
        let _closed = shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _panicked = thread.join();
        }
    }
}
