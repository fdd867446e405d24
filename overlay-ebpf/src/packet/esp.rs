//! The start of an ESP packet (RFC 4303 section 2): all of it that is readable without the key.

use super::bytes;

/// Bytes of SPI and sequence number.
pub const HEADER_LEN: usize = 8;

/// SPI and sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Esp {
    /// Below 256 reserved (RFC 4303 section 2.1); 0 never on the wire.
    pub spi: u32,
    /// Lower 32 bits of the sequence number; the upper ones of an extended one are not sent
    /// (RFC 4303 section 2.2.1).
    pub sequence: u32,
}

impl Esp {
    #[inline(always)]
    pub const fn parse(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            spi: bytes::be32::<0, _>(header),
            sequence: bytes::be32::<4, _>(header),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spi_comes_before_the_sequence_number() {
        assert_eq!(
            Esp::parse(&[0x00, 0x00, 0x31, 0x02, 0xff, 0xff, 0xff, 0xfe]),
            Esp {
                spi: 0x3102,
                sequence: 0xffff_fffe,
            }
        );
    }
}
