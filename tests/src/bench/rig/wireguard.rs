//! WireGuard below a vxlan device, and with the containers routed through it.

use anyhow::Result;

use super::{
    PORT, VNI, VXLAN, WIRE_MTU,
    pair::{CONTAINER, HOST, Pair},
};
use crate::lab::command::{self, feed};

/// IPv4, UDP, WireGuard's header and tag.
const WIREGUARD: u32 = 60;
/// Addresses of the devices, `/24`.
const INSIDE: [&str; 2] = ["172.16.0.1", "172.16.0.2"];
const LISTEN: u16 = 51820;

pub(super) fn vxlan(pair: &Pair) -> Result<()> {
    tunnel(pair, |at| format!("{}/32", INSIDE[at]))?;
    for at in [0, 1] {
        let (host, mtu) = (&pair.hosts[at], WIRE_MTU - WIREGUARD - VXLAN);
        host.ip(&format!(
            "link add vx0 mtu {mtu} type vxlan id {VNI} local {} dev wg0 dstport {PORT} nolearning proxy",
            INSIDE[at]
        ))?;
        pair.bridge(host, at, mtu, INSIDE[1 - at])?;
    }
    Ok(())
}

pub(super) fn routed(pair: &Pair) -> Result<()> {
    let subnet = |at: usize, host: u8| format!("10.64.{}.{host}", at + 1);
    tunnel(pair, |at| format!("{}/24", subnet(at, 0)))?;
    for at in [0, 1] {
        let (host, container) = (&pair.hosts[at], &pair.containers[at]);
        host.set_sysctl("net/ipv4/ip_forward", "1")?;
        host.ip(&format!("route add {}/24 dev wg0", subnet(1 - at, 0)))?;
        pair.plug(
            host,
            at,
            WIRE_MTU - WIREGUARD,
            &format!("{}/24", CONTAINER[at]),
        )?;
        host.ip(&format!("addr add {}/24 dev c0", subnet(at, 254)))?;
        container.ip(&format!("route add default via {}", subnet(at, 254)))?;
    }
    Ok(())
}

/// A device on either host; `allowed` says what is behind the one on side `at`.
fn tunnel(pair: &Pair, allowed: impl Fn(usize) -> String) -> Result<()> {
    let private = [key()?, key()?];
    for at in [0, 1] {
        let (host, other) = (&pair.hosts[at], 1 - at);
        let mut public = std::process::Command::new("wg");
        let public = feed(public.arg("pubkey"), &private[other])?;
        host.ip(&format!(
            "link add wg0 mtu {} type wireguard",
            WIRE_MTU - WIREGUARD
        ))?;
        let mut set = host.command("wg");
        set.args(["set", "wg0", "listen-port", &LISTEN.to_string()])
            .args(["private-key", "/dev/stdin", "peer", public.trim()])
            .args(["endpoint", &format!("{}:{LISTEN}", HOST[other])])
            .args(["allowed-ips", &allowed(other)]);
        feed(&mut set, &private[at])?;
        host.ip(&format!("addr add {}/24 dev wg0", INSIDE[at]))?;
        host.ip("link set wg0 up")?;
    }
    Ok(())
}

fn key() -> Result<String> {
    command::shell("wg", "genkey")
}
