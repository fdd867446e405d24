//! Traffic between namespaces, and what came of it.

mod iperf;
mod ping;
mod stream;
mod tcp;
mod udp;

pub use self::{
    iperf::{Iperf, IperfResult},
    ping::{Ping, PingResult},
    stream::{Stream, StreamResult},
    tcp::{TcpEcho, Trickle, transfer, transfers_while},
    udp::{Datagram, UdpEcho, UdpSink},
};

use std::time::Duration;

/// How long servers look away before they see that they shall stop.
const TICK: Duration = Duration::from_millis(50);
