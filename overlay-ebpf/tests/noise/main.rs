//! The fuzz targets on a fixed set of bytes: every seed and every kept crasher, whole, cut short at
//! each length, with each bit flipped, and with pseudo-random changes. The same on every machine.

use std::path::Path;

#[path = "../../../tests/fuzz/noise/change.rs"]
mod change;
#[path = "../../../tests/fuzz/noise/files.rs"]
mod files;
#[path = "../../../tests/fuzz/noise/random.rs"]
mod random;
mod targets;

/// Random changes of each seed.
const ROUNDS: usize = 4000;

/// Files of a directory beside the fuzz targets, by name.
fn frames(directory: &str) -> Vec<(String, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    files::files(&fuzz.join(directory))
}

fn feed(frame: &[u8]) {
    for (_, target) in targets::ALL {
        target(frame);
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
    let mut random = random::Random(2);
    for (_, seed) in frames("seeds") {
        for _ in 0..ROUNDS {
            let mut frame = seed.clone();
            change::change(&mut frame, |limit| random.below(limit));
            feed(&frame);
        }
    }
}

#[test]
fn pure_noise_of_every_length_survives() {
    let mut random = random::Random(3);
    for len in 0..200 {
        for _ in 0..100 {
            let frame: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            feed(&frame);
        }
    }
}
