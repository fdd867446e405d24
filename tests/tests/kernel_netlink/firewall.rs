//! The firewall.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::UdpSocket,
    process::{Command, Stdio},
};

use overlay_agent::{
    dataplane::objects::{ChainFamily, Firewall, ForeignChain, GRO, Link},
    kernel::{
        firewall::{self, Counters},
        links,
        rtnl::Handle,
    },
};

use crate::namespace::{Namespace, attempt, command, inside};

fn nft(script: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

fn wanted(vteps: &[&str]) -> Firewall {
    Firewall {
        port: 4789,
        local_vteps: vteps.iter().map(|vtep| vtep.parse().unwrap()).collect(),
        ..Firewall::default()
    }
}

#[test]
fn firewall_is_set_observed_and_removed() {
    inside(|| async {
        // One that is kept: what others change is seen by it.
        let view = firewall::View::default();
        assert_eq!(view.observe().await.unwrap(), None);
        firewall::remove().await.unwrap();
        for vteps in [
            &["10.0.0.1", "2001:db8::1"][..],
            &["10.0.0.1"],
            &["2001:db8::1"],
            &["2001:db8:0:0:1::1"],
            &[],
        ] {
            let wanted = wanted(vteps);
            firewall::apply(&wanted).await.unwrap();
            assert_eq!(view.observe().await.unwrap(), Some(wanted.clone()));
            let before = command("nft -a list table inet overlay");
            firewall::apply(&wanted).await.unwrap();
            assert_eq!(
                command("nft -a list table inet overlay"),
                before,
                "it was set again"
            );
        }
        firewall::remove().await.unwrap();
        firewall::remove().await.unwrap();
        assert_eq!(view.observe().await.unwrap(), None);
        assert_eq!(command("nft list tables"), "");
    });
}

#[test]
fn local_process_cannot_send_to_the_port() {
    inside(|| async {
        command("ip link set lo up");
        command("ip link add up0 type veth peer name up1");
        command("ip addr add 10.0.0.1/24 dev up0");
        command("ip addr add 2001:db8::1/64 dev up0 nodad");
        command("ip link set up0 up");
        command("ip link set up1 up");
        firewall::apply(&wanted(&["10.0.0.1", "2001:db8::1"]))
            .await
            .unwrap();
        assert_eq!(
            firewall::counters().await.unwrap(),
            Some(Counters::default())
        );
        for (from, to) in [
            ("0.0.0.0:0", "10.0.0.2:4789"),
            ("[::]:0", "[2001:db8::2]:4789"),
            ("0.0.0.0:0", "10.0.0.255:4789"),
        ] {
            let socket = UdpSocket::bind(from).unwrap();
            socket.set_broadcast(true).unwrap();
            let refused = socket.send_to(b"inject", to).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{to}");
        }
        let counted = firewall::counters().await.unwrap().unwrap().local_injection;
        assert_eq!(counted.packets, 3);
        assert_eq!(counted.bytes, 34 + 54 + 34);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"other port", "10.0.0.2:4790").unwrap();
    });
}

/// Echo requests that the IP stack of this namespace has received.
fn echoes() -> u64 {
    let text = command("cat /proc/self/net/snmp");
    let mut icmp = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (icmp.next().unwrap(), icmp.next().unwrap());
    let names = names.split_whitespace();
    let (_, value) = names
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "InEchos")
        .unwrap();
    value.parse().unwrap()
}

#[test]
fn a_device_of_ours_without_its_program_hands_nothing_to_the_host() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let stranger = Namespace::new();
        command("ip link set lo up");
        command("ip addr add 10.9.9.9/32 dev lo");
        command("ip link add up0 type veth peer name up1");
        let netns = stranger.path();
        command(&format!("ip link set up1 netns {netns}"));
        command("ip addr add 10.0.0.1/24 dev up0");
        command("ip link set up0 up");
        links::create(&handle, GRO, &Link::VxlanExternal { port: 4789 })
            .await
            .unwrap();
        let mac = links::mac(&handle, GRO).await.unwrap();
        for line in [
            "ip addr add 10.0.0.2/24 dev up1",
            "ip link set up1 up",
            "ip link add vx0 type vxlan id 5000 remote 10.0.0.1 dstport 4789",
            "ip addr add 10.7.0.2/24 dev vx0",
            "ip link set vx0 up",
            "ip route add 10.9.9.9 dev vx0",
            &format!("ip neigh add 10.9.9.9 lladdr {mac} dev vx0"),
        ] {
            stranger.command(line);
        }
        // No answer comes: the host has no route back.
        let ask = || attempt(&format!("nsenter --net={netns} ping -c 1 -W 1 10.9.9.9"));
        ask();
        let without = echoes();
        assert!(without > 0, "without a firewall it reaches the host");
        firewall::apply(&wanted(&["10.0.0.1"])).await.unwrap();
        ask();
        assert_eq!(echoes(), without);
        let counted = firewall::counters().await.unwrap().unwrap().stray;
        assert!(counted.packets > 0);
    });
}

