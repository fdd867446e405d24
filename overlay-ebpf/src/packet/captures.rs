//! Frames that Linux 6.18 sent between two network namespaces, as the wire saw them.

/// Bytes from hexadecimal digits.
const fn hex<const N: usize>(digits: &str) -> [u8; N] {
    const fn value(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    let digits = digits.as_bytes();
    assert!(digits.len() == 2 * N);
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = value(digits[2 * i]) << 4 | value(digits[2 * i + 1]);
        i += 1;
    }
    bytes
}

/// ARP request of 192.0.2.10 for 192.0.2.11.
pub const ARP_REQUEST: [u8; 42] =
    hex("ffffffffffff02000000000a0806000108000604000102000000000ac000020a000000000000c000020b");

/// The answer: 192.0.2.11 is at 02:00:00:00:00:0b.
pub const ARP_REPLY: [u8; 42] =
    hex("02000000000a02000000000b0806000108000604000202000000000bc000020b02000000000ac000020a");

/// Neighbour solicitation of 2001:db8::a for 2001:db8::b.
pub const SOLICITATION: [u8; 86] = hex(
    "3333ff00000b02000000000a86dd6000000000203aff20010db800000000000000000000000aff0200000000000000000001ff00000b87001c030000000020010db800000000000000000000000b010102000000000a",
);

/// The answer to [`SOLICITATION`]: 2001:db8::b is at 02:00:00:00:00:0b.
pub const ADVERTISEMENT: [u8; 86] = hex(
    "02000000000a02000000000b86dd6000000000203aff20010db800000000000000000000000b20010db800000000000000000000000a88008a4d6000000020010db800000000000000000000000b020102000000000b",
);

/// Duplicate-address probe for fe80::ff:fe00:a, with the nonce option of RFC 7527.
pub const PROBE: [u8; 86] = hex(
    "3333ff00000a02000000000a86dd6000000000203aff00000000000000000000000000000000ff0200000000000000000001ff00000a870087c600000000fe80000000000000000000fffe00000a0e01127f576d7d57",
);

/// Neighbour advertisement without an option, in answer to an unreachability probe.
pub const BARE_ADVERTISEMENT: [u8; 78] = hex(
    "02000000000b02000000000a86dd6000000000183aff20010db800000000000000000000000afe80000000000000000000fffe00000b8800de9a4000000020010db800000000000000000000000a",
);

/// Router solicitation, with a source link-layer option.
pub const ROUTER_SOLICITATION: [u8; 70] = hex(
    "33330000000202000000000a86dd6000000000103afffe80000000000000000000fffe00000aff02000000000000000000000000000285007b1a00000000010102000000000a",
);

/// An echo request that the kernel's vxlan device sent from 192.0.2.10 to 192.0.2.11 with VNI 4097,
/// `df set ttl 64`; up to the end of the inner Ethernet header. The inner frame has 98 bytes.
pub const VXLAN_V4: [u8; 64] = hex(
    "02000000000b02000000000a080045000086142440004011a22dc000020ac000020bd03a12b500728499080000000010010002420a00090302420a0009020800",
);

/// The same from 2001:db8::a to 2001:db8::b with VNI 70000, `udp6zerocsumtx ttl 64`.
pub const VXLAN_V6: [u8; 84] = hex(
    "02000000000b02000000000a86dd600000000072114020010db800000000000000000000000a20010db800000000000000000000000beddc12b500720000080000000111700002420a000a0302420a000a020800",
);
