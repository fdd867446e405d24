//! The fuzz targets on a fixed set of bytes: every seed and every kept crasher, whole, cut short at
//! each length, with each bit flipped, and with pseudo-random changes. The same on every machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

#[path = "../../../../tests/fuzz/noise/files.rs"]
mod files;
mod targets;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/rotation")
        .join(name)
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    files::files(&directory("seeds"))
}

fn crashers() -> Vec<(String, Vec<u8>)> {
    files::files(&directory("crashers"))
}

fn parse(bytes: &[u8]) {
    targets::ephemeral_record(bytes);
    targets::acknowledgement(bytes);
    targets::digest(bytes);
}

/// The seeds were written by the first version: what older nodes send.
#[test]
fn what_is_made_now_is_what_was_made_and_no_target_takes_another_for_its_own() {
    let seeds = seeds();
    let made = targets::made_now();
    assert_eq!(seeds.len(), made.len());
    for ((name, bytes), (seed, kept)) in made.iter().zip(&seeds) {
        assert_eq!(name, seed);
        assert!(
            bytes == kept,
            "{name} has another form: give it another version"
        );
        for (target, body) in targets::ALL
            .iter()
            .filter(|(name, _)| *name != "hostile_peer")
        {
            assert_eq!(body(kept), target == name, "{target} on {name}");
        }
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
fn seeds_and_crashers_survive_whole_and_cut_short() {
    for (_, bytes) in seeds().into_iter().chain(crashers()) {
        (0..=bytes.len()).for_each(|len| parse(&bytes[..len]));
        targets::hostile_peer(&bytes);
    }
}

#[test]
fn seeds_survive_each_flipped_bit() {
    for (_, mut bytes) in seeds() {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            parse(&bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn seeds_survive_random_changes() {
    let mut rng = StdRng::seed_from_u64(1);
    for (_, seed) in seeds() {
        for _ in 0..2000 {
            let mut bytes = seed.clone();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[at] = rng.random(),
                    1 => bytes.insert(at, rng.random()),
                    _ => drop(bytes.remove(at)),
                }
            }
            parse(&bytes);
        }
    }
}

#[test]
fn no_hostile_peer_gets_a_key_twice_or_sas_without_bound() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..100 {
        let mut bytes = vec![0; 8 * rng.random_range(1..100)];
        rng.fill_bytes(&mut bytes);
        targets::hostile_peer(&bytes);
    }
}
