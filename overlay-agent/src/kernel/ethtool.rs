//! Generic receive offload of a device, by the ethtool ioctl: rtnetlink does not carry it.

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
};

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Whether GRO is on, for a device of the calling thread's network namespace.
pub fn gro(device: &str) -> io::Result<bool> {
    call(device, ETHTOOL_GGRO, 0).map(|value| value != 0)
}

/// Switches GRO. On a veth it makes the device take packets through NAPI, without which it accepts
/// none from XDP.
pub fn set_gro(device: &str, on: bool) -> io::Result<()> {
    call(device, ETHTOOL_SGRO, u32::from(on)).map(|_| ())
}

fn call(device: &str, command: u32, data: u32) -> io::Result<u32> {
    // A socket of any family will do (`sock_do_ioctl` in net/socket.c), and this one needs no
    // address in a namespace that may have none.
    let socket = UnixDatagram::unbound()?;
    let mut value = EthtoolValue { command, data };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    let name = device.as_bytes();
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the kernel reads the NUL-terminated name from `request`, and reads and writes 8 bytes
    // at `ifru_data`, which points to `value`; both live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_device_and_long_name_are_errors() {
        let missing = gro("no-such-device").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        assert!(gro("a-name-that-is-too-long").is_err());
    }
}
