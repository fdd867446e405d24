//! UDP sockets of other software.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Local addresses of the sockets bound to `port` in the calling thread's network namespace.
pub fn bound_to(port: u16) -> io::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for family in ["udp", "udp6"] {
        match fs::read_to_string(format!("/proc/thread-self/net/{family}")) {
            Ok(table) => found.extend(parse(&table, port)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The second column is `ADDRESS:PORT` in hexadecimal, the address as 32-bit words in host byte order
/// (proc_pid_net(5)).
fn parse(table: &str, port: u16) -> impl Iterator<Item = IpAddr> + '_ {
    table.lines().skip(1).filter_map(move |line| {
        let (address, bound) = line.split_whitespace().nth(1)?.split_once(':')?;
        if u16::from_str_radix(bound, 16).ok()? != port {
            return None;
        }
        let word = |at: usize| {
            let digits = address.get(at..at + 8)?;
            Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
        };
        match address.len() {
            8 => Some(Ipv4Addr::from(word(0)?).into()),
            32 => {
                let words = [word(0)?, word(8)?, word(16)?, word(24)?];
                Some(Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(words)).into())
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn bound_sockets_of_both_families_are_found_until_they_close() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let Ok(socket) = UdpSocket::bind((address, 0)) else {
                assert!(address.is_ipv6(), "no loopback");
                continue;
            };
            let port = socket.local_addr().unwrap().port();
            assert!(bound_to(port).unwrap().contains(&address), "{address}");
        }
    }

    #[test]
    fn other_ports_and_noise_are_nothing() {
        let table =
            "  sl  local_address rem_address   st\n 1: 00000000:1194 00000000:0000 07\n 2: xx\n";
        assert_eq!(parse(table, 4500).count(), 1);
        assert_eq!(parse(table, 4501).count(), 0);
    }
}
