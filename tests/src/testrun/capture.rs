//! Frames that clones have carried to devices of the namespace.

use std::{
    collections::BTreeMap,
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use crate::lab::{bind_packet_socket, packet_socket};

/// Packet sockets on some devices.
#[derive(Debug)]
pub struct Capture {
    // `UdpSocket` only for its receive calls, which suit any socket.
    sockets: BTreeMap<u32, UdpSocket>,
}

impl Capture {
    pub fn start(devices: &[u32]) -> io::Result<Self> {
        let sockets = devices
            .iter()
            .map(|device| Ok((*device, listen(*device)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { sockets })
    }

    /// The frames of each device in order. Waits for as many as are expected, and a moment more for
    /// those that are not.
    pub fn frames(&self, expected: usize) -> io::Result<Vec<(u32, Vec<u8>)>> {
        const PATIENCE: Duration = Duration::from_secs(2);
        const MOMENT: Duration = Duration::from_millis(50);
        let start = Instant::now();
        let mut last = start;
        let mut frames: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
        let mut count = 0;
        loop {
            let mut idle = true;
            for (device, socket) in &self.sockets {
                while let Some(frame) = receive(socket)? {
                    if is_the_kernels(&frame) {
                        continue;
                    }
                    frames.entry(*device).or_default().push(frame);
                    count += 1;
                    idle = false;
                    last = Instant::now();
                }
            }
            if idle && (count >= expected && last.elapsed() > MOMENT || start.elapsed() > PATIENCE)
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(frames
            .into_iter()
            .flat_map(|(device, frames)| frames.into_iter().map(move |frame| (device, frame)))
            .collect())
    }
}

/// Whether the kernel has sent it of its own accord: IPv6 from `::` or a link-local address.
fn is_the_kernels(frame: &[u8]) -> bool {
    frame.len() >= 14 + 40
        && frame[12..14] == [0x86, 0xdd]
        && (frame[22..38] == [0; 16] || frame[22] == 0xfe && frame[23] & 0xc0 == 0x80)
}

fn listen(device: u32) -> io::Result<UdpSocket> {
    let socket = packet_socket()?;
    bind_packet_socket(&socket, device)?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 1 << 16];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
