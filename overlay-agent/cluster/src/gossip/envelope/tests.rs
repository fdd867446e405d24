use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::id::EpochName;

struct Known(BTreeMap<NodeId, BootNonce>);

impl Senders for Known {
    fn is_member(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }

    fn boot_of(&self, node: NodeId) -> Option<BootNonce> {
        self.0.get(&node).copied()
    }
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

fn boot(n: u8) -> BootNonce {
    BootNonce::from_bytes([n; 16])
}

fn epoch(number: u32) -> EpochName {
    EpochName {
        incarnation: 0,
        number,
        hash: [0; 8],
    }
}

fn secret(n: u8) -> Secret {
    Secret::new([n; 32])
}

/// Node 1 sends in epoch 7, and who receives knows it.
fn pair() -> (Sealer, Opener, Known) {
    let mut sealer = Sealer::new(node(1), boot(1));
    sealer.activate(epoch(7), &secret(7));
    let mut opener = Opener::default();
    opener.accept(epoch(7), &secret(7));
    (sealer, opener, Known([(node(1), boot(1))].into()))
}

#[test]
fn what_was_sealed_opens_once() {
    let (mut sealer, mut opener, known) = pair();
    let datagram = sealer.seal(b"hello").expect("seals");
    assert_eq!(datagram.len(), HEADER_LEN + 5 + TAG_LEN);
    let opened = opener.open(&datagram, &known).expect("opens");
    assert_eq!(
        (opened.sender, opened.payload.as_slice()),
        (node(1), &b"hello"[..])
    );
    assert_eq!(
        opener.open(&datagram, &known),
        Err(OpenError::Replayed {
            sender: node(1),
            counter: 0
        })
    );
}

#[test]
fn each_flipped_bit_is_refused_and_moves_no_window() {
    let (mut sealer, mut opener, known) = pair();
    let datagram = sealer.seal(b"hello").expect("seals");
    for bit in 0..datagram.len() * 8 {
        let mut damaged = datagram.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        opener.open(&damaged, &known).expect_err("damaged");
    }
    opener.open(&datagram, &known).expect("untouched");
}

#[test]
fn a_stranger_an_unknown_start_and_an_unknown_epoch_cost_no_key() {
    let (mut sealer, mut opener, known) = pair();
    let mut stranger = Sealer::new(node(2), boot(1));
    stranger.activate(epoch(7), &secret(7));
    let mut restarted = Sealer::new(node(1), boot(2));
    restarted.activate(epoch(7), &secret(7));
    sealer.activate(epoch(8), &secret(8));
    let mut open = |sealer: &mut Sealer| opener.open(&sealer.seal(b"x").expect("seals"), &known);
    assert_eq!(open(&mut stranger), Err(OpenError::Stranger(node(2))));
    assert_eq!(
        open(&mut restarted),
        Err(OpenError::Boot {
            sender: node(1),
            boot: boot(2)
        })
    );
    assert_eq!(
        open(&mut sealer),
        Err(OpenError::Epoch {
            sender: node(1),
            epoch: epoch(8).into()
        })
    );
    assert_eq!(opener.keys(), 0);
}

#[test]
fn a_restart_begins_a_window_and_ends_the_old_one() {
    let (mut sealer, mut opener, mut known) = pair();
    let old = sealer.seal(b"old").expect("seals");
    opener.open(&old, &known).expect("opens");
    let mut restarted = Sealer::new(node(1), boot(2));
    restarted.activate(epoch(7), &secret(7));
    known.0.insert(node(1), boot(2));
    let new = restarted.seal(b"new").expect("seals");
    opener.open(&new, &known).expect("a window of its own");
    assert_eq!(
        opener.open(&old, &known),
        Err(OpenError::Boot {
            sender: node(1),
            boot: boot(1)
        })
    );
    assert_eq!(opener.keys(), 1);
}

#[test]
fn the_grace_period_ends_with_retire() {
    let (mut sealer, mut opener, known) = pair();
    let early = sealer.seal(b"early").expect("seals");
    let late = sealer.seal(b"late").expect("seals");
    opener.accept(epoch(8), &secret(8));
    opener.open(&early, &known).expect("in grace");
    opener.retire(epoch(7).into());
    assert!(matches!(
        opener.open(&late, &known),
        Err(OpenError::Epoch { .. })
    ));
    assert_eq!(opener.keys(), 0);
    assert_eq!(opener.newest_epoch(), Some(epoch(8).into()));
}

#[test]
fn a_key_of_the_same_number_and_another_secret_is_not_tried() {
    let (_, mut opener, known) = pair();
    let mut forger = Sealer::new(node(1), boot(1));
    forger.activate(epoch(7), &secret(8));
    let datagram = forger.seal(b"x").expect("seals");
    assert_eq!(
        opener.open(&datagram, &known),
        Err(OpenError::Forged { sender: node(1) })
    );
}

#[test]
fn no_more_epochs_than_a_rotation_has_are_kept() {
    let mut opener = Opener::default();
    for number in [3, 1, 2, 4] {
        opener.accept(epoch(number), &secret(1));
    }
    assert_eq!(opener.epochs(), [2, 3, 4]);
}

#[test]
fn the_counter_stops_at_its_end_and_goes_on_through_epochs() {
    let (mut sealer, ..) = pair();
    sealer.skip_to(u64::MAX - 1);
    let last = sealer.seal(b"x").expect("the last");
    assert_eq!(Header::split(&last).expect("ours").0.counter, u64::MAX - 1);
    assert_eq!(sealer.seal(b"x"), Err(SealError::Exhausted));
    sealer.activate(epoch(8), &secret(8));
    assert_eq!(sealer.seal(b"x"), Err(SealError::Exhausted));
}

#[test]
fn payloads_fill_a_datagram_and_no_more() {
    let (mut sealer, ..) = pair();
    assert_eq!(
        sealer.seal(&[0; MAX_PAYLOAD]).expect("fits").len(),
        MAX_DATAGRAM
    );
    assert_eq!(
        sealer.seal(&[0; MAX_PAYLOAD + 1]),
        Err(SealError::Length(MAX_PAYLOAD + 1))
    );
    assert_eq!(sealer.seal(&[]), Err(SealError::Length(0)));
    sealer.retire(epoch(7).into());
    assert_eq!(sealer.seal(b"x"), Err(SealError::NoEpoch));
}

#[test]
fn the_published_vectors_hold() {
    let mut fields = BTreeMap::new();
    let mut checked = 0;
    for line in include_str!("vectors.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        if let Some((name, value)) = line.split_once(" = ") {
            let value = HEXLOWER.decode(value.as_bytes()).expect("hexadecimal");
            fields.insert(name, value);
            continue;
        }
        if fields.is_empty() {
            continue;
        }
        let bytes = |name: &str| fields[name].as_slice();
        let number = |name: &str| u32::from_be_bytes(bytes(name).try_into().expect("4 bytes"));
        let name = EpochName {
            incarnation: number("incarnation"),
            number: number("number"),
            hash: [0; 8],
        };
        let secret = Secret::new(bytes("secret").try_into().expect("32 bytes"));
        let sender = NodeId::from_bytes(bytes("sender").try_into().expect("16 bytes"));
        let boot = BootNonce::from_bytes(bytes("boot").try_into().expect("16 bytes"));
        assert_eq!(datagram_key(&secret, sender, boot).expose(), bytes("key"));
        let mut sealer = Sealer::new(sender, boot);
        sealer.activate(name, &secret);
        sealer.skip_to(u64::from_be_bytes(
            bytes("counter").try_into().expect("8 bytes"),
        ));
        let datagram = sealer.seal(bytes("payload")).expect("seals");
        assert_eq!(
            HEXLOWER.encode(&datagram),
            HEXLOWER.encode(bytes("datagram"))
        );
        let mut opener = Opener::default();
        opener.accept(name, &secret);
        let opened = opener
            .open(bytes("datagram"), &Known([(sender, boot)].into()))
            .expect("opens");
        assert_eq!(opened.payload, bytes("payload"));
        fields.clear();
        checked += 1;
    }
    assert_eq!(checked, 3);
}

proptest! {
    #[test]
    fn headers_are_read_as_they_are_written(
        incarnation: u32, number: u32, sender: [u8; 16], boot: [u8; 16], counter: u64,
        sealed in prop::collection::vec(any::<u8>(), TAG_LEN + 1..100),
    ) {
        let header = Header {
            epoch: EpochId { incarnation, number },
            sender: NodeId::from_bytes(sender),
            boot: BootNonce::from_bytes(boot),
            counter,
        };
        let datagram = [&header.encode()[..], &sealed].concat();
        let (read, aad, rest) = Header::split(&datagram).expect("ours");
        prop_assert_eq!(read, header);
        prop_assert_eq!(aad, &header.encode());
        prop_assert_eq!(rest, sealed);
    }

    #[test]
    fn arbitrary_bytes_never_open(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        let (_, mut opener, known) = pair();
        prop_assert!(opener.open(&bytes, &known).is_err());
    }
}
