//! Sockets of a local process that wants to inject, or to be segmented by the kernel.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use crate::lab::{Family, Netns, set_mark, set_option};

/// include/uapi/linux/udp.h
const UDP_SEGMENT: libc::c_int = 103;

/// A UDP socket whose packets bear a mark; bound to this address and any port.
pub fn marked_udp(netns: &Netns, own: IpAddr, mark: u32) -> Result<UdpSocket> {
    netns
        .enter(|| {
            let socket = UdpSocket::bind((own, 0))?;
            set_mark(&socket, mark)?;
            Ok::<_, io::Error>(socket)
        })?
        .with_context(|| format!("open a marked UDP socket in {}", netns.name()))
}

/// A UDP socket to an address, whose writes the kernel cuts into datagrams of `size` bytes as late
/// as it can (`UDP_SEGMENT`, udp(7)).
pub fn segmenting_udp(netns: &Netns, to: SocketAddr, size: u16) -> Result<UdpSocket> {
    netns
        .enter(|| {
            let socket = UdpSocket::bind((Family::of(to.ip()).unspecified(), 0))?;
            socket.connect(to)?;
            set_option(&socket, libc::SOL_UDP, UDP_SEGMENT, libc::c_int::from(size))?;
            Ok::<_, io::Error>(socket)
        })?
        .with_context(|| format!("open a segmenting UDP socket in {}", netns.name()))
}

/// A raw socket for IPv4 packets with their header (`IPPROTO_RAW`, raw(7)), marked.
pub fn marked_raw_ipv4(netns: &Netns, mark: u32) -> Result<RawIpv4> {
    netns
        .enter(|| {
            // SAFETY: takes no pointers.
            let fd = unsafe {
                libc::socket(
                    libc::AF_INET,
                    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                    libc::IPPROTO_RAW,
                )
            };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: `fd` was just opened and nobody else owns it.
            let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            set_mark(&socket, mark)?;
            // A `UdpSocket` only for its send call, which suits any socket.
            Ok::<_, io::Error>(RawIpv4(socket))
        })?
        .with_context(|| format!("open a raw IPv4 socket in {}", netns.name()))
}

/// See [`marked_raw_ipv4`].
#[derive(Debug)]
pub struct RawIpv4(UdpSocket);

impl RawIpv4 {
    /// Sends a packet from its IP header on. An error is the kernel's refusal.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        self.0.send_to(packet, SocketAddr::new(to, 0)).map(drop)
    }
}
