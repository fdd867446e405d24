//! Word from the kernel that something has changed.
//!
//! The multicast groups of rtnetlink, XFRM and nftables tell *that* something happened; what it was
//! is found by observing everything, which also finds what a lost message would have told. Hence
//! only the header of a message is read: the rest of an XFRM message holds the key of its SA, and
//! never enters this process.

use std::{fmt, io};

use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
};

/// `struct nlmsghdr` (include/uapi/linux/netlink.h).
const HEADER_LEN: usize = 16;
/// Messages of a burst that the kernel keeps for us, bytes; a longer burst is an
/// [`Origin::Overrun`], which is as good a reason to look.
const QUEUE: libc::c_int = 1 << 20;

/// Groups of rtnetlink (`RTNLGRP_*`, include/uapi/linux/rtnetlink.h).
const ROUTE_GROUPS: [(u32, &str); 10] = [
    (1, "LINK"),
    (4, "TC"),
    (5, "IPV4_IFADDR"),
    (7, "IPV4_ROUTE"),
    (8, "IPV4_RULE"),
    (9, "IPV6_IFADDR"),
    (11, "IPV6_ROUTE"),
    (19, "IPV6_RULE"),
    (24, "IPV4_NETCONF"),
    (25, "IPV6_NETCONF"),
];

/// Groups of XFRM (`XFRMNLGRP_*`, include/uapi/linux/xfrm.h).
const XFRM_GROUPS: [(u32, &str); 4] = [(1, "ACQUIRE"), (2, "EXPIRE"), (3, "SA"), (4, "POLICY")];

/// Groups of nfnetlink (`NFNLGRP_*`, include/uapi/linux/netfilter/nfnetlink.h).
const NETFILTER_GROUPS: [(u32, &str); 1] = [(7, "NFTABLES")];

/// Which part of the kernel spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Links, addresses, routes, rules, TC filters, or the settings that rtnetlink tells of.
    Route,
    Xfrm,
    Nftables,
    /// More happened than the kernel kept for us.
    Overrun,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Route => "rtnetlink",
            Self::Xfrm => "XFRM",
            Self::Nftables => "nftables",
            Self::Overrun => "more than the kernel kept",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a {family} netlink socket: {error}")]
    Open {
        family: &'static str,
        error: io::Error,
    },
    #[error(
        "cannot join {family} group {group}: {error} (CAP_NET_ADMIN in this network namespace is needed)"
    )]
    Join {
        family: &'static str,
        group: &'static str,
        error: io::Error,
    },
    #[error("cannot read from a {family} netlink socket: {error}")]
    Receive {
        family: &'static str,
        error: io::Error,
    },
}

/// Listens in the network namespace in which it was opened.
pub struct Monitor {
    route: Listener,
    xfrm: Listener,
    /// `None` where the kernel has no nfnetlink: then there is no nftables either.
    netfilter: Option<Listener>,
}

impl Monitor {
    /// Joins all groups. What happens from then on is told.
    pub fn open() -> Result<Self, Error> {
        let netfilter = match Listener::open("netfilter", NETLINK_NETFILTER, &NETFILTER_GROUPS) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!(%error, "firewall changes are found by the regular look alone");
                None
            }
        };
        Ok(Self {
            route: Listener::open("rtnetlink", NETLINK_ROUTE, &ROUTE_GROUPS)?,
            xfrm: Listener::open("XFRM", NETLINK_XFRM, &XFRM_GROUPS)?,
            netfilter,
        })
    }

    /// Waits for the next message. Dropping the future loses none.
    pub async fn changed(&mut self) -> Result<Origin, Error> {
        let Self {
            route,
            xfrm,
            netfilter,
        } = self;
        let netfilter = async {
            match netfilter {
                Some(listener) => listener.heard().await,
                None => std::future::pending().await,
            }
        };
        let (heard, origin) = tokio::select! {
            heard = route.heard() => (heard?, Origin::Route),
            heard = xfrm.heard() => (heard?, Origin::Xfrm),
            heard = netfilter => (heard?, Origin::Nftables),
        };
        Ok(match heard {
            Heard::Message(kind) => {
                tracing::trace!(%origin, kind, "heard");
                origin
            }
            Heard::Overrun => Origin::Overrun,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// `nlmsg_type`
    Message(u16),
    Overrun,
}

struct Listener {
    family: &'static str,
    socket: TokioSocket,
}

impl Listener {
    fn open(
        family: &'static str,
        protocol: isize,
        groups: &[(u32, &'static str)],
    ) -> Result<Self, Error> {
        let open = |error| Error::Open { family, error };
        let mut socket = TokioSocket::new(protocol).map_err(open)?;
        socket.socket_mut().bind_auto().map_err(open)?;
        // Without it bursts are told as overruns, which is no loss.
        let _smaller = socket.socket_ref().set_rx_buf_sz(QUEUE);
        for &(number, group) in groups {
            socket
                .socket_ref()
                .add_membership(number)
                .map_err(|error| Error::Join {
                    family,
                    group,
                    error,
                })?;
        }
        Ok(Self { family, socket })
    }

    async fn heard(&mut self) -> Result<Heard, Error> {
        let mut header = [0; HEADER_LEN];
        let mut free = &mut header[..];
        // The kernel cuts what does not fit off.
        match self.socket.recv(&mut free).await {
            Ok(()) => Ok(Heard::Message(u16::from_ne_bytes([header[4], header[5]]))),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Overrun),
            Err(error) => Err(Error::Receive {
                family: self.family,
                error,
            }),
        }
    }
}
