//! The fuzz targets on a fixed set of bytes: every seed and every kept crasher, whole, cut short at
//! each length, with each bit flipped, and with pseudo-random changes. The same on every machine.

use std::{fs, path::Path};

mod targets;

/// Random changes of each seed.
const ROUNDS: usize = 4000;

/// Files of a directory beside the fuzz targets, by name.
fn frames(directory: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz")
        .join(directory);
    let mut frames: Vec<_> = fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_none())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    frames.sort();
    frames
}

fn feed(frame: &[u8]) {
    for (_, target) in targets::ALL {
        target(frame);
    }
}

/// SplitMix64: enough to choose bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn every_target_accepts_a_seed() {
    let seeds = frames("seeds");
    for (name, target) in targets::ALL {
        let accepted: Vec<_> = seeds.iter().filter(|(_, frame)| target(frame)).collect();
        assert!(!accepted.is_empty(), "{name} judges nothing but noise");
        assert!(accepted.len() < seeds.len(), "{name} accepts everything");
    }
}

#[test]
fn seeds_and_crashers_survive_whole_and_cut_short() {
    for (_, frame) in frames("seeds").into_iter().chain(frames("crashers")) {
        for len in 0..=frame.len() {
            feed(&frame[..len]);
        }
    }
}

#[test]
fn seeds_survive_each_flipped_bit() {
    for (_, mut frame) in frames("seeds") {
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            feed(&frame);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn seeds_survive_random_changes() {
    let mut random = Random(2);
    for (_, seed) in frames("seeds") {
        for _ in 0..ROUNDS {
            let mut frame = seed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(frame.len());
                frame[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    // A byte of another place: fields take each other's values.
                    2 => frame[random.below(frame.len())],
                    _ => random.next() as u8,
                };
            }
            feed(&frame);
        }
    }
}

#[test]
fn pure_noise_of_every_length_survives() {
    let mut random = Random(3);
    for len in 0..200 {
        for _ in 0..100 {
            let frame: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            feed(&frame);
        }
    }
}
