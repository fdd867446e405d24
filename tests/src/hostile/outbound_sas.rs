//! What the kernel has sent with its outbound SAs.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Netns;

/// What the kernel knows of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboundSa {
    /// Last sequence number that it gave out, all 64 bits.
    pub sequence: u64,
    /// Packets that passed it; a GSO packet is one.
    pub packets: u64,
}

/// The SAs of a namespace with this source, by SPI. They are told by `ip -s xfrm state`.
pub fn outbound_sas(netns: &Netns, source: IpAddr) -> Result<BTreeMap<u32, OutboundSa>> {
    let text = netns.ip("-s xfrm state list nokeys")?;
    parse(&text, source).with_context(|| format!("read `{text}`"))
}

fn parse(text: &str, source: IpAddr) -> Result<BTreeMap<u32, OutboundSa>> {
    let mut sas = BTreeMap::new();
    let head = format!("src {source} dst ");
    // An SA begins at the start of a line; what belongs to it is indented.
    let mut block: Vec<&str> = Vec::new();
    for line in text.lines().chain(["src "]) {
        if line.starts_with("src ") {
            if block.first().is_some_and(|first| first.starts_with(&head)) {
                let words: Vec<&str> = block.iter().flat_map(|l| l.split_whitespace()).collect();
                let (spi, sa) = one(&words).context("an SA without SPI or ESN state")?;
                sas.insert(spi, sa);
            }
            block.clear();
        }
        block.push(line);
    }
    ensure!(!sas.is_empty(), "no SA from {source}");
    Ok(sas)
}

fn one(words: &[&str]) -> Option<(u32, OutboundSa)> {
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        Some(words.get(at + 1)?.trim_end_matches(','))
    };
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    // `spi 0x00001010(4112)`
    let spi = hex(after("spi")?.split('(').next()?)?;
    let sequence = hex(after("oseq-hi")?)? << 32 | hex(after("oseq")?)?;
    // `lifetime current:` and below it `1234(bytes), 5(packets)`.
    let packets = words
        .iter()
        .rfind(|word| word.ends_with("(packets)"))?
        .split('(')
        .next()?
        .parse()
        .ok()?;
    Some((u32::try_from(spi).ok()?, OutboundSa { sequence, packets }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As iproute2 6.1 prints it.
    const LISTED: &str = "\
src 192.0.2.1 dst 192.0.2.2
\tproto esp spi 0x00001011(4113) reqid 7(0x00000007) mode transport
\treplay-window 0 seq 0x00000000 flag esn (0x00000080)
\taead rfc4106(gcm(aes)) <<Keys hidden>> (288 bits) 128
\tanti-replay esn context:
\t seq-hi 0x0, seq 0x0, oseq-hi 0x1, oseq 0x2a
\t replay_window 1024, bitmap-length 32
\tsel src 0.0.0.0/0 dst 0.0.0.0/0 uid 0
\tlifetime config:
\t  limit: soft (INF)(bytes), hard (INF)(bytes)
\t  limit: soft (INF)(packets), hard (INF)(packets)
\tlifetime current:
\t  34000(bytes), 40(packets)
\t  add 2026-01-01 00:00:00 use 2026-01-01 00:00:01
\tstats:
\t  replay-window 0 replay 0 failed 0
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0x00002011(8209) reqid 7(0x00000007) mode beet
";

    #[test]
    fn the_kernels_counts_are_read_for_the_own_direction_only() {
        let sas = parse(LISTED, "192.0.2.1".parse().unwrap()).unwrap();
        let expected = OutboundSa {
            sequence: (1 << 32) + 42,
            packets: 40,
        };
        assert_eq!(sas, BTreeMap::from([(0x1011, expected)]));
    }
}
