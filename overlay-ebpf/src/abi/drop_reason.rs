//! Why a packet was dropped, and where. Shared with user space by number: append, never renumber.

use bytemuck::{CheckedBitPattern, NoUninit};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:tt, $text:literal;)+) => {
        /// Why a packet was dropped.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, NoUninit, CheckedBitPattern)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// Every reason, ascending.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The variant's name, as `bpftool` prints it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// A few words for an operator.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What happened, in a sentence.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// A header ends beyond the end of the frame.
    TooShort = 1, "frame shorter than its headers say";
    /// An 802.1Q or 802.1ad tag inside (RFC 7348 section 6.1: SHOULD be discarded).
    VlanTag = 2, "inner VLAN tag";
    /// The source MAC has the group bit set.
    SourceMacMulticast = 3, "group bit in the source MAC";
    /// The program runs on a device that `local_ports` does not know.
    UnknownPort = 4, "device is no endpoint's";
    /// `networks` has no entry for the VNI: the network is closed on this node.
    UnknownNetwork = 5, "VNI not configured here";
    /// A container sent from a MAC that is not its own.
    SpoofedMac = 6, "source MAC is not the endpoint's";
    /// The source IP, or the sender in ARP or ND, belongs to another endpoint or to none.
    SpoofedAddress = 7, "source address is not the endpoint's";
    /// A peer delivered a frame from an endpoint that is not on it.
    SourceNotOwned = 8, "peer does not own the source endpoint";
    /// A peer delivered a frame of a VNI in which it hosts no endpoint.
    NotMember = 9, "peer does not share the network";
    /// No endpoint of the network has the destination MAC.
    UnknownDestination = 10, "unknown unicast destination";
    /// The network does not replicate, or the frame is not for replication.
    MulticastNotReplicated = 11, "broadcast or multicast, replication off";
    /// No endpoint of the network has the address asked for.
    UnknownNeighbour = 12, "ARP or ND target unknown";
    /// A peer delivered a frame for an endpoint that is elsewhere.
    DestinationNotLocal = 13, "destination endpoint is not on this node";
    /// The endpoint's node has no entry in `peers`.
    NoPeer = 14, "peer entry missing";
    /// The network is encrypted and the peer has no live outbound SA.
    NoOutboundSa = 15, "no live outbound SA (barrier 1)";
    /// The underlay has no route or no resolved neighbour for a plain frame.
    NoRoute = 16, "no route or neighbour to the peer";
    /// The encapsulated packet would exceed the path MTU; the container was told.
    FrameTooBig = 17, "frame too large for the path";
    /// The kernel refused to make room for the outer headers.
    EncapFailed = 18, "no room for the outer headers";
    /// The kernel refused to remove the outer headers.
    DecapFailed = 19, "outer headers could not be removed";
    /// A GSO packet with `gso_segs = 0` was about to reach XFRM, where it would repeat a nonce.
    GsoSegsZero = 20, "GSO packet without a segment count";
    /// A packet to our port, or ESP with an SPI of ours, did not come from `endpoint_tx`: a local process made it.
    LocalInjection = 21, "locally injected underlay packet";
    /// Something other than our packets appeared on `ovl-hop`, `ovl-in`, `ovl-xfrm` or `ovl-gro`.
    ForeignTraffic = 22, "traffic on a device of ours that is not ours";
    /// Cleartext VXLAN of an encrypted or unknown VNI came in or was on its way out, or a packet for XFRM was, not as ESP.
    CleartextEncryptedVni = 23, "cleartext VXLAN of an encrypted VNI (barrier 3)";
    /// A fragment of UDP between VTEPs: encapsulated packets carry DF and are never fragmented.
    UnderlayFragment = 24, "fragment of an underlay datagram";
    /// VXLAN, or ESP with an SPI of ours, from an address that is no peer's.
    UnknownVtep = 25, "outer source is not a peer's VTEP";
    /// A GSO packet was about to reach ESP over IPv6, whose segments repeat IVs in the kernel: it should have been segmented before.
    GsoOverIpv6 = 26, "GSO packet on its way to ESP over IPv6";
    /// The outer header has options or extension headers; ours never have.
    OuterIpOptions = 27, "IP options or extension headers outside";
    /// The outer UDP length field is not what the IP header leaves for it.
    BadUdpLength = 28, "outer UDP length disagrees with the IP length";
    /// The I flag is missing or a reserved field is not zero (RFC 7348 section 5).
    BadVxlanFlags = 29, "VXLAN flags or reserved bits";
    /// VNI 0 is no network.
    VniZero = 30, "VNI 0";
    /// A frame of an unencrypted network came through IPsec.
    PlainInEsp = 31, "plain network's VNI inside IPsec";
    /// A packet was decrypted by an SA with our `if_id` that the agent did not install.
    UnknownSa = 32, "SA on our interface that is not ours";
    /// The SA that decrypted a packet belongs to another peer than the outer source.
    SpoofedSpi = 33, "SPI does not belong to the outer source";
    /// Outer CE on an inner Not-ECT packet (RFC 6040 section 4.2).
    EcnCongestion = 34, "congestion mark on a packet that is not ECN-capable";
    /// `config` is empty or of another ABI version.
    NotConfigured = 35, "data plane not configured";
    /// The kernel refused to clone the frame for a target of the flood list.
    MulticastReplicationFailed = 36, "replication to some targets failed";
}

/// Where in its path a packet was dropped.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, NoUninit, CheckedBitPattern)]
pub enum Direction {
    /// A frame that leaves a container.
    FromEndpoint = 1,
    /// A packet on its way to the wire.
    ToUnderlay = 2,
    /// A packet from the wire.
    FromUnderlay = 3,
    /// A packet that IPsec has decrypted.
    FromIpsec = 4,
    /// A packet on a device of the overlay itself.
    Internal = 5,
}

impl Direction {
    pub const ALL: &[Self] = &[
        Self::FromEndpoint,
        Self::ToUnderlay,
        Self::FromUnderlay,
        Self::FromIpsec,
        Self::Internal,
    ];

    /// The variant's name, as `bpftool` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromEndpoint => "FromEndpoint",
            Self::ToUnderlay => "ToUnderlay",
            Self::FromUnderlay => "FromUnderlay",
            Self::FromIpsec => "FromIpsec",
            Self::Internal => "Internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_from_one() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position + 1, "{}", reason.name());
        }
    }

    #[test]
    fn every_reason_explains_itself_in_a_sentence() {
        for reason in DropReason::ALL {
            assert!(
                reason.explanation().trim_end().ends_with('.'),
                "{}",
                reason.name()
            );
            assert!(!reason.text().is_empty());
        }
    }
}
