//! The fuzz targets on a fixed set of bytes: messages whole, cut short, with flipped bits, with
//! pseudo-random changes, and noise. The same on every machine.

#[path = "../../../../tests/fuzz/noise/random.rs"]
mod random;
mod targets;

/// Random changes of each message.
const ROUNDS: usize = 2000;

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
