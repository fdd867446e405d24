//! What a busy host carries: a stream, connections, and round trips that wait behind both.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use super::{Ends, Measured, STALLED, connections, round_trip};

pub(super) fn run(ends: &Ends<'_>, duration: Duration) -> Result<Measured> {
    let over = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let sink = ends
        .server
        .enter(|| TcpListener::bind((ends.address, 0)))?
        .context("listen")?;
    let sink_address = sink.local_addr()?;
    let receiver = thread::spawn({
        let received = Arc::clone(&received);
        move || receive(&sink, &received)
    });
    let sender = ends.client.spawn({
        let over = Arc::clone(&over);
        move || send(sink_address, &over)
    })?;
    let server = connections::Server::start(ends)?;
    let caller = ends.client.spawn({
        let (over, address) = (Arc::clone(&over), server.address);
        move || call(address, &over)
    })?;

    let started = Instant::now();
    let round_trips = round_trip::udp(ends, duration);
    let elapsed = started.elapsed().as_secs_f64();
    let bytes = received.load(Ordering::Relaxed);
    over.store(true, Ordering::Relaxed);
    let panicked = |_| anyhow!("a thread of the mix panicked");
    sender.join().map_err(panicked)???;
    let connections = caller.join().map_err(panicked)???;
    receiver.join().map_err(panicked)??;

    let mut measured = round_trips?;
    measured
        .details
        .insert("stream_bit_per_s", 8.0 * bytes as f64 / elapsed);
    measured
        .details
        .insert("connections_per_s", f64::from(connections) / elapsed);
    Ok(measured)
}

fn send(address: SocketAddr, over: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STALLED).context("connect the stream")?;
    stream.set_write_timeout(Some(STALLED))?;
    let chunk = vec![0; 128 << 10];
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&chunk).context("send the stream")?;
    }
    Ok(())
}

fn receive(listener: &TcpListener, received: &AtomicU64) -> Result<()> {
    let (mut stream, _) = listener.accept().context("accept the stream")?;
    stream.set_read_timeout(Some(STALLED))?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match stream.read(&mut buffer).context("receive the stream")? {
            0 => return Ok(()),
            length => received.fetch_add(length as u64, Ordering::Relaxed),
        };
    }
}

fn call(address: SocketAddr, over: &AtomicBool) -> Result<u32> {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        connections::once(address)?;
        count += 1;
    }
    Ok(count)
}
