//! A capture in the background.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::{Record, Wire};
use crate::lab::{Netns, RawSocket};

/// Memory for the frames of one device.
const LIMIT: usize = 384 << 20;

/// Which frames of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Received,
    Both,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<One>>>,
    devices: Vec<String>,
}

/// What was seen on one device.
#[derive(Debug, Default)]
struct One {
    bytes: Vec<u8>,
    records: Vec<Record>,
    missed: u32,
    left_out: u64,
}

impl Capture {
    /// Starts to capture on devices of a namespace. Everything sent after it returns is seen.
    pub fn start(netns: &Netns, devices: &[String], direction: Direction) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        let mut threads = Vec::new();
        for (number, device) in devices.iter().enumerate() {
            let socket = match direction {
                Direction::Received => RawSocket::open_receiver(netns, device)?,
                Direction::Both => RawSocket::open(netns, device)?,
            };
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || one(&socket, number, started, &stop)));
        }
        Ok(Self {
            stop,
            threads,
            devices: devices.to_vec(),
        })
    }

    /// Ends the capture with everything that had arrived.
    pub fn stop(mut self) -> Result<Wire> {
        self.stop.store(true, Ordering::Relaxed);
        let mut wire = Wire {
            bytes: Vec::new(),
            records: Vec::new(),
            devices: std::mem::take(&mut self.devices),
            missed: 0,
            left_out: 0,
        };
        for thread in self.threads.drain(..) {
            let one = thread
                .join()
                .map_err(|_| anyhow!("a capturing thread panicked"))??;
            let start = wire.bytes.len();
            wire.bytes.extend(&one.bytes);
            wire.records.extend(one.records.iter().map(|record| Record {
                start: record.start + start,
                ..*record
            }));
            wire.missed += one.missed;
            wire.left_out += one.left_out;
        }
        wire.records.sort_by_key(|record| record.at);
        Ok(wire)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn one(socket: &RawSocket, device: usize, started: Instant, stop: &AtomicBool) -> Result<One> {
    /// How long the queue may take to run empty after the end was asked for.
    const LINGER: Duration = Duration::from_secs(5);
    let mut one = One::default();
    let mut buffer = Vec::new();
    let mut stopping: Option<Instant> = None;
    loop {
        // Looked at first: what had arrived before the end was asked for is still taken.
        if stop.load(Ordering::Relaxed) {
            stopping.get_or_insert_with(Instant::now);
        }
        match socket.receive(&mut buffer)? {
            None if stopping.is_some() => break,
            None => {}
            Some(_) if stopping.is_some_and(|since| since.elapsed() > LINGER) => {
                one.left_out += 1;
                break;
            }
            Some(frame) if one.bytes.len() + frame.len() > LIMIT => one.left_out += 1,
            Some(frame) => {
                one.records.push(Record {
                    start: one.bytes.len(),
                    length: frame.len(),
                    device,
                    at: started.elapsed(),
                });
                one.bytes.extend_from_slice(frame);
            }
        }
    }
    one.missed = socket.missed()?;
    Ok(one)
}
