//! What the kernel counts in a network namespace.
//!
//! `/proc/net` is that of the process, which is in another namespace than the thread that reads here.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context as _, Result};

use super::Netns;

/// Values by name: `XfrmInStateSeqError`, `Tcp RetransSegs`, `wire0 rx_dropped`. `softnet_dropped` is of the
/// whole machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

/// What has these in its name tells of a loss.
const LOSSES: [&str; 9] = [
    "Xfrm", "Retrans", "drop", "Drop", "Discard", "errs", "Errors", "fifo", "Overflow",
];

impl Counters {
    /// Those of a namespace: of XFRM where the kernel has it (Documentation/networking/xfrm_proc.rst), of its
    /// protocols, its devices, and of the queues of the processors.
    pub fn of(netns: &Netns) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let texts = netns.enter(|| {
            let xfrm = read("xfrm_stat").unwrap_or_default();
            ["snmp", "netstat", "dev", "softnet_stat"]
                .map(|file| read(file).with_context(|| format!("read {file}")))
                .into_iter()
                .collect::<Result<Vec<_>>>()
                .map(|texts| (xfrm, texts))
        })?;
        let (xfrm, texts) = texts.with_context(|| format!("counters of {}", netns.name()))?;
        let mut counters = Self::default();
        counters.add_xfrm(&xfrm);
        if let [snmp, netstat, devices, processors] = &texts[..] {
            counters.add_protocols(snmp);
            counters.add_protocols(netstat);
            counters.add_devices(devices);
            counters.add_processors(processors);
        }
        Ok(counters)
    }

    pub fn get(&self, name: &str) -> Result<u64> {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("this kernel does not count {name}"))
    }

    /// What was added since an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        let added = self.0.iter().map(|(name, value)| {
            let earlier = before.0.get(name).copied().unwrap_or(0);
            (name.clone(), value.saturating_sub(earlier))
        });
        Self(added.filter(|(_, value)| *value > 0).collect())
    }

    /// Those that tell that something was lost, sent again or refused.
    pub fn losses(&self) -> Self {
        let tells = |name: &str| LOSSES.iter().any(|part| name.contains(part));
        let losses = self.0.iter().filter(|(name, _)| tells(name));
        Self(losses.map(|(name, value)| (name.clone(), *value)).collect())
    }

    /// XFRM's errors. What nobody wants to send in clear is counted too, and is none.
    pub fn xfrm_errors(&self) -> Self {
        let errors = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with("Xfrm") && !name.starts_with("XfrmOutPolBlock"));
        Self(errors.map(|(name, value)| (name.clone(), *value)).collect())
    }

    pub fn nonzero(&self) -> Self {
        self.since(&Self::default())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, name: String, value: &str, radix: u32) {
        if let Ok(value) = u64::from_str_radix(value, radix) {
            self.0.insert(name, value);
        }
    }

    /// A name and a value in each line.
    fn add_xfrm(&mut self, text: &str) {
        for (name, value) in text
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace))
        {
            self.add(name.to_owned(), value.trim(), 10);
        }
    }

    /// A line of names and one of values for each protocol.
    fn add_protocols(&mut self, text: &str) {
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        for pair in lines.chunks_exact(2) {
            let ((protocol, names), (_, values)) = (pair[0], pair[1]);
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                self.add(format!("{protocol} {name}"), value, 10);
            }
        }
    }

    /// `dev_seq_printf_stats` (net/core/net-procfs.c).
    fn add_devices(&mut self, text: &str) {
        const COLUMNS: [&str; 16] = [
            "rx_bytes",
            "rx_packets",
            "rx_errs",
            "rx_dropped",
            "rx_fifo",
            "rx_frame",
            "rx_compressed",
            "rx_multicast",
            "tx_bytes",
            "tx_packets",
            "tx_errs",
            "tx_dropped",
            "tx_fifo",
            "tx_colls",
            "tx_carrier",
            "tx_compressed",
        ];
        for (device, values) in text.lines().skip(2).filter_map(|line| line.split_once(':')) {
            for (column, value) in COLUMNS.iter().zip(values.split_whitespace()) {
                self.add(format!("{} {column}", device.trim()), value, 10);
            }
        }
    }

    /// `softnet_seq_show` (net/core/net-procfs.c): hexadecimal, packets and drops first.
    fn add_processors(&mut self, text: &str) {
        for (processor, line) in text.lines().enumerate() {
            if let Some(dropped) = line.split_whitespace().nth(1) {
                self.add(format!("cpu{processor} softnet_dropped"), dropped, 16);
            }
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{name}: {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_by_its_columns() {
        let mut counters = Counters::default();
        counters.add_xfrm("XfrmInError             \t0\nXfrmOutPolBlock         \t7\n");
        counters.add_protocols(
            "Udp: InDatagrams InErrors\nUdp: 30 4\nTcp: RtoMin RetransSegs\nTcp: 200 5\n",
        );
        counters.add_devices("Inter-|\n face |\nwire0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
        counters.add_processors("0000000a 0000001f 00000000\n");
        assert_eq!(counters.get("XfrmOutPolBlock").unwrap(), 7);
        assert_eq!(counters.get("Tcp RetransSegs").unwrap(), 5);
        assert_eq!(counters.get("wire0 tx_dropped").unwrap(), 12);
        assert_eq!(counters.get("cpu0 softnet_dropped").unwrap(), 31);
        assert!(counters.get("Tcp Unknown").is_err());
        let mut earlier = counters.clone();
        assert!(counters.since(&earlier).is_empty());
        earlier.0.insert("Udp InErrors".to_owned(), 1);
        earlier.0.insert("Udp InDatagrams".to_owned(), 1);
        assert_eq!(
            counters.since(&earlier).losses().to_string(),
            "Udp InErrors: 3"
        );
        assert_eq!(counters.xfrm_errors().to_string(), "XfrmInError: 0");
    }
}
