//! ping(8).

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::lab::{Netns, command};

/// A ping to be run.
#[derive(Debug, Clone)]
pub struct Ping<'a> {
    from: &'a Netns,
    to: IpAddr,
    count: u32,
    interval: Duration,
    size: Option<u32>,
    extra: Vec<String>,
}

/// What ping reported.
#[derive(Debug, Clone)]
pub struct PingResult {
    pub sent: u32,
    pub received: u32,
    /// Average round trip, ms.
    pub average: Option<f64>,
    /// Everything it said.
    pub output: String,
}

impl PingResult {
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

impl<'a> Ping<'a> {
    /// Five packets, 20 ms apart.
    pub fn new(from: &'a Netns, to: IpAddr) -> Self {
        Self {
            from,
            to,
            count: 5,
            interval: Duration::from_millis(20),
            size: None,
            extra: Vec::new(),
        }
    }

    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Bytes after the ICMP header.
    pub fn size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// Forbids fragments, also by the sender (`-M do`).
    pub fn whole(self) -> Self {
        self.option("-M").option("do")
    }

    /// The whole IP packet has this size and may not be fragmented.
    pub fn packet(self, bytes: u32) -> Self {
        let headers = if self.to.is_ipv4() { 28 } else { 48 };
        self.size(bytes - headers).whole()
    }

    pub fn option(mut self, word: &str) -> Self {
        self.extra.push(word.to_owned());
        self
    }

    /// Runs it. Loss is no error.
    pub fn run(&self) -> Result<PingResult> {
        self.run_waiting(1)
    }

    /// Waits some seconds for the last answers.
    fn run_waiting(&self, seconds: u32) -> Result<PingResult> {
        let interval = self.interval.as_secs_f64();
        let mut ping = self.from.command("ping");
        let (wait, count) = (seconds.to_string(), self.count.to_string());
        ping.args(["-n", "-W", &wait, "-c", &count]);
        ping.args(["-i", &format!("{interval:.3}")]);
        if let Some(size) = self.size {
            ping.args(["-s", &size.to_string()]);
        }
        ping.args(&self.extra).arg(self.to.to_string());
        let limit = self.interval * self.count * 3 + Duration::from_secs(20);
        let output = command::run(&mut ping, limit)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        parse(&said).with_context(|| format!("`{}` said: {said}", command::display(&ping)))
    }

    /// Runs it; an error if a packet was lost.
    pub fn lossless(&self) -> Result<PingResult> {
        let result = self.run_waiting(5)?;
        if result.lost() > 0 {
            bail!(
                "{} → {}: {} of {} lost: {}",
                self.from.name(),
                self.to,
                result.lost(),
                result.sent,
                result.output
            );
        }
        Ok(result)
    }
}

fn parse(text: &str) -> Option<PingResult> {
    let line = text
        .lines()
        .find(|line| line.contains("packets transmitted"))?;
    let mut fields = line.split(", ");
    let sent = number(fields.next()?)?;
    let received = number(fields.next()?)?;
    let average = text
        .lines()
        .find(|line| line.starts_with("rtt "))
        .and_then(|line| line.split(" = ").nth(1)?.split('/').nth(1)?.parse().ok());
    Some(PingResult {
        sent,
        received,
        average,
        output: text.to_owned(),
    })
}

fn number(field: &str) -> Option<u32> {
    field.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_errors_are_counted() {
        let text = "PING 10.0.0.1\n\n--- 10.0.0.1 ping statistics ---\n\
            3 packets transmitted, 1 received, +2 errors, 66% packet loss, time 40ms\n\
            rtt min/avg/max/mdev = 0.030/0.041/0.060/0.010 ms\n";
        let result = parse(text).unwrap();
        assert_eq!((result.sent, result.received, result.lost()), (3, 1, 2));
        assert_eq!(result.average, Some(0.041));
        assert!(parse("ping: unknown host").is_none());
    }
}
