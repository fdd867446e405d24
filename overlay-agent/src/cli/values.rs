//! How arguments are read. Each error names what was given and what to write instead.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::anyhow;
use ipnet::IpNet;
use overlay_cluster::log::{
    addresses::Family,
    epochs::RotationPolicy,
    member::{Contact, Vteps},
    names::{Labels, SoftwareVersion, check_label},
};
use overlay_ebpf::abi::MacAddr;

use super::Failure;
use crate::api::{DEFAULT_PORT, cluster::SubnetPool};

pub fn address(text: &str) -> Result<IpAddr, String> {
    text.trim()
        .parse()
        .map_err(|_| "no IP address: write one such as 192.0.2.1 or 2001:db8::1".to_owned())
}

/// An address with a port, or one alone and the port that is usual.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    socket_address(text).ok_or_else(|| {
        format!("no address to listen at: write ADDRESS or ADDRESS:PORT (port {DEFAULT_PORT} if left out), such as 192.0.2.1:{DEFAULT_PORT} or [2001:db8::1]:{DEFAULT_PORT}")
    })
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    text.parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(bare.parse().ok()?, DEFAULT_PORT)))
}

/// Where a manager is: an address or a host name, with a port or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manager {
    Address(SocketAddr),
    Host(String, u16),
}

pub fn manager(text: &str) -> Result<Manager, String> {
    if let Some(address) = socket_address(text) {
        return Ok(Manager::Address(address));
    }
    let bad = || {
        format!(
            "no address of a manager: write ADDRESS, ADDRESS:PORT, HOST or HOST:PORT (port {DEFAULT_PORT} if left out)"
        )
    };
    let (host, port) = match text.split_once(':') {
        None => (text, DEFAULT_PORT),
        Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // What ends in a number was meant to be an address (RFC 3696 section 2).
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if port == 0 || numeric || name.len() > 253 || !name.split('.').all(label) {
        return Err(bad());
    }
    Ok(Manager::Host(host.to_owned(), port))
}

impl Manager {
    /// Its addresses, by the resolver of this host.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Host(host, port) => {
                let found = tokio::net::lookup_host((host.as_str(), *port))
                    .await
                    .map_err(|error| {
                        anyhow!("host name {host} cannot be resolved ({error}): give an address")
                    })?;
                Ok(found.collect())
            }
        }
    }
}

pub fn net(text: &str) -> Result<IpNet, String> {
    text.trim()
        .parse()
        .map_err(|_| "no subnet: write ADDRESS/PREFIX, such as 10.0.9.0/24".to_owned())
}

pub fn mac(text: &str) -> Result<MacAddr, String> {
    text.parse().map_err(|error: overlay_ebpf::abi::NoMacAddr| {
        format!("{error}: write six pairs of hexadecimal digits, such as 02:42:0a:00:09:02")
    })
}

/// `NET[,size=PREFIX]`.
pub fn pool(text: &str) -> Result<SubnetPool, String> {
    let bad = || {
        "no pool: write NET or NET,size=PREFIX, such as 10.20.0.0/16,size=24 (24 if left out, 64 for IPv6)".to_owned()
    };
    let (net, size) = match text.split_once(',') {
        None => (text, None),
        Some((net, size)) => {
            let size = size.strip_prefix("size=").ok_or_else(bad)?;
            (net, Some(size.parse().map_err(|_| bad())?))
        }
    };
    let net: IpNet = net.parse().map_err(|_| bad())?;
    let prefix = size.unwrap_or(match Family::of(net.addr()) {
        Family::V4 => 24,
        Family::V6 => 64,
    });
    Ok(SubnetPool { net, prefix })
}

/// `KEY=VALUE`, or `KEY` alone.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    check_label(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

pub fn labels(labels: &[(String, String)]) -> Result<Labels, Failure> {
    let mut all = BTreeMap::new();
    for (key, value) in labels {
        if all.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::Input(anyhow!(
                "label `{key}` is given twice: give it once"
            )));
        }
    }
    Labels::new(all).map_err(Failure::input)
}

pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        "no duration: write a number and a unit, such as 30s, 90m, 12h or 7d".to_owned()
    })
}

