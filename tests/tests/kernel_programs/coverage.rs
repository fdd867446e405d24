//! Every drop reason is produced by a row, or stands here with where it is tested instead.

use std::collections::BTreeSet;

use overlay_ebpf::abi::{DropReason, program};

/// Where a packet has a security path, which a test run does not make.
const NEVER_ACCEPTED: &str = include_str!("../encrypted_never_accepted.rs");

/// Reasons out of reach of a test run: why, and the test that names them, if there is one.
const ELSEWHERE: [(DropReason, &str, Option<&str>); 4] = [
    (
        DropReason::PlainInEsp,
        "needs a security path",
        Some(NEVER_ACCEPTED),
    ),
    (
        DropReason::UnknownSa,
        "needs a security path",
        Some(NEVER_ACCEPTED),
    ),
    (
        DropReason::SpoofedSpi,
        "needs a security path",
        Some(NEVER_ACCEPTED),
    ),
    (
        DropReason::GsoOverIpv6,
        "a test run makes no GSO type, and `ovl-hop` leaves no such packet to drop",
        None,
    ),
];

#[test]
fn every_drop_reason_has_a_row_or_a_place_elsewhere() {
    let rows: BTreeSet<DropReason> = super::all_rows()
        .iter()
        .filter_map(|row| row.drop.map(|(reason, _)| reason))
        .collect();
    for reason in DropReason::ALL {
        let name = reason.name();
        let elsewhere = ELSEWHERE.iter().find(|(known, ..)| known == reason);
        match (rows.contains(reason), elsewhere) {
            (false, None) => panic!("{name} has neither"),
            (true, Some((_, why, _))) => panic!("{name} has a row: \"{why}\" is wrong"),
            (false, Some((_, _, Some(test)))) => {
                assert!(
                    test.contains(&format!("Reason::{name},")),
                    "{name} is not there"
                );
            }
            _ => {}
        }
    }
}

#[test]
fn every_program_has_rows_for_each_of_its_verdicts() {
    use overlay_tests::testrun::row::Verdict::{Drop, Pass, Redirect};
    let rows: BTreeSet<_> = super::all_rows()
        .iter()
        .map(|row| (row.program, format!("{:?}", row.verdict)))
        .collect();
    for (name, verdicts) in [
        (program::ENDPOINT_TX, &[Drop, Redirect][..]),
        (program::REENTRY, &[Pass, Drop, Redirect]),
        (program::UNDERLAY_RX_XDP, &[Pass, Drop, Redirect]),
        (program::UNDERLAY_RX, &[Pass, Drop, Redirect]),
        (program::DECRYPTED_RX, &[Drop]),
        (program::UNDERLAY_AUDIT, &[Pass, Drop]),
        (program::UNDERLAY_AUDIT_L3, &[Pass, Drop]),
        (program::SINK, &[Drop]),
    ] {
        for verdict in verdicts {
            assert!(
                rows.contains(&(name, format!("{verdict:?}"))),
                "{name}: {verdict:?}"
            );
        }
    }
}

#[test]
fn no_two_rows_are_the_same() {
    let mut names = BTreeSet::new();
    for row in super::all_rows() {
        assert!(
            names.insert((
                row.program,
                row.name.clone(),
                row.ifindex,
                row.packet.clone()
            )),
            "{}: {}",
            row.program,
            row.name
        );
    }
}
