//! TCP: transfers whose content is checked, and many connections at once.

use std::{
    io::{Read, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::TICK;
use crate::lab::Netns;

/// No single read or write takes longer, unless the path is broken.
const STALLED: Duration = Duration::from_secs(15);

/// Sends `length` bytes of this pattern repeated from one namespace to another and checks each that
/// arrives; how long it took.
pub fn transfer(
    from: &Netns,
    to: &Netns,
    ip: IpAddr,
    length: usize,
    pattern: &[u8],
) -> Result<Duration> {
    let (listener, address) = listen(to, ip)?;
    let expected = pattern.to_vec();
    let receiver = to.spawn(move || receive(&listener, length, &expected))?;
    let started = Instant::now();
    let sent = from.enter(|| send(address, length, pattern))?;
    // A sender that failed is the better reason; the receiver ends with it or by itself.
    sent.with_context(|| format!("send from {} to {address}", from.name()))?;
    receiver
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))??
        .with_context(|| format!("receive in {}", to.name()))?;
    Ok(started.elapsed())
}

/// As [`transfer`] on the path from, to and address, in so many flows, each one transfer after the other
/// until `meanwhile` has run: what that came to, and the bytes that arrived.
pub fn transfers_while<T>(
    (from, to, ip): (&Netns, &Netns, IpAddr),
    length: usize,
    pattern: &[u8],
    flows: usize,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let done = AtomicBool::new(false);
    let flow = || -> Result<u64> {
        let mut bytes = 0;
        while !done.load(Ordering::Relaxed) {
            transfer(from, to, ip, length, pattern)?;
            bytes += length as u64;
        }
        Ok(bytes)
    };
    thread::scope(|scope| {
        let flows: Vec<_> = (0..flows).map(|_| scope.spawn(flow)).collect();
        let result = meanwhile();
        done.store(true, Ordering::Relaxed);
        let mut bytes = 0;
        for flow in flows {
            bytes += flow.join().map_err(|_| anyhow!("a transfer panicked"))??;
        }
        Ok((result?, bytes))
    })
}

fn send(address: SocketAddr, length: usize, pattern: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STALLED).context("connect")?;
    stream.set_write_timeout(Some(STALLED))?;
    stream.set_read_timeout(Some(STALLED))?;
    // Whole patterns, so that each write starts with one.
    let chunk: Vec<u8> = pattern.repeat(65536_usize.div_ceil(pattern.len()));
    let mut left = length;
    while left > 0 {
        let size = left.min(chunk.len());
        stream.write_all(&chunk[..size]).context("write")?;
        left -= size;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver closes once it has everything.
    ensure!(
        stream.read(&mut [0]).context("wait for the end")? == 0,
        "the receiver answered"
    );
    Ok(())
}

fn receive(listener: &TcpListener, length: usize, pattern: &[u8]) -> Result<()> {
    let received = receive_all(accept(listener, STALLED)?, pattern)?;
    ensure!(received == length, "{received} of {length} bytes arrived");
    Ok(())
}

/// Checks every byte until the sender ends; how many they were.
fn receive_all(mut stream: TcpStream, pattern: &[u8]) -> Result<usize> {
    stream.set_read_timeout(Some(STALLED))?;
    let chunk: Vec<u8> = pattern.repeat(131_072_usize.div_ceil(pattern.len()) + 1);
    let (mut received, mut buffer) = (0, vec![0; 65536]);
    loop {
        let size = stream.read(&mut buffer).context("read")?;
        if size == 0 {
            break;
        }
        let at = received % pattern.len();
        ensure!(
            buffer[..size] == chunk[at..at + size],
            "bytes {received} to {} are not what was sent",
            received + size
        );
        received += size;
    }
    Ok(received)
}

/// One connection that carries a pattern at a steady rate until it is stopped. Each byte that arrives is checked.
#[derive(Debug)]
pub struct Trickle {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<usize>>,
    receiver: JoinHandle<Result<usize>>,
}

