//! The fuzz targets on a fixed set of bytes: every seed and every kept crasher, whole, cut short,
//! with flipped bits, and with pseudo-random changes. The same on every machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

mod targets;

/// Random changes of each seed.
const ROUNDS: usize = 100;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/gossip")
        .join(name)
}

/// Files of a directory beside the fuzz targets, by name.
fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let path = directory(name);
    let mut files: Vec<_> = fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_none())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn feed(bytes: &[u8]) {
    for (_, target) in targets::ALL {
        target(bytes);
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

/// The seeds were written by the first version. They are what other agents send.
#[test]
fn each_target_accepts_its_seeds() {
    let seeds = files("seeds");
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
    let seeds = files("seeds");
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
    for (name, bytes) in files("seeds") {
        for len in 0..bytes.len() {
            for (target, accepts) in targets::ALL {
                // A payload may end after its header.
                let own = name.starts_with(target) && target != "gossip_payload";
                assert!(!(own && accepts(&bytes[..len])), "{len} bytes of {name}");
            }
        }
    }
    for (_, bytes) in files("crashers") {
        feed(&bytes);
    }
}

#[test]
fn seeds_survive_flipped_bits() {
    for (_, mut bytes) in files("seeds") {
        for bit in (0..bytes.len() * 8).step_by(7) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            feed(&bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn seeds_survive_random_changes() {
    let mut random = Random(2);
    for (_, seed) in files("seeds") {
        for _ in 0..ROUNDS {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    // A byte of another place: fields take each other's values.
                    2 => bytes[random.below(bytes.len())],
                    _ => random.next() as u8,
                };
            }
            feed(&bytes);
        }
    }
}

#[test]
fn pure_noise_of_every_length_survives() {
    let mut random = Random(3);
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
