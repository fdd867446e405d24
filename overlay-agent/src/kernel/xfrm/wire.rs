//! Netlink messages: a zeroized request, and readers that copy nothing.

use rtnetlink::packet_core::Emitable;
use zeroize::Zeroizing;

use super::Error;

/// `struct nlmsghdr` (linux/netlink.h).
pub(super) const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Flags in the type of an attribute: nested, network byte order.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// Larger than any request of ours with the largest replay window, so that the buffer never moves
/// and leaves no key behind.
const REQUEST_CAPACITY: usize = 1536;

/// One netlink request, zeroized when dropped.
pub(super) struct Request(Zeroizing<Vec<u8>>);

impl Request {
    /// A request of an XFRM message type with its fixed part; `flags` are added to `NLM_F_REQUEST`.
    pub(super) fn new(kind: u16, flags: u16, body: &impl Emitable) -> Self {
        let mut request = Self::without_body(kind, flags);
        let start = request.0.len();
        request.0.resize(start + body.buffer_len(), 0);
        body.emit(&mut request.0[start..]);
        request.set_length();
        request
    }

    pub(super) fn without_body(kind: u16, flags: u16) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(REQUEST_CAPACITY));
        bytes.resize(HEADER_LEN, 0);
        let flags = libc::NLM_F_REQUEST as u16 | flags;
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        let mut request = Self(bytes);
        request.set_length();
        request
    }

    /// Appends an attribute whose value is the concatenation of `parts`.
    pub(super) fn attribute(mut self, kind: u16, parts: &[&[u8]]) -> Self {
        let length = ATTRIBUTE_HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        let padded = length.next_multiple_of(4);
        debug_assert!(self.0.len() + padded <= REQUEST_CAPACITY);
        self.0.reserve_exact(padded);
        self.0.extend_from_slice(&(length as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        for part in parts {
            self.0.extend_from_slice(part);
        }
        let end = self.0.len() + padded - length;
        self.0.resize(end, 0);
        self.set_length();
        self
    }

    fn set_length(&mut self) {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(super) fn bytes_with_sequence(&mut self, sequence: u32) -> &[u8] {
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// One message of an answer.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages of one datagram.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = read_message(&mut bytes);
        if message.is_err() {
            bytes = &[];
        }
        Some(message)
    })
}

fn read_message<'a>(bytes: &mut &'a [u8]) -> Result<Message<'a>, Error> {
    let short = || malformed("a netlink message", "it ends early");
    let length = u32_at(bytes, 0).ok_or_else(short)? as usize;
    let message = bytes
        .get(..length)
        .filter(|_| length >= HEADER_LEN)
        .ok_or_else(short)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Ok(Message {
        kind: u16_at(message, 4).ok_or_else(short)?,
        flags: u16_at(message, 6).ok_or_else(short)?,
        sequence: u32_at(message, 8).ok_or_else(short)?,
        body: &message[HEADER_LEN..],
    })
}

/// The attributes of a message behind its fixed part.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let attribute = read_attribute(&mut bytes);
        if attribute.is_err() {
            bytes = &[];
        }
        Some(attribute)
    })
}

fn read_attribute<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), Error> {
    let short = || malformed("a netlink attribute", "it ends early");
    let length = u16_at(bytes, 0).ok_or_else(short)? as usize;
    let kind = u16_at(bytes, 2).ok_or_else(short)? & ATTRIBUTE_TYPE_MASK;
    let value = bytes.get(ATTRIBUTE_HEADER_LEN..length).ok_or_else(short)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Ok((kind, value))
}

pub(super) fn malformed(what: &'static str, reason: impl ToString) -> Error {
    Error::Malformed {
        what,
        reason: reason.to_string(),
    }
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset + 2)?;
    field.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset + 4)?;
    field.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_come_back_as_written() {
        let mut request = Request::without_body(0x10, 4)
            .attribute(31, &[&7u32.to_ne_bytes()])
            .attribute(18, &[b"abc", b"de"]);
        let bytes = request.bytes_with_sequence(9).to_vec();
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!(
            (message.kind, message.flags, message.sequence),
            (0x10, 5, 9)
        );
        let found: Vec<_> = attributes(message.body).map(Result::unwrap).collect();
        assert_eq!(found, [(31, &7u32.to_ne_bytes()[..]), (18, &b"abcde"[..])]);
    }

    #[test]
    fn request_never_moves_its_buffer() {
        let request = Request::without_body(0x10, 0);
        let before = request.0.as_ptr();
        let request = request
            .attribute(23, &[&[0; 24 + 4096 / 8]])
            .attribute(18, &[&[0; 200]]);
        assert_eq!(request.0.as_ptr(), before);
    }

    proptest! {
        #[test]
        fn noise_is_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
