//! The fuzz targets on a fixed set of bytes: messages whole, cut short, with flipped bits, with
//! pseudo-random changes, and noise. The same on every machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[path = "../../../../tests/fuzz/noise/files.rs"]
mod files;
#[path = "../../../../tests/fuzz/noise/random.rs"]
mod random;
mod targets;

/// Random changes of each message.
const ROUNDS: usize = 2000;

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/control/seeds")
}

/// Each message that is made, by its target and its number there.
fn named() -> BTreeMap<String, Vec<u8>> {
    let mut counts = BTreeMap::new();
    let made = targets::made_now().into_iter();
    made.map(|(target, bytes)| {
        let count = counts.entry(target).or_insert(0);
        *count += 1;
        (format!("{target}_{:02}", *count), bytes)
    })
    .collect()
}

/// The seeds were written by release 0.1.0. They are what nodes that are not updated yet say, and read.
#[test]
fn what_is_made_now_is_what_was_made() {
    let kept: BTreeMap<_, _> = files::files(&seeds()).into_iter().collect();
    let made = named();
    assert!(
        made.keys().eq(kept.keys()),
        "write the seeds of new messages"
    );
    for (name, bytes) in made {
        assert!(
            kept[&name] == bytes,
            "{name} has another form: give it a new number, and keep the old one"
        );
    }
}

#[test]
#[ignore = "writes the seeds, after a deliberate change of a format"]
fn write_seeds() {
    fs::create_dir_all(seeds()).unwrap();
    for (name, bytes) in named() {
        fs::write(seeds().join(name), bytes).unwrap();
    }
}

#[test]
fn each_target_accepts_what_is_made_for_it_and_nothing_shorter() {
    for (name, bytes) in targets::made_now() {
        let (_, accepts) = targets::ALL
            .into_iter()
            .find(|(target, _)| *target == name)
            .expect("a target");
        assert!(accepts(&bytes), "{name} {bytes:?}");
        for len in 0..bytes.len() {
            assert!(!accepts(&bytes[..len]), "{len} bytes of {name}");
        }
    }
}

#[test]
fn messages_survive_flipped_bits_and_random_changes() {
    let mut random = random::Random(1);
    for (_, seed) in targets::made_now() {
        for bit in 0..seed.len() * 8 {
            let mut bytes = seed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            targets::any(&bytes);
        }
        for _ in 0..ROUNDS {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(3) {
                    0 => 0xff,
                    1 => bytes[random.below(bytes.len())],
                    _ => random.next() as u8,
                };
            }
            targets::any(&bytes);
        }
    }
}

#[test]
fn noise_of_every_kind_and_length_survives() {
    let mut random = random::Random(2);
    for len in 0..300 {
        for kind in 0..8 {
            let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            if let [version, tag, ..] = bytes.as_mut_slice() {
                (*version, *tag) = (1, kind);
            }
            targets::any(&bytes);
        }
    }
}
