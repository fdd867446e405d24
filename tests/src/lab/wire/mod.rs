//! What is on the wire: captures of the underlay, taken apart.

mod capture;
mod frame;
mod pcap;
mod ring;

pub use self::{
    capture::{Capture, Direction},
    frame::{Esp, Kind, Vxlan},
};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};

/// What a capture saw.
#[derive(Debug)]
pub struct Wire {
    /// One after the other.
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// Devices that were captured.
    devices: Vec<String>,
    /// Frames for which the kernel's ring had no room.
    pub missed: u32,
    /// Frames that did not fit into the capture's memory.
    pub left_out: u64,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    start: usize,
    length: usize,
    device: usize,
    /// Since the capture started.
    at: Duration,
}

/// A captured frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    pub device: &'a str,
    /// Since the capture started.
    pub at: Duration,
}

impl Frame<'_> {
    pub fn kind(&self) -> Kind {
        Kind::of(self.bytes)
    }
}

/// Frames and bytes of one protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    pub frames: u64,
    pub bytes: u64,
}

/// Frames and bytes by protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary(pub BTreeMap<String, Share>);

impl Wire {
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.records.iter().map(|record| Frame {
            bytes: &self.bytes[record.start..record.start + record.length],
            device: &self.devices[record.device],
            at: record.at,
        })
    }

    /// An error if a frame was missed: then what the capture does not hold proves nothing.
    pub fn complete(&self) -> Result<&Self> {
        ensure!(
            self.missed == 0 && self.left_out == 0,
            "the capture missed {} frames and left {} out",
            self.missed,
            self.left_out
        );
        Ok(self)
    }

    /// Bytes of the largest frame; 0 if there is none.
    pub fn largest(&self) -> usize {
        let lengths = self.records.iter().map(|record| record.length);
        lengths.max().unwrap_or(0)
    }

    /// Frames of unencrypted VXLAN of a VNI.
    pub fn vxlan(&self, vni: u32) -> u64 {
        self.count(|kind| matches!(kind, Kind::Vxlan(vxlan) if vxlan.vni == vni))
    }

    /// Frames of ESP.
    pub fn esp(&self) -> u64 {
        self.count(|kind| matches!(kind, Kind::Esp(_)))
    }

    /// Frames of a kind.
    pub fn count(&self, mut wanted: impl FnMut(&Kind) -> bool) -> u64 {
        let count = self.frames().filter(|frame| wanted(&frame.kind())).count();
        count as u64
    }

    /// The ESP headers in order.
    pub fn esp_headers(&self) -> impl Iterator<Item = Esp> {
        self.frames().filter_map(|frame| match frame.kind() {
            Kind::Esp(esp) => Some(esp),
            _ => None,
        })
    }

    /// ESP headers whose sequence number or IV an earlier one of the same SA has: a nonce used
    /// twice. An SA is told by source, destination and SPI, as one SPI goes to several peers.
    ///
    /// The nonce of AES-GCM in ESP is salt ‖ IV (RFC 4106 section 4); the salt is part of the key, so
    /// within an SA the IV decides. The kernel makes the IV out of the sequence number; both are
    /// checked.
    pub fn repeated_nonces(&self) -> Vec<Esp> {
        let (mut sequences, mut ivs) = (BTreeSet::new(), BTreeSet::new());
        self.esp_headers()
            .filter(|esp| {
                let sa = (esp.source, esp.destination, esp.spi);
                let new_sequence = sequences.insert((sa, esp.sequence));
                let new_iv = ivs.insert((sa, esp.iv));
                !(new_sequence && new_iv)
            })
            .collect()
    }

    /// Frames that contain these bytes.
    pub fn frames_with(&self, marker: &[u8]) -> u64 {
        let finder = memchr::memmem::Finder::new(marker);
        let count = self
            .frames()
            .filter(|frame| finder.find(frame.bytes).is_some())
            .count();
        count as u64
    }

    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for frame in self.frames() {
            let share = summary.0.entry(frame.kind().to_string()).or_default();
            share.frames += 1;
            share.bytes += frame.bytes.len() as u64;
        }
        summary
    }

    /// Writes a file for tcpdump and Wireshark.
    pub fn save(&self, path: &Path) -> Result<()> {
        pcap::save(path, self.frames())
    }
}

impl Summary {
    pub fn total(&self) -> Share {
        self.0.values().fold(Share::default(), |sum, share| Share {
            frames: sum.frames + share.frames,
            bytes: sum.bytes + share.bytes,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, share) in &self.0 {
            writeln!(f, "{name}: {} frames, {} bytes", share.frames, share.bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To 192.0.2.2.
    fn esp(spi: u32, sequence: u32, iv: u64) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 56, 0, 0, 0x40, 0, 64, 50, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(spi.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend(iv.to_be_bytes());
        frame.extend([0; 20]);
        frame
    }

    fn wire(frames: &[Vec<u8>]) -> Wire {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for frame in frames {
            records.push(Record {
                start: bytes.len(),
                length: frame.len(),
                device: 0,
                at: Duration::ZERO,
            });
            bytes.extend(frame);
        }
        Wire {
            bytes,
            records,
            devices: vec!["port1".into()],
            missed: 0,
            left_out: 0,
        }
    }

    /// Places in `frames` of those that repeat a nonce.
    fn repeated(frames: &[Vec<u8>]) -> Vec<usize> {
        let repeated = wire(frames).repeated_nonces();
        let repeats =
            |frame: &Vec<u8>| matches!(Kind::of(frame), Kind::Esp(esp) if repeated.contains(&esp));
        (0..frames.len())
            .filter(|at| repeats(&frames[*at]))
            .collect()
    }

    #[test]
    fn distinct_nonces_pass_also_with_the_same_numbers_in_two_sas() {
        let mut elsewhere = esp(1, 1, 1);
        elsewhere[33] = 3;
        let fine = [
            esp(1, 1, 1),
            esp(1, 2, 2),
            esp(2, 1, 1),
            esp(2, 2, 2),
            elsewhere,
        ];
        assert!(repeated(&fine).is_empty());
    }

    #[test]
    fn a_repeated_sequence_number_is_found() {
        assert_eq!(repeated(&[esp(1, 1, 1), esp(1, 2, 2), esp(1, 1, 3)]), [2]);
    }

    #[test]
    fn a_repeated_iv_is_found_even_behind_another_sequence_number() {
        assert_eq!(repeated(&[esp(1, 1, 7), esp(1, 2, 2), esp(1, 3, 7)]), [2]);
    }

    #[test]
    fn a_packet_sent_twice_is_found() {
        let twice = [esp(1, 1, 1), esp(1, 1, 1)];
        assert_eq!(wire(&twice).repeated_nonces().len(), 1);
    }

    #[test]
    fn the_summary_names_protocols() {
        let wire = wire(&[esp(1, 1, 1), esp(1, 2, 2)]);
        assert_eq!(wire.summary().to_string(), "ESP: 2 frames, 140 bytes\n");
        assert_eq!(wire.frames_with(&[192, 0, 2, 2, 0, 0, 0, 1]), 2);
    }
}
