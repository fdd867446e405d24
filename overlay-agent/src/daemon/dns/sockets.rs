//! The sockets of a resolver.

use std::{
    io,
    net::{SocketAddrV4, TcpListener, UdpSocket},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, listen, socket_with,
    sockopt::{set_ip_freebind, set_socket_reuseaddr},
};

use super::serve::Sockets;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    #[error(
        "a process in it has {0} {1}: end that process, or give it another address, and attach again"
    )]
    Taken(&'static str, SocketAddrV4),
    #[error("cannot {attempt}: {source}")]
    Socket {
        attempt: &'static str,
        source: io::Error,
    },
}

/// Sockets that no runtime serves yet: they are opened on a thread that ends.
#[derive(Debug)]
pub struct Opened {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// Opens the sockets in the network namespace of the calling thread.
pub fn open(address: SocketAddrV4) -> Result<Opened, SocketsError> {
    let open = |kind, protocol| {
        let refused = |attempt| {
            move |error: rustix::io::Errno| match error {
                rustix::io::Errno::ADDRINUSE => SocketsError::Taken(protocol, address),
                error => SocketsError::Socket {
                    attempt,
                    source: error.into(),
                },
            }
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, kind, flags, None)
            .map_err(refused("open a socket"))?;
        // The loopback device may come up later.
        set_ip_freebind(&socket, true).map_err(refused("set IP_FREEBIND"))?;
        if kind == SocketType::STREAM {
            // Connections of a resolver before may still be closing.
            set_socket_reuseaddr(&socket, true).map_err(refused("set SO_REUSEADDR"))?;
        }
        bind(&socket, &address).map_err(refused("bind to port 53"))?;
        if kind == SocketType::STREAM {
            listen(&socket, BACKLOG).map_err(refused("listen"))?;
        }
        Ok(socket)
    };
    Ok(Opened {
        udp: open(SocketType::DGRAM, "UDP")?.into(),
        tcp: open(SocketType::STREAM, "TCP")?.into(),
    })
}

impl Opened {
    /// Gives the sockets to the runtime of the caller.
    pub fn serve(self) -> Result<Sockets, SocketsError> {
        let refused = |source| SocketsError::Socket {
            attempt: "serve the sockets",
            source,
        };
        Ok(Sockets {
            udp: tokio::net::UdpSocket::from_std(self.udp).map_err(refused)?,
            tcp: tokio::net::TcpListener::from_std(self.tcp).map_err(refused)?,
        })
    }
}
