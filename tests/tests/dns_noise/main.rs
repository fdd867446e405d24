//! The fuzz targets on a fixed set of bytes: messages whole, cut short, with flipped bits, with
//! pseudo-random changes, and noise. The same on every machine.

use std::path::Path;

#[path = "../../fuzz/noise/change.rs"]
mod change;
#[path = "../../fuzz/noise/files.rs"]
mod files;
#[path = "../../fuzz/noise/random.rs"]
mod random;
mod targets;

/// Random changes of each message.
const ROUNDS: usize = 300;

fn all(bytes: &[u8]) {
    for (_, target) in targets::ALL {
        target(bytes);
    }
}

#[test]
fn each_target_accepts_what_is_made_for_it() {
    for (name, bytes) in targets::made_now() {
        let mut targets = targets::ALL.into_iter();
        let (_, accepts) = targets
            .find(|(target, _)| *target == name)
            .expect("a target");
        assert!(accepts(&bytes), "{name} {bytes:?}");
    }
}

#[test]
fn messages_survive_cuts_flipped_bits_and_random_changes() {
    let mut random = random::Random(1);
    for (_, seed) in targets::made_now() {
        for len in 0..seed.len() {
            all(&seed[..len]);
        }
        for bit in 0..seed.len() * 8 {
            let mut bytes = seed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            all(&bytes);
        }
        for _ in 0..ROUNDS {
            let mut bytes = seed.clone();
            change::change(&mut bytes, |limit| random.below(limit));
            all(&bytes);
        }
    }
}

#[test]
fn noise_of_every_length_and_what_once_broke_a_target_survives() {
    let mut random = random::Random(2);
    for len in 0..600 {
        let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        all(&bytes);
        // A query with one question, and noise after it.
        if let Some(header) = bytes.get_mut(2..12) {
            header.copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        all(&bytes);
    }
    let crashers = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/dns/crashers");
    for (_, bytes) in files::files(&crashers) {
        all(&bytes);
    }
}
