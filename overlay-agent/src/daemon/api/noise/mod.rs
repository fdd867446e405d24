//! The fuzz targets on a fixed set of bytes: bodies whole, cut short, with flipped bits, with
//! pseudo-random changes, and noise. The same on every machine. Then what proptest makes up.

mod targets;

use proptest::prelude::*;

#[path = "../../../../../tests/fuzz/noise/change.rs"]
mod change;
#[path = "../../../../../tests/fuzz/noise/random.rs"]
mod random;

/// Random changes of each body.
const ROUNDS: usize = 2000;

#[test]
fn each_target_accepts_its_seed_and_nothing_shorter() {
    for ((name, seed), (target, accepts)) in targets::SEEDS.into_iter().zip(targets::ALL) {
        assert_eq!(name, target);
        assert!(accepts(seed.as_bytes()), "{name}: {seed}");
        for len in 1..seed.len() {
            assert!(!accepts(&seed.as_bytes()[..len]), "{len} bytes of {name}");
        }
        // A field that is not known is not left out in silence.
        let more = seed.replacen('{', r#"{"more":1,"#, 1);
        assert!(!accepts(more.as_bytes()), "{name}: {more}");
    }
}

#[test]
fn bodies_survive_flipped_bits_and_random_changes() {
    let mut random = random::Random(1);
    for (_, seed) in targets::SEEDS {
        for bit in 0..seed.len() * 8 {
            let mut bytes = seed.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            targets::any(&bytes);
        }
        for _ in 0..ROUNDS {
            let mut bytes = seed.as_bytes().to_vec();
            change::change(&mut bytes, |limit| random.below(limit));
            targets::any(&bytes);
        }
    }
}

#[test]
fn nesting_has_an_end() {
    for open in ["[", r#"{"a":"#, r#"{"netns":"#] {
        assert!(!targets::any(open.repeat(100_000).as_bytes()));
    }
}

proptest! {
    #[test]
    fn parse_noise(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        targets::any(&bytes);
    }

    /// Whatever stands in the fields, what is accepted is written the same again, and a refusal quotes
    /// nothing of a secret.
    #[test]
    fn parse_fields(
        field in prop::sample::select(&["token", "key", "name", "network", "netns", "backup"][..]),
        value in any::<String>(),
        number in any::<i64>(),
    ) {
        for body in [
            serde_json::json!({ field: value }),
            serde_json::json!({ field: number }),
            serde_json::json!({ field: [&value] }),
            serde_json::json!({ field: { "name": &value } }),
            serde_json::json!({ "network": &value, "netns": { "name": &value }, field: &value }),
        ] {
            targets::any(body.to_string().as_bytes());
        }
        let marked = serde_json::json!({ "token": [format!("S3CR3T{value}")], "managers": [] });
        let refused = super::parse::<crate::api::cluster::JoinRequest>(marked.to_string().as_bytes());
        prop_assert!(!refused.unwrap_err().to_string().contains("S3CR3T"));
    }
}
