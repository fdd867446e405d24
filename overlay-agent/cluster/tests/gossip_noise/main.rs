//! The fuzz targets on a fixed set of bytes: every seed and every kept crasher, whole, cut short,
//! with flipped bits, and with pseudo-random changes. The same on every machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "../../../../tests/fuzz/noise/change.rs"]
mod change;
#[path = "../../../../tests/fuzz/noise/files.rs"]
mod files;
#[path = "../../../../tests/fuzz/noise/random.rs"]
mod random;
mod targets;

/// Random changes of each seed.
const ROUNDS: usize = 100;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/gossip")
        .join(name)
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    files::files(&directory("seeds"))
}

fn crashers() -> Vec<(String, Vec<u8>)> {
    files::files(&directory("crashers"))
}

fn feed(bytes: &[u8]) {
    for (_, target) in targets::ALL {
        target(bytes);
    }
}

/// The seeds were written by the first version. They are what other agents send.
#[test]
fn each_target_accepts_its_seeds() {
    let seeds = seeds();
    for (name, target) in targets::ALL {
        let own: Vec<_> = seeds
            .iter()
            .filter(|(seed, _)| seed.starts_with(name))
            .collect();
        assert!(!own.is_empty(), "{name} has no seed");
        for (seed, bytes) in own {
            assert!(target(bytes), "{name} on {seed}");
        }
    }
}

#[test]
fn what_is_made_now_is_what_was_made() {
    let mut made = targets::made_now();
    made.sort();
    let seeds = seeds();
    assert_eq!(made.len(), seeds.len());
    for ((name, made), (seed, kept)) in made.into_iter().zip(seeds) {
        assert_eq!(name, seed);
        assert!(
            made == kept,
            "{name} has another form: raise its version byte, and read the old one"
        );
    }
}

#[test]
#[ignore = "writes the seeds, after a deliberate change of a format"]
fn write_seeds() {
    for (name, bytes) in targets::made_now() {
        fs::write(directory("seeds").join(name), bytes).unwrap();
    }
}

#[test]
fn seeds_are_refused_when_cut_short_and_crashers_survived() {
    for (name, bytes) in seeds() {
        for len in 0..bytes.len() {
            for (target, accepts) in targets::ALL {
                // A payload may end after its header.
                let own = name.starts_with(target) && target != "gossip_payload";
                assert!(!(own && accepts(&bytes[..len])), "{len} bytes of {name}");
            }
        }
    }
    for (_, bytes) in crashers() {
        feed(&bytes);
    }
}

#[test]
fn seeds_survive_flipped_bits() {
    for (_, mut bytes) in seeds() {
        for bit in (0..bytes.len() * 8).step_by(7) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            feed(&bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn seeds_survive_random_changes() {
    let mut random = random::Random(2);
    for (_, seed) in seeds() {
        for _ in 0..ROUNDS {
            let mut bytes = seed.clone();
            change::change(&mut bytes, |limit| random.below(limit));
            feed(&bytes);
        }
    }
}

#[test]
fn pure_noise_of_every_length_survives() {
    let mut random = random::Random(3);
    for len in 0..300 {
        for _ in 0..5 {
            let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            if let Some(version) = bytes.first_mut() {
                *version = 1;
            }
            feed(&bytes);
        }
    }
}
