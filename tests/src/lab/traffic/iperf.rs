//! iperf3(1), client and server.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::lab::{
    Netns,
    command::{self, Running},
    eventually,
};

/// A measurement to be run.
#[derive(Debug, Clone)]
pub struct Iperf<'a> {
    from: &'a Netns,
    to: &'a Netns,
    address: IpAddr,
    options: Vec<String>,
    seconds: u64,
    bytes: Option<u64>,
}

/// What the client reported.
#[derive(Debug, Clone)]
pub struct IperfResult {
    /// Received by the server, bit/s.
    pub bits_per_second: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// UDP datagrams lost and sent.
    pub lost: u64,
    pub datagrams: u64,
}

impl<'a> Iperf<'a> {
    /// TCP, one stream, one second.
    pub fn new(from: &'a Netns, to: &'a Netns, address: IpAddr) -> Self {
        Self {
            from,
            to,
            address,
            options: Vec::new(),
            seconds: 1,
            bytes: None,
        }
    }

    pub fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// Ends after so many bytes, whatever the time.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Options of the client, as one string.
    pub fn options(mut self, options: &str) -> Self {
        self.options
            .extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// Runs server and client.
    pub fn run(&self) -> Result<IperfResult> {
        let limit = Duration::from_secs(self.seconds + 30);
        let mut server = self.to.command("timeout");
        // Bound: a container's other networks are nobody's business.
        server
            .arg(limit.as_secs().to_string())
            .args(["iperf3", "--server", "--one-off", "--bind"])
            .arg(self.address.to_string());
        let _server = Running::spawn(&mut server)?;
        self.listening()?;
        let mut client = self.from.command("timeout");
        client
            .arg(limit.as_secs().to_string())
            .args(["iperf3", "--json", "--client"])
            .arg(self.address.to_string())
            .args(&self.options);
        match self.bytes {
            Some(bytes) => client.args(["--bytes", &bytes.to_string()]),
            None => client.args(["--time", &self.seconds.to_string()]),
        };
        let output = command::run(&mut client, limit)?;
        let json: Value = serde_json::from_str(&output.stdout)
            .with_context(|| format!("iperf3 said: {}{}", output.stdout, output.stderr))?;
        if let Some(error) = json["error"].as_str() {
            bail!("iperf3 to {}: {error}", self.address);
        }
        let end = &json["end"];
        let udp = !end["sum"].is_null();
        let received = if udp {
            &end["sum"]
        } else {
            &end["sum_received"]
        };
        Ok(IperfResult {
            bits_per_second: received["bits_per_second"].as_f64().unwrap_or(0.0),
            retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
            lost: end["sum"]["lost_packets"].as_u64().unwrap_or(0),
            datagrams: end["sum"]["packets"].as_u64().unwrap_or(0),
        })
    }

    fn listening(&self) -> Result<()> {
        eventually(Duration::from_secs(10), || {
            let listening = self.to.run("ss", "-Hltn sport = :5201")?;
            if listening.trim().is_empty() {
                bail!("the iperf3 server does not listen");
            }
            Ok(())
        })
    }
}
