//! What the running kernel can do, found by trying.

use std::os::fd::{AsFd as _, OwnedFd};

use super::{error::BpfError, hook::Hook, netlink::Netlink, sys};

const MOV: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The licence that the helpers demand.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// Whether TC programs can be attached by TCX links (kernel 6.6): asks for the chain of loopback.
pub fn supports_tcx() -> Result<bool, BpfError> {
    const LOOPBACK: u32 = 1;
    match sys::tcx_chain(LOOPBACK, Hook::TcIngress) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(true),
            // An attach type that the kernel does not know.
            Some(libc::EINVAL) => Ok(false),
            _ => Err(BpfError::Probe {
                feature: "TCX",
                source: error,
            }),
        },
    }
}

/// Whether `bpf_skb_adjust_room` knows `BPF_F_ADJ_ROOM_DECAP_L3_*` (kernel 6.3): runs a program
/// that uses it on a packet, with `BPF_PROG_TEST_RUN`.
pub fn supports_decap_l3() -> Result<bool, BpfError> {
    const BPF_ADJ_ROOM_MAC: i32 = 1;
    const BPF_F_ADJ_ROOM_DECAP_L3_IPV4: i32 = 1 << 7;
    const BPF_FUNC_SKB_ADJUST_ROOM: i32 = 50;
    const IPV4_HEADER: i32 = 20;

    let program = [
        instruction(MOV, 2, -IPV4_HEADER),
        instruction(MOV, 3, BPF_ADJ_ROOM_MAC),
        instruction(MOV, 4, BPF_F_ADJ_ROOM_DECAP_L3_IPV4),
        instruction(CALL, 0, BPF_FUNC_SKB_ADJUST_ROOM),
        instruction(EXIT, 0, 0),
    ];
    // Ethernet, then an IPv4 header that the program removes, then one that stays.
    let mut packet = [0u8; 14 + 3 * IPV4_HEADER as usize];
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14] = 0x45;
    packet[14 + IPV4_HEADER as usize] = 0x45;

    sys::classifier_load(&program, LICENSE)
        .and_then(|program| sys::classifier_run(program.as_fd(), &packet))
        .map(|result| result == 0)
        .map_err(|source| BpfError::Probe {
            feature: "decapsulation across address families",
            source,
        })
}

/// Attaches a program to a veth that sends what arrives there back to its peer by
/// `bpf_redirect_peer`: while the link is held, or, without TCX, while the device lives.
pub fn return_to_peer(ifindex: u32) -> Result<Option<OwnedFd>, BpfError> {
    const BPF_FUNC_REDIRECT_PEER: i32 = 155;
    const HOOK: Hook = Hook::TcIngress;

    let program = [
        instruction(MOV, 1, ifindex as i32),
        instruction(MOV, 2, 0),
        instruction(CALL, 0, BPF_FUNC_REDIRECT_PEER),
        instruction(EXIT, 0, 0),
    ];
    let failed = |source| BpfError::Probe {
        feature: "bpf_redirect_peer",
        source,
    };
    let program = sys::classifier_load(&program, LICENSE).map_err(failed)?;
    if supports_tcx()? {
        let link = sys::link_create(program.as_fd(), ifindex, HOOK);
        return link.map(Some).map_err(failed);
    }
    let attach = || {
        let mut netlink = Netlink::open()?;
        netlink.add_clsact(ifindex)?;
        netlink.set_filter(ifindex, HOOK, 1, 1, program.as_fd(), "probe")
    };
    attach().map_err(|error| failed(error.into()))?;
    Ok(None)
}

/// `struct bpf_insn`: opcode, registers (source 0), offset 0, immediate.
fn instruction(opcode: u8, destination: u8, immediate: i32) -> u64 {
    let mut bytes = [0; 8];
    bytes[0] = opcode;
    bytes[1] = if cfg!(target_endian = "little") {
        destination
    } else {
        destination << 4
    };
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}