/// How often keys rotate: 10 minutes to 7 days.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    let policy = RotationPolicy {
        interval,
        ..RotationPolicy::default()
    };
    match policy.check() {
        Ok(()) => Ok(interval),
        Err(_) => Err("not between 10 minutes and 7 days: write for example 10m, 12h or 7d".into()),
    }
}

/// Checks what a node says of itself, as the managers will.
pub fn check_place(advertise: &[IpAddr], listen: Option<SocketAddr>) -> Result<(), Failure> {
    let Some(first) = advertise.first() else {
        return Ok(());
    };
    for family in [Family::V4, Family::V6] {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        if let [first, second, ..] = advertise.iter().filter(of_family).collect::<Vec<_>>()[..] {
            return Err(Failure::Input(anyhow!(
                "--advertise has two addresses of one family, {first} and {second}: give at most one of IPv4 and one of IPv6"
            )));
        }
    }
    let contact = Contact {
        vteps: advertise.iter().copied().collect::<Vteps>(),
        control: SocketAddr::new(*first, listen.map_or(DEFAULT_PORT, |listen| listen.port())),
        software: SoftwareVersion::new(env!("CARGO_PKG_VERSION"))?,
    };
    contact.check().map_err(Failure::input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_named_by_address_or_host() {
        let address = |text: &str| Manager::Address(text.parse().unwrap());
        for (text, expected) in [
            ("192.0.2.1", address("192.0.2.1:7790")),
            ("192.0.2.1:80", address("192.0.2.1:80")),
            ("2001:db8::1", address("[2001:db8::1]:7790")),
            ("[2001:db8::1]", address("[2001:db8::1]:7790")),
            ("[2001:db8::1]:80", address("[2001:db8::1]:80")),
            ("m1", Manager::Host("m1".into(), 7790)),
            (
                "m1.example.org:80",
                Manager::Host("m1.example.org".into(), 80),
            ),
        ] {
            assert_eq!(manager(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            ":80",
            "m1:",
            "m1:0",
            "m1:99999",
            "a b",
            "192.0.2.300",
            "m1:80:80",
            "[m1]",
            "..",
            "http://m1",
            "10.0.0",
            "OVL1-W-x y",
        ] {
            assert!(manager(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pools_have_a_size() {
        let size = |text| pool(text).map(|pool| pool.prefix);
        assert_eq!(size("10.20.0.0/16"), Ok(24));
        assert_eq!(size("10.20.0.0/16,size=26"), Ok(26));
        assert_eq!(size("fd00::/48"), Ok(64));
        for bad in ["10.20.0.0", "10.20.0.0/16,26", "10.20.0.0/16,size=x", ""] {
            assert!(pool(bad).unwrap_err().contains("size=24"), "{bad}");
        }
    }

    #[test]
    fn intervals_have_bounds() {
        for (text, seconds) in [
            ("10m", 600),
            ("12h", 43_200),
            ("7d", 604_800),
            ("1h 30m", 5400),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for (bad, why) in [
            ("9m", "between"),
            ("8d", "between"),
            ("12", "unit"),
            ("", "unit"),
        ] {
            assert!(interval(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn labels_are_pairs_and_given_once() {
        assert_eq!(label("zone=a"), Ok(("zone".into(), "a".into())));
        assert_eq!(label("gpu"), Ok(("gpu".into(), String::new())));
        assert!(label("=a").unwrap_err().contains("key of a label"));
        let twice = [
            ("a".to_owned(), "1".to_owned()),
            ("a".to_owned(), "2".to_owned()),
        ];
        assert!(matches!(labels(&twice), Err(Failure::Input(_))));
    }

    #[test]
    fn what_others_cannot_reach_is_not_advertised() {
        let why = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            match check_place(&addresses, None) {
                Ok(()) => String::new(),
                Err(Failure::Input(error) | Failure::Host(error)) => error.to_string(),
            }
        };
        assert_eq!(why(&["192.0.2.1", "2001:db8::1"]), "");
        assert!(why(&["192.0.2.1", "192.0.2.2"]).contains("192.0.2.2"));
        assert!(why(&["127.0.0.1"]).contains("loopback"));
        assert!(why(&["0.0.0.0"]).contains("0.0.0.0"));
    }
}
