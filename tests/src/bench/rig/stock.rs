//! Docker's data path, and the kernel's best case.

use anyhow::{Context as _, Result, bail};

use super::{
    PORT, VNI, VXLAN, WIRE_MTU,
    pair::{HOST, Pair},
};
use crate::{
    bench::{Cipher, cipher::Sa},
    lab::{Netns, WIRE},
};

/// Docker's mark and reqid (`moby/libnetwork/drivers/overlay/encryption.go`).
const DOCKER_MARK: u32 = 0x00d0_c4e3;

/// As Docker's overlay driver sets it up: the vxlan device is made on the host, which is where its
/// packets are sent from, and moved into the network's own namespace, with the flags of `createVxlan`
/// (moby, `ov_utils.go`: learning, proxy, misses told).
pub(super) fn docker(pair: &Pair, cipher: Cipher) -> Result<()> {
    for at in [0, 1] {
        let (host, sandbox) = (&pair.hosts[at], &pair.sandboxes[at]);
        let mtu = mtu(cipher);
        host.ip(&format!(
            "link add vx0 mtu {mtu} type vxlan id {VNI} dstport {PORT} learning proxy l2miss l3miss"
        ))?;
        host.ip(&format!("link set vx0 netns {}", sandbox.name()))?;
        pair.bridge(sandbox, at, mtu, HOST[1 - at])?;
        if cipher.is_encrypted() {
            states(host, at, cipher)?;
            let (own, other) = (HOST[at], HOST[1 - at]);
            host.ip(&format!(
                "xfrm policy add src {own} dst {other} proto udp dport {PORT} dir out mark \
                 {DOCKER_MARK:#x} mask 0xffffffff tmpl src {own} dst {other} proto esp spi {:#x} \
                 reqid {DOCKER_MARK} mode transport",
                spi(at)
            ))?;
            rules(host)?;
        }
    }
    Ok(())
}

/// The rules of `programMangle` and `programInput` (moby, `encryption.go`). The VNI is found by a
/// classic BPF program where iptables has it, else by u32, as Docker does.
fn rules(host: &Netns) -> Result<()> {
    let vni = VNI << 8;
    let matches = [
        // X ← length of the IP header; A ← the VNI's word of the VXLAN header; compare.
        format!(
            "-m bpf --bytecode 6,177 0 0 0,64 0 0 12,84 0 0 4294967040,21 0 1 {vni},6 0 0 65535,6 0 0 0"
        ),
        format!("-m u32 --u32 0>>22&0x3C@12&0xFFFFFF00={vni}"),
    ];
    let mut refused = String::new();
    for program in ["iptables", "iptables-legacy"] {
        for matching in &matches {
            let mangle = format!(
                "-t mangle -A OUTPUT -p udp --dport {PORT} {matching} -j MARK --set-mark {DOCKER_MARK}"
            );
            if let Err(error) = iptables(host, program, &mangle) {
                refused = format!("{error:#}");
                continue;
            }
            for input in [
                format!(
                    "-m policy --dir in --pol ipsec -p udp --dport {PORT} {matching} -j ACCEPT"
                ),
                format!("-p udp --dport {PORT} {matching} -j DROP"),
            ] {
                iptables(host, program, &format!("-A INPUT {input}"))
                    .with_context(|| format!("Docker's rules by {program}"))?;
            }
            return Ok(());
        }
    }
    bail!("no iptables here can match a VNI: {refused}")
}

/// Bytecode is one argument, and has spaces.
fn iptables(host: &Netns, program: &str, arguments: &str) -> Result<()> {
    let mut command = host.command(program);
    command.arg("--wait");
    if let Some((before, rest)) = arguments.split_once("--bytecode ")
        && let Some((code, after)) = rest.split_once(" -j")
    {
        command.args(before.split_whitespace());
        command.args(["--bytecode", code, "-j"]);
        command.args(after.split_whitespace());
    } else {
        command.args(arguments.split_whitespace());
    }
    crate::lab::command::capture(&mut command, crate::lab::command::QUICK).map(drop)
}

/// Bridge and vxlan on the host itself; without mark and rules the kernel keeps route and IPsec bundle
/// per destination.
pub(super) fn kernel(pair: &Pair, cipher: Cipher) -> Result<()> {
    for at in [0, 1] {
        let host = &pair.hosts[at];
        let (own, other) = (HOST[at], HOST[1 - at]);
        let mtu = mtu(cipher);
        host.ip(&format!(
            "link add vx0 mtu {mtu} type vxlan id {VNI} local {own} dev {WIRE} dstport {PORT} \
             nolearning proxy"
        ))?;
        pair.bridge(host, at, mtu, other)?;
        if cipher.is_encrypted() {
            states(host, at, cipher)?;
            host.ip(&format!(
                "xfrm policy add src {own} dst {other} proto udp dport {PORT} dir out tmpl src {own} \
                 dst {other} proto esp spi {:#x} reqid {DOCKER_MARK} mode transport",
                spi(at)
            ))?;
        }
    }
    Ok(())
}

/// The MTU that our network has on this wire (docs/dataplane.md): nobody gains by smaller packets.
fn mtu(cipher: Cipher) -> u32 {
    match cipher {
        Cipher::Plain => WIRE_MTU - VXLAN,
        Cipher::AesGcm | Cipher::Null => 1416,
    }
}

/// Both directions of a host.
fn states(host: &Netns, at: usize, cipher: Cipher) -> Result<()> {
    for sender in [at, 1 - at] {
        cipher.install(
            host,
            &Sa {
                source: HOST[sender].to_owned(),
                destination: HOST[1 - sender].to_owned(),
                spi: spi(sender),
                reqid: DOCKER_MARK,
                mode: "transport".to_owned(),
                if_id: None,
            },
        )?;
    }
    Ok(())
}

fn spi(sender: usize) -> u32 {
    0x1000 + sender as u32
}
