//! Every program on the running kernel, by tables of packets in and packets out
//! (`BPF_PROG_TEST_RUN`).
//!
//! What a test run cannot show: where a redirected packet arrives, GSO (it makes no GSO types), and
//! the security path of a decrypted packet. The namespace and encrypted tests show those.

mod anti_spoofing;
mod arp;
mod audit;
mod common;
mod coverage;
mod decapsulate;
mod decrypted;
mod encapsulate;
mod esp_in_udp;
mod flood;
mod internal;
mod malformed;
mod nd;
mod receive;
mod too_big;
mod unconfigured;
mod xdp;

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $name:ident: $module:ident;)+) => {
        $(#[test]
        fn $name() {
            overlay_tests::testrun::run($module::rows());
        })+

        /// Every row of every table.
        fn all_rows() -> Vec<overlay_tests::testrun::Row> {
            [$($module::rows()),+].concat()
        }
    };
}

tables! {
    /// `endpoint_tx`: ARP.
    arp_is_answered_for_other_endpoints_only: arp;
    /// `endpoint_tx`: neighbour discovery.
    nd_is_answered_for_other_endpoints_only: nd;
    /// `endpoint_tx`: sources.
    containers_send_only_as_themselves: anti_spoofing;
    /// `endpoint_tx`: frames that are none.
    malformed_frames_do_not_leave: malformed;
    /// `endpoint_tx`: path MTU.
    containers_are_told_of_the_mtu: too_big;
    /// `endpoint_tx`: to a local endpoint or a peer.
    frames_are_encapsulated_for_their_peer: encapsulate;
    /// `endpoint_tx` and `underlay_rx`: broadcast and multicast.
    frames_are_replicated_where_the_network_does: flood;
    /// `reentry`, `sink`.
    devices_of_the_overlay_carry_its_packets_only: internal;
    /// `underlay_audit`.
    cleartext_does_not_leave: audit;
    /// `underlay_rx_xdp`, `underlay_rx`: what both refuse, and what is not theirs.
    what_peers_may_not_deliver_is_refused: receive;
    /// `underlay_rx_xdp`, `underlay_rx`, `underlay_audit`: ESP in UDP.
    esp_in_udp_of_peers_becomes_esp: esp_in_udp;
    /// `underlay_rx_xdp`: what it decapsulates itself.
    xdp_takes_what_gains_nothing_from_gro: xdp;
    /// `underlay_rx`.
    plain_frames_are_decapsulated: decapsulate;
    /// `decrypted_rx`.
    only_ipsec_delivers_on_the_xfrm_interface: decrypted;
    /// Every program before the first apply.
    an_unconfigured_node_leaves_the_host_alone: unconfigured;
}
