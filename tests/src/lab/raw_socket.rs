//! Frames as they are, on one device (packet(7)).

use std::{
    io,
    mem::size_of,
    net::UdpSocket,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::Netns;

/// include/uapi/linux/if_packet.h
pub(super) const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Large enough for a frame of a GSO packet.
const LARGEST: usize = 256 * 1024;

/// A packet socket bound to a device.
#[derive(Debug)]
pub struct RawSocket {
    // A `UdpSocket` only for its receive, send and time-out calls, which suit any socket.
    socket: UdpSocket,
    vnet: bool,
}

/// What stands before a frame on a socket with `PACKET_VNET_HDR`: `struct virtio_net_hdr` of
/// include/uapi/linux/virtio_net.h, in the machine's byte order.
#[derive(Debug, Clone, Copy, Default)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub header_length: u16,
    pub gso_size: u16,
    pub checksum_start: u16,
    pub checksum_offset: u16,
}

impl VnetHeader {
    pub const NEEDS_CHECKSUM: u8 = 1;
    pub const GSO_TCP_V4: u8 = 1;
    pub const GSO_TCP_V6: u8 = 4;
    pub const GSO_UDP_L4: u8 = 5;

    fn bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let words = [
            self.header_length,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl RawSocket {
    /// Opens one for all protocols on a device of a namespace. It also receives what others send
    /// on the device.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        Self::with_options(netns, device, false, false)
    }

    /// As [`RawSocket::open`], to send with [`RawSocket::send_with_header`].
    pub fn open_vnet(netns: &Netns, device: &str) -> Result<Self> {
        Self::with_options(netns, device, false, true)
    }

    /// As [`RawSocket::open`], but receives only what arrives.
    pub fn open_receiver(netns: &Netns, device: &str) -> Result<Self> {
        Self::with_options(netns, device, true, false)
    }

    fn with_options(netns: &Netns, device: &str, ignore_own: bool, vnet: bool) -> Result<Self> {
        netns
            .enter(|| {
                let socket = packet_socket()?;
                bind_packet_socket(&socket, interface_index(device)?)?;
                let large: libc::c_int = 64 << 20;
                set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, large)?;
                if ignore_own {
                    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
                }
                if vnet {
                    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
                }
                let socket = UdpSocket::from(socket);
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                Ok::<_, io::Error>(Self { socket, vnet })
            })?
            .with_context(|| format!("open a packet socket on {device} in {}", netns.name()))
    }

    /// Marks every packet that it sends.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        set_mark(&self.socket, mark).context("mark a packet socket")
    }

    /// Sends a frame from its Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        if self.vnet {
            return self.send_with_header(VnetHeader::default(), frame);
        }
        self.socket
            .send(frame)
            .map(drop)
            .context("send on a packet socket")
    }

    /// Sends a frame with offloads asked for.
    pub fn send_with_header(&self, header: VnetHeader, frame: &[u8]) -> Result<()> {
        let bytes = [&header.bytes(), frame].concat();
        self.socket
            .send(&bytes)
            .map(drop)
            .context("send on a packet socket with a vnet header")
    }

    /// The next frame, or none within 50 ms. It stands in the buffer, which grows to any frame's size
    /// once.
    pub fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>> {
        if buffer.len() < LARGEST {
            *buffer = vec![0; LARGEST];
        }
        match self.socket.recv(buffer) {
            Ok(length) => Ok(Some(&buffer[..length])),
            // ENETDOWN: the device went down; it may come back.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::NetworkDown
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("receive on a packet socket"),
        }
    }

    /// The first frame that this says yes to, within the limit.
    pub fn wait_for(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        let mut buffer = Vec::new();
        while Instant::now() < deadline {
            if let Some(frame) = self.receive(&mut buffer)?
                && wanted(frame)
            {
                return Ok(Some(frame.to_vec()));
            }
        }
        Ok(None)
    }
}

/// A packet socket that receives nothing yet, because protocol 0 is none.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets it receive all protocols on the device with this index in its namespace.
pub(crate) fn bind_packet_socket(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: libc::c_int::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a `sockaddr_ll` of the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The index of a device of this thread's namespace. Not `/sys/class/net`, which belongs to the
/// namespace in which it was mounted.
pub(super) fn interface_index(device: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: `name` is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(index)
}

/// Marks every packet that a socket sends (`SO_MARK`).
pub(crate) fn set_mark(socket: &impl AsRawFd, mark: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, mark)
}

/// Sets an option whose value is an int or a structure of C.
pub(crate) fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the option value is a `T` of the length given, and the kernel reads no more of it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
