//! Frames that clones have carried to devices of the namespace.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

/// Packet sockets on some devices.
#[derive(Debug)]
pub struct Capture {
    sockets: BTreeMap<u32, OwnedFd>,
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

fn listen(device: u32) -> io::Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointers; the result is checked.
    let number = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: an all-zero `sockaddr_ll` is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every;
    address.sll_ifindex = device as i32;
    // SAFETY: the address outlives the call and has the length given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0u8; 1 << 16];
    // SAFETY: the buffer outlives the call and has the length given.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
        )
    };
    if length < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock {
            Ok(None)
        } else {
            Err(error)
        };
    }
    buffer.truncate(length as usize);
    Ok(Some(buffer))
}
