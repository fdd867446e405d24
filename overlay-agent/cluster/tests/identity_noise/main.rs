//! The fuzz targets on a fixed set of bytes: every seed and every kept crasher, whole, cut short at
//! each length, with each bit flipped, and with pseudo-random changes. The same on every machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::Rng as _;

#[path = "../../../../tests/fuzz/noise/change.rs"]
mod change;
#[path = "../../../../tests/fuzz/noise/files.rs"]
mod files;
mod targets;

/// Random changes of each seed for each target.
const ROUNDS: usize = 300;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/identity")
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

/// The seeds were written by the first version. They are what disks and operators have.
#[test]
fn each_target_accepts_its_seed_and_no_other() {
    let seeds = seeds();
    assert_eq!(seeds.len(), targets::ALL.len());
    for (name, target) in targets::ALL {
        for (seed, bytes) in &seeds {
            assert_eq!(target(bytes), name == seed, "{name} on {seed}");
        }
    }
}

#[test]
fn what_is_made_now_is_what_was_made() {
    let mut made = targets::made_now();
    made.sort();
    for ((name, made), (seed, kept)) in made.into_iter().zip(seeds()) {
        assert_eq!(name, seed);
        assert!(
            made == kept,
            "{name} has another form: old nodes must read it, and new ones the old"
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
fn seeds_and_crashers_are_refused_when_cut_short() {
    for (name, bytes) in seeds() {
        for len in 0..bytes.len() {
            for (target, accepts) in targets::ALL {
                assert!(!accepts(&bytes[..len]), "{target} on {len} bytes of {name}");
            }
        }
    }
    for (_, bytes) in crashers() {
        feed(&bytes);
    }
}

#[test]
fn seeds_are_refused_with_a_flipped_bit() {
    for (name, target) in targets::ALL {
        // What is signed here was not signed as it was flipped.
        let signs = name.ends_with("_body");
        let mut bytes = fs::read(directory("seeds").join(name)).unwrap();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let accepted = target(&bytes);
            // The issuing time of the stored roots is protected where they are stored.
            assert!(!accepted || signs || name == "roots", "{name} bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn seeds_survive_random_changes() {
    let mut rng = targets::rng(6);
    let mut below = |limit: usize| rng.next_u32() as usize % limit;
    for (_, seed) in seeds() {
        for _ in 0..ROUNDS {
            let mut bytes = seed.clone();
            change::change(&mut bytes, &mut below);
            feed(&bytes);
        }
    }
}

#[test]
fn pure_noise_of_every_length_is_refused() {
    let mut rng = targets::rng(7);
    for len in 0..300 {
        for _ in 0..4 {
            let mut bytes = vec![0; len];
            rng.fill_bytes(&mut bytes);
            for (name, target) in targets::ALL {
                assert!(!target(&bytes), "{name} on {len} bytes");
            }
        }
    }
}
