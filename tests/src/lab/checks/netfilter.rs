//! The host's own rules.

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Family, Lab, Netns, WIRE, command, traffic::Ping};

/// Source NAT of everything that leaves on the wire, which nobody would answer, and counts of what
/// connection tracking thinks of the underlay's packets.
const RULES: &str = r#"
table inet judge {
  counter tracked {}
  counter untracked {}
  chain judge {
    ct state untracked counter name untracked return
    counter name tracked
  }
  chain received {
    type filter hook prerouting priority -150
    meta l4proto esp jump judge
    udp dport { 4500, 4789 } jump judge
  }
  chain sent {
    type filter hook postrouting priority 150
    meta l4proto esp jump judge
    udp dport { 4500, 4789 } jump judge
  }
}
table ip admin {
  counter changed {}
  chain sent {
    type nat hook postrouting priority 100
    oifname WIRE counter name changed snat to 203.0.113.9
  }
}
table ip6 admin {
  counter changed {}
  chain sent {
    type nat hook postrouting priority 100
    oifname WIRE counter name changed snat to 2001:db8:ffff::9
  }
}
"#;

/// Feeds rules to nft in a namespace.
pub fn nft(netns: &Netns, rules: &str) -> Result<()> {
    command::feed(netns.command("nft").args(["-f", "-"]), rules).map(drop)
}

/// Has every node NAT what leaves it.
pub fn nat_everything(lab: &Lab) -> Result<()> {
    lab.nodes
        .iter()
        .try_for_each(|node| nft(&node.netns, &RULES.replace("WIRE", WIRE)))
}

/// After traffic: the rules of [`nat_everything`] work, but tracking saw nothing of the underlay. Returns
/// how many of its packets passed the hooks.
pub fn underlay_is_left_alone(lab: &Lab, family: Family) -> Result<u64> {
    let node = lab.node(1)?;
    // The host's own packets: changed, and so not answered.
    Ping::new(&node.netns, lab.underlay.vtep(2, family)?)
        .count(2)
        .run()?;
    let table = match family {
        Family::V4 => "ip admin changed",
        Family::V6 => "ip6 admin changed",
    };
    let changed = packets(&node.netns, table)?;
    ensure!(changed > 0, "the NAT of the test changes nothing");
    let tracked = packets(&node.netns, "inet judge tracked")?;
    ensure!(
        tracked == 0,
        "{tracked} packets of the underlay are tracked"
    );
    packets(&node.netns, "inet judge untracked")
}

fn packets(netns: &Netns, counter: &str) -> Result<u64> {
    let text = netns.run("nft", &format!("list counter {counter}"))?;
    text.split_whitespace()
        .skip_while(|word| *word != "packets")
        .nth(1)
        .and_then(|packets| packets.parse().ok())
        .with_context(|| format!("no packets in `{text}`"))
}
