//! Values of the ICMPv6 type field (IANA registry "ICMPv6 Parameters").

/// Packet too big (RFC 4443 section 3.2). Types below 128 are errors.
pub const PACKET_TOO_BIG: u8 = 2;
pub const ECHO_REQUEST: u8 = 128;
pub const ECHO_REPLY: u8 = 129;
/// Multicast listener query (RFC 2710, RFC 3810).
pub const MLD_QUERY: u8 = 130;
/// Multicast listener report, version 1 (RFC 2710).
pub const MLD_REPORT: u8 = 131;
/// Multicast listener done (RFC 2710).
pub const MLD_DONE: u8 = 132;
pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;
/// Multicast listener report, version 2 (RFC 3810).
pub const MLD_REPORT_V2: u8 = 143;
