//! How the network of a run is encrypted, and the SAs of that.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::lab::{
    Netns,
    command::{self, QUICK},
};

/// Encryption of the overlay network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Cipher {
    /// No IPsec at all.
    Plain,
    /// AES-256-GCM with an ICV of 128 bits; for WireGuard its own ChaCha20-Poly1305.
    AesGcm,
    /// ESP that neither encrypts nor authenticates: the path without the arithmetic. Nothing but this
    /// benchmark installs such SAs; the agent has no way to.
    Null,
}

impl Cipher {
    /// As in the samples.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::AesGcm => "aes-gcm",
            Self::Null => "null",
        }
    }

    pub fn is_encrypted(self) -> bool {
        self != Self::Plain
    }

    /// Arguments of `ip xfrm state`; `seed` makes the key of AES. These keys protect nothing.
    fn algorithms(self, seed: u32) -> Vec<String> {
        match self {
            Self::Plain => Vec::new(),
            Self::AesGcm => {
                let key = format!("{seed:08x}").repeat(9);
                ["aead", "rfc4106(gcm(aes))", &format!("0x{key}"), "128"]
                    .map(str::to_owned)
                    .into()
            }
            Self::Null => ["enc", "ecb(cipher_null)", "", "auth", "digest_null", ""]
                .map(str::to_owned)
                .into(),
        }
    }

    /// Installs an SA with the replay protection that ours has, in a namespace.
    pub(super) fn install(self, netns: &Netns, sa: &Sa) -> Result<()> {
        let mut command = sa.command(netns, "add");
        command.args(["reqid", &sa.reqid.to_string(), "mode", &sa.mode]);
        command.args(["flag", "esn", "replay-window", "1024"]);
        command.args(self.algorithms(sa.spi));
        if let Some(if_id) = &sa.if_id {
            command.args(["if_id", if_id]);
            command.args(["sel", "src", &sa.source, "dst", &sa.destination]);
        }
        command::capture(&mut command, QUICK)
            .with_context(|| format!("an SA with {} in {}", self.name(), netns.name()))
            .map(drop)
    }
}

/// What a host with udev has loaded by the processor's features, and what lets ESP keep GSO, which
/// nothing loads by itself for Docker and for `ip xfrm`: they get the kernel's best here too.
const MODULES: [&str; 4] = ["aesni_intel", "esp4_offload", "wireguard", "vxlan"];

/// Loads what makes the ciphers fast; a kernel may have it built in, or lack it.
pub(super) fn load_modules() {
    for module in MODULES {
        let _absent = command::shell("modprobe", module);
    }
}

/// The driver that the kernel has chosen for AES-GCM in ESP, once an SA has used it.
pub(super) fn aes_driver() -> Option<String> {
    let known = std::fs::read_to_string("/proc/crypto").ok()?;
    driver(&known).map(str::to_owned)
}

/// In the order of `/proc/crypto` the fields of an algorithm follow its name.
fn driver(known: &str) -> Option<&str> {
    let mut lines = known.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(field, value)| field.trim() == "name" && value.trim() == "rfc4106(gcm(aes))")?;
    let (_, driver) = lines.find(|(field, _)| field.trim() == "driver")?;
    Some(driver.trim())
}

/// An SA, but for its cipher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sa {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) spi: u32,
    pub(super) reqid: u32,
    pub(super) mode: String,
    pub(super) if_id: Option<String>,
}

impl Sa {
    fn command(&self, netns: &Netns, verb: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["-n", netns.name(), "xfrm", "state", verb]);
        command.args(["src", &self.source, "dst", &self.destination]);
        command.args(["proto", "esp", "spi", &format!("{:#x}", self.spi)]);
        command
    }
}

/// Replaces the SAs that the agent made in a namespace by ones with this cipher, alike in all else.
pub(super) fn replace(netns: &Netns, cipher: Cipher) -> Result<()> {
    let listed = netns.ip("xfrm state list nokeys")?;
    for sa in parse(&listed)? {
        command::capture(&mut sa.command(netns, "delete"), QUICK)?;
        cipher.install(netns, &sa)?;
    }
    Ok(())
}

/// The SAs in the output of `ip xfrm state`.
fn parse(listed: &str) -> Result<Vec<Sa>> {
    let mut found: Vec<Sa> = Vec::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|found| *found == word)?;
            words.get(at + 1).map(|value| (*value).to_owned())
        };
        if !line.starts_with(char::is_whitespace) {
            found.push(Sa {
                source: after("src").context("an SA has a source")?,
                destination: after("dst").context("an SA has a destination")?,
                spi: 0,
                reqid: 0,
                mode: String::new(),
                if_id: None,
            });
            continue;
        }
        let Some(sa) = found.last_mut() else {
            continue;
        };
        if let (Some(spi), Some(reqid), Some(mode)) = (after("spi"), after("reqid"), after("mode"))
        {
            sa.spi =
                u32::from_str_radix(spi.trim_start_matches("0x"), 16).context("read an SPI")?;
            sa.reqid = number(&reqid)?;
            sa.mode = mode;
        }
        if let Some(if_id) = after("if_id") {
            sa.if_id = Some(if_id);
        }
    }
    Ok(found)
}

/// `7`, and `7(0x00000007)` as newer versions write it.
fn number(text: &str) -> Result<u32> {
    let digits = text.split('(').next().unwrap_or(text);
    digits
        .parse()
        .with_context(|| format!("read the number {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
src 192.0.2.1 dst 192.0.2.2
\tproto esp spi 0x00001010 reqid 7304044 mode transport
\treplay-window 0 flag esn
\tanti-replay esn context:
\t seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x0
\tsel src 0.0.0.0/0 dst 0.0.0.0/0
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0x00002010 reqid 7304044(0x006f736c) mode beet
\tif_id 0x6f766c
\tsel src 192.0.2.2/32 dst 192.0.2.1/32
";

    #[test]
    fn the_driver_is_the_one_of_the_algorithm() {
        let known = "name         : gcm(aes)\ndriver       : other\n\n\
                     name         : rfc4106(gcm(aes))\ndriver       : rfc4106-gcm-aesni\n";
        assert_eq!(driver(known), Some("rfc4106-gcm-aesni"));
        assert_eq!(driver("name         : gcm(aes)\n"), None);
    }

    #[test]
    fn sas_are_read_with_what_distinguishes_them() {
        let found = parse(LISTED).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].spi, &*found[0].mode, &found[0].if_id),
            (0x1010, "transport", &None)
        );
        assert_eq!(found[1].reqid, 7_304_044);
        assert_eq!(found[1].if_id.as_deref(), Some("0x6f766c"));
        assert_eq!(found[1].source, "192.0.2.2");
    }
}
