//! A node before the first apply, or with the configuration of another version: endpoints are
//! closed, and the host's own traffic does not notice.

use overlay_ebpf::abi::ABI_VERSION;
use overlay_tests::testrun::{
    Row, World, frames,
    frames::{IPV4, TCP},
    row,
    world::{A, B, C, LOCAL4, PLAIN, REMOTE4, REMOTE4_MAC, SECRET, UNDERLAY_MAC},
};

use super::common::*;

type Change = fn(&mut World);

pub fn rows() -> Vec<Row> {
    let host = frames::ethernet(
        UNDERLAY_MAC,
        REMOTE4_MAC,
        IPV4,
        &frames::ipv4(REMOTE4, LOCAL4, TCP, &tcp_segment(1, 2, 30)),
    );
    let states: [(&str, Change); 3] = [
        ("before the first apply", |world| world.maps.config = None),
        ("while a change is written", |world| {
            world.config(|config| config.abi_version = 0)
        }),
        ("with the maps of another version", |world| {
            world.config(|config| config.abi_version = ABI_VERSION + 1);
        }),
    ];
    let mut rows = Vec::new();
    for (when, state) in states {
        let mut add = |what: &str, program, packet: &[u8], reason: Option<Reason>| {
            let row = row(format!("{when}, {what}"), program)
                .packet(packet)
                .with(state);
            rows.push(match reason {
                Some(reason) => row.drops(reason).silent(),
                None => row.passes(),
            });
        };
        let closed = Some(Reason::NotConfigured);
        add(
            "nothing leaves for a peer",
            program::ENDPOINT_TX,
            &ping4(A, C).frame,
            closed,
        );
        add(
            "nothing goes to a local endpoint",
            program::ENDPOINT_TX,
            &ping6(A, B).frame,
            closed,
        );
        add(
            "nothing re-enters",
            program::REENTRY,
            &outer4(TO_STACK, SECRET, &ping4(A, C)),
            closed,
        );
        let arriving = arriving4(PLAIN, &ping4(C, A).frame);
        add(
            "nothing decrypted comes in",
            program::DECRYPTED_RX,
            &arriving,
            closed,
        );
        for program in [
            program::UNDERLAY_RX_XDP,
            program::UNDERLAY_RX,
            program::UNDERLAY_AUDIT,
            program::UNDERLAY_AUDIT_L3,
        ] {
            add(
                &format!("`{program}` leaves the host's TCP alone"),
                program,
                &host,
                None,
            );
            add(
                &format!("`{program}` leaves VXLAN to the host"),
                program,
                &arriving,
                None,
            );
        }
    }
    rows
}