impl Trickle {
    /// Sends so many bytes, or a few more to whole patterns, and again after each pause.
    pub fn start(
        (from, to, ip): (&Netns, &Netns, IpAddr),
        size: usize,
        pause: Duration,
        pattern: &[u8],
    ) -> Result<Self> {
        let (listener, address) = listen(to, ip)?;
        let stream = from
            .enter(|| TcpStream::connect_timeout(&address, STALLED))?
            .with_context(|| format!("connect from {} to {address}", from.name()))?;
        stream.set_write_timeout(Some(STALLED))?;
        let expected = pattern.to_vec();
        let receiver = thread::spawn(move || receive_all(accept(&listener, STALLED)?, &expected));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let chunk = pattern.repeat(size.div_ceil(pattern.len()));
        let sender = thread::spawn(move || {
            let (mut stream, mut sent) = (stream, 0);
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(&chunk).context("write")?;
                sent += chunk.len();
                thread::sleep(pause);
            }
            Ok(sent)
        });
        Ok(Self {
            stop,
            sender,
            receiver,
        })
    }

    /// Ends it; an error unless all bytes arrived as they were sent, else how many they were.
    pub fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        // Without a sender the receiver sees the end.
        let sent = self
            .sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))?;
        let received = self
            .receiver
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))?;
        let (sent, received) = (sent?, received?);
        ensure!(received == sent, "{received} of {sent} bytes arrived");
        Ok(sent)
    }
}

/// On a free port.
fn listen(netns: &Netns, ip: IpAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = netns
        .enter(|| TcpListener::bind((ip, 0)))?
        .with_context(|| format!("listen on {ip} in {}", netns.name()))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn accept(listener: &TcpListener, limit: Duration) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + limit;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error).context("accept");
            }
            Err(_) if Instant::now() > deadline => {
                return Err(anyhow!("no connection within {} s", limit.as_secs()));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Returns what it receives on any number of connections; ends when dropped.
#[derive(Debug)]
pub struct TcpEcho {
    stop: Arc<AtomicBool>,
    pub address: SocketAddr,
}

impl TcpEcho {
    /// Listens on an address of the namespace.
    pub fn start(netns: &Netns, ip: IpAddr) -> Result<Self> {
        let (listener, address) = listen(netns, ip)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(stream) = accept(&listener, TICK) {
                    thread::spawn(move || echo(&stream));
                }
            }
        });
        Ok(Self { stop, address })
    }

    /// Opens this many connections at once, sends a line of its own on each, and checks the answers.
    pub fn flows(&self, from: &Netns, count: usize) -> Result<()> {
        let address = self.address;
        from.enter(|| {
            let mut streams = Vec::new();
            for number in 0..count {
                let stream = TcpStream::connect_timeout(&address, STALLED)
                    .with_context(|| format!("open connection {number} to {address}"))?;
                stream.set_read_timeout(Some(STALLED))?;
                stream.set_write_timeout(Some(STALLED))?;
                streams.push(stream);
            }
            for (number, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&line(number))?;
            }
            for (number, stream) in streams.iter_mut().enumerate() {
                let mut answer = vec![0; line(number).len()];
                stream
                    .read_exact(&mut answer)
                    .with_context(|| format!("answer on connection {number}"))?;
                ensure!(
                    answer == line(number),
                    "connection {number} got another's answer"
                );
            }
            Ok(())
        })?
    }
}

fn line(number: usize) -> Vec<u8> {
    format!("flow {number:06}\n").into_bytes()
}

fn echo(mut stream: &TcpStream) {
    let mut buffer = vec![0; 16384];
    // The client may open all its connections before it uses the first.
    if stream.set_read_timeout(Some(8 * STALLED)).is_err() {
        return;
    }
    while let Ok(size) = stream.read(&mut buffer) {
        if size == 0 || stream.write_all(&buffer[..size]).is_err() {
            return;
        }
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
