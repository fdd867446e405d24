//! A capture in the background.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow};

use super::{
    Record, Wire,
    ring::{RETIRE, Ring},
};
use crate::lab::Netns;

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
        let started = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut threads = Vec::new();
        for (number, device) in devices.iter().enumerate() {
            let ring = Ring::open(netns, device, direction == Direction::Received)?;
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || one(ring, number, started, &stop)));
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

/// Takes what passes one device; times are since `started`, which is since the Unix epoch.
fn one(mut ring: Ring, device: usize, started: Duration, stop: &AtomicBool) -> Result<One> {
    /// How long the ring may take to run empty after the end was asked for.
    const LINGER: Duration = Duration::from_secs(5);
    /// After this, what had passed before the end was asked for has been handed over.
    const HANDED_OVER: Duration = Duration::from_millis(3 * RETIRE.as_millis() as u64);
    let mut one = One::default();
    let mut stopping: Option<Instant> = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            stopping.get_or_insert_with(Instant::now);
        }
        let waited = stopping.map(|since| since.elapsed());
        let taken = ring.take(|frame| {
            if !frame.whole || one.bytes.len() + frame.bytes.len() > LIMIT {
                one.left_out += 1;
                return;
            }
            one.records.push(Record {
                start: one.bytes.len(),
                length: frame.bytes.len(),
                device,
                at: frame.at.saturating_sub(started),
            });
            one.bytes.extend_from_slice(frame.bytes);
        });
        match (taken, waited) {
            (false, Some(waited)) if waited > HANDED_OVER => break,
            (true, Some(waited)) if waited > LINGER => {
                one.left_out += 1;
                break;
            }
            (true, _) => {}
            (false, _) => thread::sleep(RETIRE / 6),
        }
    }
    one.missed = ring.missed()?;
    Ok(one)
}
