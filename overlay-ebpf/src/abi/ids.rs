//! Identifiers that are not integers: each has one checked constructor.

use core::fmt;

/// Why a number is not the identifier it was offered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// VNIs below 4096 are left to other software; 0 is invalid on the wire for us.
    VniReserved(u32),
    /// A VNI has 24 bits (RFC 7348 section 5).
    VniTooLarge(u32),
    /// A node index has 20 bits and 0 names no node.
    PeerIndexRange(u32),
    /// A lane is below [`Lane::COUNT`].
    LaneRange(u32),
    /// SPIs 0 to 255 are reserved (RFC 4303 section 2.1).
    SpiReserved(u32),
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::VniReserved(vni) => {
                write!(f, "VNI {vni} is reserved: use {} to {}", Vni::MIN, Vni::MAX)
            }
            Self::VniTooLarge(vni) => write!(
                f,
                "VNI {vni} does not fit 24 bits: use {} to {}",
                Vni::MIN,
                Vni::MAX
            ),
            Self::PeerIndexRange(index) => {
                write!(f, "node index {index} is not in 1 to {}", PeerIndex::MAX)
            }
            Self::LaneRange(lane) => write!(f, "lane {lane} is not in 0 to {}", Lane::COUNT - 1),
            Self::SpiReserved(spi) => {
                write!(f, "SPI {spi:#010x} is in the reserved range 0 to 255")
            }
        }
    }
}

impl core::error::Error for IdError {}

/// VXLAN network identifier, 4096 to 2^24−1 (RFC 7348 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct Vni(u32);

impl Vni {
    pub const MIN: u32 = 4096;
    pub const MAX: u32 = (1 << 24) - 1;

