//! The number of the kernel's ruleset, which changes with every transaction of anybody.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
/// Of `struct nlmsghdr` and of `struct nfgenmsg`.
const HEADER: usize = 16;
const FAMILY: usize = 4;
/// Of `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// That of the calling thread's network namespace; `None` if the kernel does not say.
pub(super) fn now() -> Option<u32> {
    let mut buffer = Vec::with_capacity(4096);
    ask(&mut buffer).ok()?;
    parse(&buffer)
}

fn ask(buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
    // The kernel answers within the call that asks.
    socket.recv(buffer, libc::MSG_DONTWAIT)?;
    Ok(())
}

/// Host byte order throughout, as netlink has it.
fn request() -> [u8; HEADER + FAMILY] {
    let mut bytes = [0; HEADER + FAMILY];
    let length = (HEADER + FAMILY) as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN).to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port 0; family, version and resource 0.
    bytes
}

fn parse(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(*answer.get(at..at + 2)?.first_chunk()?));
    if half(4)? != NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN {
        return None;
    }
    let mut at = HEADER + FAMILY;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == NFTA_GEN_ID {
            let value = answer.get(at + ATTRIBUTE..at + length)?;
            // In network byte order.
            return Some(u32::from_be_bytes(value.try_into().ok()?));
        }
        // Attributes are aligned to 4 bytes.
        at += length.max(ATTRIBUTE).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = request().to_vec();
        bytes[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN).to_ne_bytes());
        for (kind, value) in attributes {
            let length = (ATTRIBUTE + value.len()) as u16;
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_number_is_found_among_other_attributes() {
        let bytes = answer(&[(3, b"nft"), (NFTA_GEN_ID, &[0, 0, 1, 2]), (2, &[0; 4])]);
        assert_eq!(parse(&bytes), Some(258));
        assert_eq!(parse(&answer(&[(3, b"nft")])), None);
        assert_eq!(parse(&answer(&[(NFTA_GEN_ID, &[1, 2])])), None);
        assert_eq!(parse(&request()), None, "that is no answer");
    }

    proptest! {
        #[test]
        fn arbitrary_answers_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut answer = answer(&[]);
            answer.extend(bytes);
            parse(&answer);
        }
    }
}
