//! Whether `bpf_redirect_peer` delivers a packet as a device would.
//!
//! It used to hand a packet over as it was, with its security path: a container, which has no policy
//! for that, drops such a packet (`XfrmInNoPols`). Since "bpf: Scrub packet on bpf_redirect_peer"
//! (Linux 6.16, stable kernels of 2025) it calls `skb_scrub_packet`, which drops the security path,
//! and makes the packet one for this host, whomever it was addressed to. The latter shows without
//! IPsec.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth},
};

use super::{
    bpf::{self, BpfError},
    features, links,
    netns::{self, Netns},
    rtnl,
};

/// Name of both ends of the pair, each in its namespace.
const DEVICE: &str = "probe";
/// IEEE 802 "Local Experimental Ethertype 1": the kernel has no protocol for it.
const ETHER_TYPE: u16 = 0x88b5;
/// The frame comes back within the call that sends it, or in a softirq soon after.
const LOOKS: u32 = 1000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a network namespace to try it in: {0}")]
    Namespace(io::Error),
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error(transparent)]
    Rtnl(#[from] rtnl::Error),
    #[error(transparent)]
    Links(#[from] links::Error),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error("packet socket: {0}")]
    Socket(io::Error),
    #[error("the frame did not come back")]
    Lost,
}

/// In namespaces that end with the attempt: sends a frame for another host out of a container, has
/// it sent back there by `bpf_redirect_peer`, and looks for whom the kernel takes it then.
pub async fn scrubs() -> Result<bool, Error> {
    features::on_thread(attempt)
        .await
        .map_err(Error::Namespace)?
}

async fn attempt() -> Result<bool, Error> {
    features::unshare_network().map_err(Error::Namespace)?;
    let container = Netns::current()?;
    let inside = rtnl::Handle::open()?;
    // It receives nothing before it is bound.
    let socket = packet_socket().map_err(Error::Socket)?;
    features::unshare_network().map_err(Error::Namespace)?;
    let host = rtnl::Handle::open()?;

    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(DEVICE)
        .setns_by_fd(container.as_fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(DEVICE, DEVICE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    links::add(&host, DEVICE, pair).await?;
    for handle in [&inside, &host] {
        let up = LinkUnspec::new_with_index(links::index(handle, DEVICE).await?).up();
        links::change(handle, format!("bring device {DEVICE} up"), up.build()).await?;
    }
    bind(&socket, links::index(&inside, DEVICE).await?).map_err(Error::Socket)?;
    let _attached = bpf::return_to_peer(links::index(&host, DEVICE).await?)?;

    let mut frame = [0u8; 60];
    // Nobody's address, nobody's address, type.
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    rustix::io::write(&socket, &frame).map_err(|error| Error::Socket(error.into()))?;
    for _ in 0..LOOKS {
        match packet_type(&socket) {
            Ok(found) => return Ok(found == libc::PACKET_HOST),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(BETWEEN_LOOKS),
            Err(error) => return Err(Error::Socket(error)),
        }
    }
    Err(Error::Lost)
}

fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that is not negative is new and ours.
    unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// To the frames of our type on a device. A socket does not see those that it sent itself.
fn bind(socket: &OwnedFd, ifindex: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHER_TYPE.to_be(),
        sll_ifindex: ifindex as i32,
        ..no_address()
    };
    // SAFETY: the address is of the family of the socket, and the length is its own.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes a frame; for whom it is (`PACKET_HOST`, …).
fn packet_type(socket: &OwnedFd) -> io::Result<u8> {
    let mut address = no_address();
    let mut length = size_of_val(&address) as u32;
    // SAFETY: no bytes of the frame are asked for; `address` is writable for `length` bytes.
    let result = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            0,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(address.sll_pkttype)
    }
}

fn no_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}