    pub const fn new(vni: u32) -> Result<Self, IdError> {
        if vni > Self::MAX {
            Err(IdError::VniTooLarge(vni))
        } else if vni < Self::MIN {
            Err(IdError::VniReserved(vni))
        } else {
            Ok(Self(vni))
        }
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node's index in the cluster: 20 bits, assigned once and never reused; 0 names no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct PeerIndex(u32);

impl PeerIndex {
    pub const MAX: u32 = (1 << 20) - 1;

    pub const fn new(index: u32) -> Result<Self, IdError> {
        if index == 0 || index > Self::MAX {
            Err(IdError::PeerIndexRange(index))
        } else {
            Ok(Self(index))
        }
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PeerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of an epoch: one pair of cluster secrets and the SAs derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Epoch(u32);

impl Epoch {
    pub const fn new(epoch: u32) -> Self {
        Self(epoch)
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Slot of an ordered pair of nodes: which set of SAs of that pair. Advances modulo 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Slot(u8);

impl Slot {
    pub const fn new(slot: u8) -> Self {
        Self(slot)
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the parallel SAs of a slot; chosen by the inner flow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u8", into = "u8"))]
pub struct Lane(u8);

impl Lane {
    /// Lanes per slot at the most: a lane has four bits of the SPI.
    pub const COUNT: u32 = 16;

    pub const fn new(lane: u8) -> Result<Self, IdError> {
        if lane as u32 >= Self::COUNT {
            Err(IdError::LaneRange(lane as u32))
        } else {
            Ok(Self(lane))
        }
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Security parameters index (RFC 4303 section 2.1):
/// `sender index (20 bits) | slot (8 bits) | lane (4 bits)`, so no two senders can collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct Spi(u32);

impl Spi {
    /// The SPI that `sender` writes on the wire. Never reserved: `sender` is at least 1.
    pub const fn of(sender: PeerIndex, slot: Slot, lane: Lane) -> Self {
        Self(sender.0 << 12 | (slot.0 as u32) << 4 | lane.0 as u32)
    }

    /// An SPI as found on the wire or in the kernel, host byte order.
    pub const fn new(spi: u32) -> Result<Self, IdError> {
        if spi < 256 {
            Err(IdError::SpiReserved(spi))
        } else {
            Ok(Self(spi))
        }
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// The sending node, if the SPI follows our scheme.
    pub const fn sender(self) -> Result<PeerIndex, IdError> {
        PeerIndex::new(self.0 >> 12)
    }

    pub const fn slot(self) -> Slot {
        Slot((self.0 >> 4) as u8)
    }

    pub const fn lane(self) -> Lane {
        Lane((self.0 & 0xf) as u8)
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// An Ethernet address in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `02:42:` and the four bytes of an IPv4 address: the default of the reference.
    pub const fn from_ipv4(ip: [u8; 4]) -> Self {
        Self([0x02, 0x42, ip[0], ip[1], ip[2], ip[3]])
    }

    /// Group bit (IEEE 802): broadcast and multicast.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The interface identifier of a link-local address made from this MAC (RFC 4291 appendix A).
    pub const fn eui64(self) -> [u8; 8] {
        let m = self.0;
        [m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            m[0], m[1], m[2], m[3], m[4], m[5]
        )
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 16-byte form of an address in the maps: IPv4 as `::ffff:a.b.c.d`.
pub const fn mapped(ip: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3],
    ]
}

/// Whether a map address is an IPv4 one.
pub const fn is_mapped(address: &[u8; 16]) -> bool {
    let mut i = 0;
    while i < 10 {
        if address[i] != 0 {
            return false;
        }
        i += 1;
    }
    address[10] == 0xff && address[11] == 0xff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vni_rejects_reserved_and_oversized_numbers_by_name() {
        assert_eq!(Vni::new(0), Err(IdError::VniReserved(0)));
        assert_eq!(Vni::new(4095), Err(IdError::VniReserved(4095)));
        assert_eq!(Vni::new(1 << 24), Err(IdError::VniTooLarge(1 << 24)));
        assert_eq!(Vni::new(4096).unwrap().get(), 4096);
    }

    #[test]
    fn spi_names_sender_slot_and_lane() {
        let spi = Spi::of(
            PeerIndex::new(PeerIndex::MAX).unwrap(),
            Slot::new(255),
            Lane::new(15).unwrap(),
        );
        assert_eq!(spi.get(), u32::MAX);
        let spi = Spi::of(
            PeerIndex::new(3).unwrap(),
            Slot::new(7),
            Lane::new(2).unwrap(),
        );
        assert_eq!(
            (
                spi.sender().unwrap().get(),
                spi.slot().get(),
                spi.lane().get()
            ),
            (3, 7, 2)
        );
        assert!(Spi::new(spi.get()).is_ok());
    }

    #[test]
    fn default_mac_carries_the_ipv4_address() {
        extern crate std;
        use std::string::ToString as _;
        assert_eq!(
            MacAddr::from_ipv4([10, 0, 9, 2]).to_string(),
            "02:42:0a:00:09:02"
        );
    }
}

/// A text that is not six pairs of hexadecimal digits between colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMacAddr;

impl fmt::Display for NoMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no MAC address: write six bytes as 02:42:0a:00:00:01")
    }
}

impl core::error::Error for NoMacAddr {}

impl core::str::FromStr for MacAddr {
    type Err = NoMacAddr;

    fn from_str(text: &str) -> Result<Self, NoMacAddr> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(NoMacAddr)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NoMacAddr);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoMacAddr)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(NoMacAddr),
        }
    }
}

/// Identifiers in files and messages: checked as they are read.
#[cfg(feature = "serde")]
mod serialized {
    use core::fmt;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{IdError, Lane, MacAddr, PeerIndex, Spi, Vni};

    macro_rules! checked {
        ($($id:ident: $number:ty),+) => {$(
            impl TryFrom<$number> for $id {
                type Error = IdError;

                fn try_from(number: $number) -> Result<Self, IdError> {
                    Self::new(number)
                }
            }

            impl From<$id> for $number {
                fn from(id: $id) -> Self {
                    id.get()
                }
            }
        )+};
    }

    checked!(Vni: u32, PeerIndex: u32, Lane: u8, Spi: u32);

    /// Text in formats for people, six bytes in others.
    impl Serialize for MacAddr {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if serializer.is_human_readable() {
                serializer.collect_str(self)
            } else {
                self.0.serialize(serializer)
            }
        }
    }

    impl<'de> Deserialize<'de> for MacAddr {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            if deserializer.is_human_readable() {
                deserializer.deserialize_str(Text)
            } else {
                <[u8; 6]>::deserialize(deserializer).map(MacAddr)
            }
        }
    }

    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = MacAddr;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a MAC address as six pairs of hexadecimal digits between colons")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<MacAddr, E> {
            text.parse()
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
}
