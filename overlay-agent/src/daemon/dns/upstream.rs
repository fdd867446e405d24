//! The resolvers that are asked for names that are of no network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use resolv_conf::ScopedIp;

use super::may_ask;

/// Where this host names its resolvers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Resolvers at the most.
pub const MAX: usize = 8;

/// The resolvers of a resolv.conf(5), in their order; the resolver of this host if it names none. Left
/// out is what cannot be asked: addresses with a zone, groups.
pub fn of_resolv_conf(text: &[u8]) -> Vec<SocketAddr> {
    // A line that is not understood is passed over, as libc does.
    let (config, _errors) = resolv_conf::Config::parse_with_errors(text);
    let named = config.nameservers;
    if named.is_empty() {
        return vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)];
    }
    let mut resolvers: Vec<SocketAddr> = Vec::new();
    for ip in named {
        let ip = match ip {
            ScopedIp::V4(v4) => IpAddr::V4(v4),
            ScopedIp::V6(v6, None) => IpAddr::V6(v6),
            ScopedIp::V6(_, Some(_)) => continue,
        };
        let resolver = SocketAddr::new(ip, 53);
        if may_ask(resolver) && !resolvers.contains(&resolver) && resolvers.len() < MAX {
            resolvers.push(resolver);
        }
    }
    resolvers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolvers(text: &str) -> Vec<String> {
        let resolvers = of_resolv_conf(text.as_bytes());
        resolvers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resolvers_are_asked_in_their_order_and_each_once() {
        let text = "# made by hand\nsearch example.com\nnameserver 192.0.2.2\nnameserver 2001:db8::1\n\
                    nameserver 192.0.2.2\noptions ndots:1\n";
        assert_eq!(resolvers(text), ["192.0.2.2:53", "[2001:db8::1]:53"]);
    }

    #[test]
    fn host_without_resolvers_has_one_of_its_own() {
        for text in ["", "search example.com\n", "# nameserver 192.0.2.2\n"] {
            assert_eq!(resolvers(text), ["127.0.0.1:53"], "{text}");
        }
    }

    #[test]
    fn broken_line_hides_no_other() {
        let text = "nameserver\nnonsense\nnameserver 192.0.2.300\nnameserver 192.0.2.2\n\u{0}\n";
        assert_eq!(resolvers(text), ["192.0.2.2:53"]);
    }

    #[test]
    fn what_cannot_be_asked_is_left_out() {
        let text = "nameserver 0.0.0.0\nnameserver fe80::1%eth0\nnameserver 224.0.0.1\n";
        assert_eq!(resolvers(text), Vec::<String>::new());
        let many: String = (1..20)
            .map(|n| format!("nameserver 192.0.2.{n}\n"))
            .collect();
        assert_eq!(resolvers(&many).len(), MAX);
    }
}
