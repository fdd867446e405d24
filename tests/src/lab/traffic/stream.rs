//! Numbered datagrams at a steady rate to an echo server: what was lost, and for how long.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{TICK, udp::keep_all};
use crate::lab::{Family, Netns};

/// How long after the last datagram or the last echo another may come: a machine may stand still for a while.
const LATE: Duration = Duration::from_secs(10);

/// A running stream. Its server is a [`super::UdpEcho`].
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<StreamResult>>>>,
}

/// What became of a stream.
#[derive(Debug, Clone, Default)]
pub struct StreamResult {
    pub sent: u32,
    /// Echoed at least once.
    pub echoed: u32,
    /// Echoed more than once.
    pub duplicates: u32,
    /// Refused by the own kernel.
    pub send_errors: u32,
    /// Numbers of the datagrams that were not echoed.
    pub lost: Vec<u32>,
    /// When the first of them was sent.
    pub first_lost: Option<SystemTime>,
    /// Longest time between two echoes.
    pub longest_gap: Duration,
}

impl StreamResult {
    /// An error if anything was lost or refused.
    pub fn lossless(&self) -> Result<&Self> {
        ensure!(
            self.lost.is_empty() && self.send_errors == 0 && self.sent > 0,
            "{}",
            self.described()
        );
        Ok(self)
    }

    /// What was sent, and if anything was lost, which and since when.
    pub fn described(&self) -> String {
        let mut text = format!("{} sent, {} lost", self.sent, self.lost.len());
        if let Some(at) = self.first_lost {
            // As in the agents' logs.
            let at = humantime::format_rfc3339_millis(at);
            text += &format!(" (since {at}: {})", runs(&self.lost));
        }
        if self.send_errors > 0 {
            text += &format!(", {} refused", self.send_errors);
        }
        text + &format!(", longest gap {} ms", self.longest_gap.as_millis())
    }
}

/// Ascending numbers as runs, `3-7, 9`; of many, the first.
fn runs(numbers: &[u32]) -> String {
    const SHOWN: usize = 10;
    let mut runs: Vec<String> = numbers
        .chunk_by(|one, next| one + 1 == *next)
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            run => run.iter().map(u32::to_string).collect(),
        })
        .collect();
    if runs.len() > SHOWN {
        runs.truncate(SHOWN);
        runs.push("…".to_owned());
    }
    runs.join(", ")
}

impl Stream {
    /// Sends `rate` datagrams a second of `size` bytes (at least 4) with this payload repeated,
    /// and waits for the first echo.
    pub fn start(
        from: &Netns,
        to: SocketAddr,
        rate: u32,
        size: usize,
        payload: &[u8],
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let filling: Vec<u8> = payload
            .iter()
            .copied()
            .cycle()
            .take(size.saturating_sub(4))
            .collect();
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = from.spawn(move || run(to, rate, &filling, &stopped, &ready))?;
        let stream = Self {
            stop,
            thread: Some(thread),
        };
        match wait.recv_timeout(Duration::from_secs(10)) {
            Ok(()) => Ok(stream),
            Err(_) => {
                let result = stream.stop();
                Err(anyhow!("no echo from {to} within 10 s: {result:?}"))
            }
        }
    }

    /// Ends it, waits for late echoes, and says what became of it.
    pub fn stop(mut self) -> Result<StreamResult> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .context("a stream is stopped once")?
            .join()
            .map_err(|_| anyhow!("the stream's thread panicked"))??
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(
    to: SocketAddr,
    rate: u32,
    filling: &[u8],
    stop: &Arc<AtomicBool>,
    ready: &std::sync::mpsc::Sender<()>,
) -> Result<StreamResult> {
    let any = Family::of(to.ip()).unspecified();
    let socket = UdpSocket::bind((any, 0)).context("open a UDP socket")?;
    socket
        .connect(to)
        .with_context(|| format!("connect to {to}"))?;
    socket.set_read_timeout(Some(TICK))?;
    keep_all(&socket).context("enlarge a receive buffer")?;
    let done = Arc::new(AtomicBool::new(false));
    let echoed = Arc::new(AtomicU32::new(0));
    let receiver = thread::spawn({
        let (socket, done, ready) = (socket.try_clone()?, Arc::clone(&done), ready.clone());
        let echoed = Arc::clone(&echoed);
        move || receive(&socket, &done, &echoed, &ready)
    });

    let started = Instant::now();
    let mut sent_at = Vec::new();
    let mut result = StreamResult::default();
    let mut datagram = Vec::with_capacity(filling.len() + 4);
    while !stop.load(Ordering::Relaxed) {
        datagram.clear();
        datagram.extend(result.sent.to_be_bytes());
        datagram.extend(filling);
        sent_at.push(SystemTime::now());
        if socket.send(&datagram).is_err() {
            result.send_errors += 1;
        }
        result.sent += 1;
        let due = started + Duration::from_secs(1) * result.sent / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    // What is not echoed by then is lost; the rest of the time is for duplicates.
    let mut late = (echoed.load(Ordering::Relaxed), Instant::now());
    while late.0 < result.sent && late.1.elapsed() < LATE {
        thread::sleep(TICK);
        let now = echoed.load(Ordering::Relaxed);
        if now > late.0 {
            late = (now, Instant::now());
        }
    }
    thread::sleep(Duration::from_millis(300));
    done.store(true, Ordering::Relaxed);
    let (seen, longest_gap) = receiver
        .join()
        .map_err(|_| anyhow!("the stream's receiver panicked"))?;
    for number in 0..result.sent {
        match seen.get(number as usize).copied().unwrap_or(0) {
            0 => result.lost.push(number),
            count => {
                result.echoed += 1;
                result.duplicates += u32::from(count > 1);
            }
        }
    }
    let first = result.lost.first().map(|number| *number as usize);
    result.first_lost = first.and_then(|number| sent_at.get(number).copied());
    result.longest_gap = longest_gap;
    Ok(result)
}

/// How often each number came back.
fn receive(
    socket: &UdpSocket,
    done: &AtomicBool,
    echoed: &AtomicU32,
    ready: &std::sync::mpsc::Sender<()>,
) -> (Vec<u8>, Duration) {
    let mut seen: Vec<u8> = Vec::new();
    let mut last: Option<Instant> = None;
    let mut longest_gap = Duration::ZERO;
    let mut buffer = vec![0; 65536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) if length >= 4 => {
                let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                let place = number as usize;
                if seen.len() <= place {
                    seen.resize(place + 1, 0);
                }
                seen[place] = seen[place].saturating_add(1);
                if seen[place] == 1 {
                    echoed.fetch_add(1, Ordering::Relaxed);
                }
                let now = Instant::now();
                if let Some(last) = last {
                    longest_gap = longest_gap.max(now - last);
                } else {
                    // Nobody waits any more once the start timed out.
                    let _waiting = ready.send(());
                }
                last = Some(now);
            }
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            // An ICMP error about an earlier datagram.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
        if done.load(Ordering::Relaxed) {
            return (seen, longest_gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_told_in_runs() {
        assert_eq!(runs(&[3, 4, 5, 9, 11, 12]), "3-5, 9, 11-12");
        let scattered: Vec<u32> = (0..40).step_by(2).collect();
        assert_eq!(runs(&scattered), "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, …");
    }
}