#[test]
fn every_change_to_the_table_is_seen_and_repaired() {
    inside(|| async {
        // One that is kept: what others change is seen by it.
        let view = firewall::View::default();
        let wanted = wanted(&["10.0.0.1", "2001:db8::1"]);
        for change in [
            "delete table inet overlay; add table inet overlay",
            "flush chain inet overlay output",
            "insert rule inet overlay output accept",
            "add rule inet overlay prerouting udp dport 4789 accept",
            "add element inet overlay vteps4 { 10.0.0.9 }",
            "delete element inet overlay vteps6 { 2001:db8::1 }",
            "add chain inet overlay output { policy drop; }",
            "add chain inet overlay mine",
            "add counter inet overlay mine",
        ] {
            firewall::apply(&wanted).await.unwrap();
            nft(change);
            let observed = view.observe().await.unwrap().unwrap();
            assert_ne!(observed, wanted, "{change}");
            firewall::apply(&wanted).await.unwrap();
            assert_eq!(view.observe().await.unwrap().unwrap(), wanted, "{change}");
        }
        nft("delete table inet overlay");
        assert_eq!(view.observe().await.unwrap(), None);
    });
}

const FOREIGN: &str = "
    table ip filter {
        chain FORWARD { type filter hook forward priority 0; policy drop; counter drop; }
        chain DOCKER { counter drop; }
    }
    table inet firewalld {
        chain prerouting { type filter hook prerouting priority raw + 10; fib saddr . iif oif missing drop; }
        chain input { type filter hook input priority 0; policy drop; }
    }
    table ip nat {
        chain PREROUTING { type nat hook prerouting priority dstnat; }
    }
";

#[test]
fn foreign_chains_accept_reentered_packets_at_their_head() {
    inside(|| async {
        // One that is kept: what others change is seen by it.
        let view = firewall::View::default();
        nft(FOREIGN);
        let before = command("nft -s list ruleset");
        let chains = view.foreign_chains().await.unwrap();
        let chain = |family, table: &str, chain: &str| ForeignChain {
            family,
            table: table.into(),
            chain: chain.into(),
        };
        let expected = BTreeSet::from([
            chain(ChainFamily::Ip, "filter", "FORWARD"),
            chain(ChainFamily::Inet, "firewalld", "prerouting"),
        ]);
        assert_eq!(chains, expected);

        let mut wanted = wanted(&["10.0.0.1"]);
        wanted.accepts = chains;
        firewall::apply(&wanted).await.unwrap();
        assert_eq!(view.observe().await.unwrap().unwrap(), wanted);
        let shown = command("nft list chain ip filter FORWARD");
        let accept = shown.find("iifname \"ovl-in\" counter packets 0 bytes 0 accept");
        assert!(accept.unwrap() < shown.rfind("drop").unwrap(), "{shown}");

        for change in [
            "insert rule ip filter FORWARD counter drop",
            "flush chain ip filter FORWARD",
        ] {
            nft(change);
            assert_ne!(view.observe().await.unwrap().unwrap(), wanted, "{change}");
            firewall::apply(&wanted).await.unwrap();
            assert_eq!(view.observe().await.unwrap().unwrap(), wanted, "{change}");
            let shown = command("nft list chain ip filter FORWARD");
            assert_eq!(shown.matches("ovl-in").count(), 1, "{shown}");
        }

        nft("flush chain ip filter FORWARD; add rule ip filter FORWARD counter drop");
        wanted.accepts.clear();
        firewall::apply(&wanted).await.unwrap();
        firewall::remove().await.unwrap();
        assert_eq!(command("nft -s list ruleset"), before);
    });
}

#[test]
fn legacy_iptables_accepts_too_where_it_is_in_use() {
    inside(|| async {
        // One that is kept: what others change is seen by it.
        let view = firewall::View::default();
        if !attempt("which iptables-legacy").status.success() {
            println!("iptables-legacy is missing: only that it is not needed is tested");
            assert!(view.foreign_chains().await.unwrap().is_empty());
            return;
        }
        if !attempt("iptables-legacy -P FORWARD DROP").status.success() {
            println!("this kernel has no legacy iptables: only that it is not needed is tested");
            assert!(view.foreign_chains().await.unwrap().is_empty());
            return;
        }
        let mut wanted = wanted(&["10.0.0.1"]);
        wanted.accepts = view.foreign_chains().await.unwrap();
        assert!(
            wanted
                .accepts
                .iter()
                .any(|chain| chain.family == ChainFamily::LegacyIp)
        );
        firewall::apply(&wanted).await.unwrap();
        assert_eq!(view.observe().await.unwrap().unwrap(), wanted);
        command("iptables-legacy -I FORWARD -j DROP");
        assert_ne!(view.observe().await.unwrap().unwrap(), wanted);
        firewall::apply(&wanted).await.unwrap();
        assert_eq!(view.observe().await.unwrap().unwrap(), wanted);
        firewall::remove().await.unwrap();
        let left = command("iptables-legacy -S FORWARD");
        assert!(!left.contains("ovl-in"), "{left}");
    });
}
