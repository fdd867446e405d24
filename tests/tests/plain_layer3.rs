//! Underlay devices whose packets begin with the IP header: barrier 3 stands there too, and plain
//! networks, whose frames are Ethernet, are refused in words.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::{Direction, DropReason as Reason};
use overlay_tests::{
    hostile::{
        DropCounts,
        craft::{self, Fragment, VXLAN_PORT},
    },
    lab::{Family, Lab, NetworkSpec, Node, NodeSpec, RawSocket, Spec},
    testrun::frames,
};

const VNI: u32 = 4097;
const TUNNEL: &str = "tun0";

/// The far side of a tun device: reads what left it.
struct Tun(File);

impl Tun {
    /// Makes the device in the node's namespace. It is there as long as this is.
    fn open(node: &Node) -> Result<Self> {
        /// include/uapi/linux/if_tun.h
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        // A kernel that has it built in, or loaded, needs none.
        let _status = Command::new("modprobe").arg("tun").status();
        let file = node.netns.enter(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            // SAFETY: an all-zero `ifreq` is valid.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (place, byte) in request.ifr_name.iter_mut().zip(TUNNEL.bytes()) {
                *place = byte as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
            // SAFETY: the request takes a pointer to an `ifreq`, which outlives the call.
            if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(file)
        })?;
        Ok(Self(file.context("make a tun device")?))
    }

    /// Whether this packet left, within a moment. The kernel's own packets are none of it.
    fn carries(&mut self, packet: &[u8]) -> Result<bool> {
        let mut buffer = [0; 2048];
        for _ in 0..20 {
            match self.0.read(&mut buffer) {
                Ok(length) if &buffer[..length] == packet => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error).context("read from the tun device"),
            }
        }
        Ok(false)
    }
}

#[test]
fn packets_without_an_ethernet_header_are_audited_and_plain_networks_refused() -> Result<()> {
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI))
            .node(NodeSpec::new().container("a", &["green"]))
            .node(NodeSpec::new().container("b", &["green"])),
    )?;
    let node = lab.node(1)?;
    let vtep = |index| lab.underlay.vtep(index, Family::V4);
    let (own, peer) = (vtep(1)?, vtep(2)?);
    let mut tun = Tun::open(node)?;
    node.netns.ip(&format!("link set {TUNNEL} up"))?;

    // A device that carries nothing of ours yet is audited all the same.
    let applied = node.apply(&lab.keyring)?;
    ensure!(
        applied
            .stdout
            .contains(&format!("attach underlay_audit_l3 to {TUNNEL}")),
        "{applied:?}"
    );

    let socket = RawSocket::open(&node.netns, TUNNEL)?;
    let vxlan = |vni| frames::udp(50_000, VXLAN_PORT, &frames::vxlan(vni, &[0x5a; 60]));
    let packet =
        |protocol, fragment, payload: &[u8]| craft::ip(own, peer, protocol, fragment, payload);
    for (name, packet, reason) in [
        (
            "injected VXLAN",
            packet(frames::UDP, Fragment::Whole, &vxlan(VNI)),
            Some(Reason::LocalInjection),
        ),
        (
            "VXLAN of an unknown VNI",
            packet(frames::UDP, Fragment::Whole, &vxlan(5000)),
            Some(Reason::CleartextEncryptedVni),
        ),
        (
            "a fragment",
            packet(frames::UDP, Fragment::Last { offset: 20 }, &vxlan(VNI)),
            Some(Reason::UnderlayFragment),
        ),
        (
            "ESP",
            packet(frames::ESP, Fragment::Whole, &[0x5a; 80]),
            None,
        ),
        (
            "UDP to another port",
            packet(
                frames::UDP,
                Fragment::Whole,
                &frames::udp(50_000, 53, &[0x5a; 40]),
            ),
            None,
        ),
    ] {
        let before = DropCounts::of(node)?;
        // The sender of a packet that TC drops is told ENOBUFS.
        let sent = socket.send(&packet);
        ensure!(sent.is_ok() == reason.is_none(), "{name}: {sent:?}");
        let left = tun.carries(&packet)?;
        let dropped = DropCounts::of(node)?.since(&before);
        ensure!(left == reason.is_none(), "{name}: left {left}, {dropped}");
        if let Some(reason) = reason {
            dropped.at_least(1, reason, Direction::ToUnderlay)?;
        }
    }

    lab.ping("a", "b", "green")?.lossless()?;
    node.netns
        .ip(&format!("route add {peer}/32 dev {TUNNEL}"))?;
    let applied = node.try_apply(&lab.keyring)?;
    ensure!(
        applied.status == 1 && applied.stderr.contains("carries no Ethernet frames"),
        "{applied:?}"
    );
    ensure!(lab.ping("a", "b", "green")?.run()?.received == 0);
    // Refused again, and nothing is left to do.
    let again = node.try_apply(&lab.keyring)?;
    ensure!(again.status == 1 && again.changes()? == 0, "{again:?}");

    node.netns
        .ip(&format!("route del {peer}/32 dev {TUNNEL}"))?;
    node.apply(&lab.keyring)?;
    lab.ping("a", "b", "green")?.lossless()?;
    Ok(())
}
