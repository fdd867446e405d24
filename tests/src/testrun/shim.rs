//! A program before and after the program under test, because `BPF_PROG_TEST_RUN` lets neither
//! `tc_index` nor a VLAN tag beside the packet in, and `tc_index` not out.
//!
//! It takes them from `cb`, which passes both ways, calls the program (a tail call in a function
//! returns to that function's caller), and puts `tc_index` back into `cb`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

use super::sys::{self, FunctionInfo};

/// `struct __sk_buff` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(super) struct SkBuff {
    pub(super) len: u32,
    pub(super) pkt_type: u32,
    pub(super) mark: u32,
    pub(super) queue_mapping: u32,
    pub(super) protocol: u32,
    pub(super) vlan_present: u32,
    pub(super) vlan_tci: u32,
    pub(super) vlan_proto: u32,
    pub(super) priority: u32,
    pub(super) ingress_ifindex: u32,
    pub(super) ifindex: u32,
    pub(super) tc_index: u32,
    pub(super) cb: [u32; 5],
    pub(super) hash: u32,
    pub(super) tc_classid: u32,
    pub(super) data: u32,
    pub(super) data_end: u32,
    pub(super) napi_id: u32,
    pub(super) family: u32,
    pub(super) remote_ip4: u32,
    pub(super) local_ip4: u32,
    pub(super) remote_ip6: [u32; 4],
    pub(super) local_ip6: [u32; 4],
    pub(super) remote_port: u32,
    pub(super) local_port: u32,
    pub(super) data_meta: u32,
    pub(super) flow_keys: [u32; 2],
    pub(super) tstamp: [u32; 2],
    pub(super) wire_len: u32,
    pub(super) gso_segs: u32,
    pub(super) sk: [u32; 2],
    pub(super) gso_size: u32,
    pub(super) tstamp_type: u32,
    pub(super) hwtstamp: [u32; 2],
}

/// Words of `cb`.
pub(super) const TC_INDEX_IN: usize = 0;
/// The tag control information, with [`VLAN_PRESENT`].
pub(super) const VLAN_IN: usize = 1;
pub(super) const TC_INDEX_OUT: usize = 2;
pub(super) const VLAN_PRESENT: u32 = 1 << 16;

/// What the shim returns if the program under test did not run.
const NOT_RUN: u32 = 0x0bad;

pub(super) struct Shim {
    program: OwnedFd,
    array: OwnedFd,
}

impl Shim {
    pub(super) fn load() -> io::Result<Self> {
        let array = sys::program_array()?;
        let btf = sys::load_btf(&btf())?;
        let functions = [(0, 3), (TAIL as u32, 4)].map(|(instruction, type_id)| FunctionInfo {
            instruction,
            type_id,
        });
        let program =
            sys::load_classifier(&instructions(array.as_raw_fd()), btf.as_fd(), &functions)?;
        Ok(Self { program, array })
    }

    /// Runs `program` on a packet.
    pub(super) fn run(
        &self,
        program: BorrowedFd<'_>,
        packet: &[u8],
        context: &SkBuff,
    ) -> io::Result<sys::Outcome<SkBuff>> {
        sys::set_program(self.array.as_fd(), program)?;
        let outcome = sys::test_run(self.program.as_fd(), packet, context)?;
        if outcome.verdict == NOT_RUN {
            return Err(io::Error::other("the tail call did not happen"));
        }
        Ok(outcome)
    }
}

/// Position of the function with the tail call.
const TAIL: i32 = 16;

fn instructions(array: i32) -> [u64; 22] {
    const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const STORE: u8 = 0x63; // BPF_STX | BPF_MEM | BPF_W
    const MOVE: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
    const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
    const IF_ZERO: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const LOAD_MAP: u8 = 0x18; // BPF_LD | BPF_DW | BPF_IMM
    const PSEUDO_CALL: u8 = 1;
    const PSEUDO_MAP_FD: u8 = 1;
    const VLAN_PUSH: i32 = 18;
    const TAIL_CALL: i32 = 12;
    const TC_INDEX: i16 = std::mem::offset_of!(SkBuff, tc_index) as i16;
    const fn cb(word: usize) -> i16 {
        (std::mem::offset_of!(SkBuff, cb) + 4 * word) as i16
    }
    const TPID: i32 = 0x8100u16.to_be() as i32;

    let i = instruction;
    [
        i(MOVE, 6, 1, 0, 0),
        i(LOAD, 7, 6, cb(TC_INDEX_IN), 0),
        i(STORE, 6, 7, TC_INDEX, 0),
        i(LOAD, 3, 6, cb(VLAN_IN), 0),
        i(IF_ZERO, 3, 0, 4, 0),
        i(MOVE, 1, 6, 0, 0),
        i(SET, 2, 0, 0, TPID),
        i(AND, 3, 0, 0, 0xffff),
        i(CALL, 0, 0, 0, VLAN_PUSH),
        i(MOVE, 1, 6, 0, 0),
        // Counted from the instruction after this.
        i(CALL, 0, PSEUDO_CALL, 0, TAIL - 11),
        i(MOVE, 8, 0, 0, 0),
        i(LOAD, 7, 6, TC_INDEX, 0),
        i(STORE, 6, 7, cb(TC_INDEX_OUT), 0),
        i(MOVE, 0, 8, 0, 0),
        i(EXIT, 0, 0, 0, 0),
        i(LOAD_MAP, 2, PSEUDO_MAP_FD, 0, array),
        i(0, 0, 0, 0, 0),
        i(SET, 3, 0, 0, 0),
        i(CALL, 0, 0, 0, TAIL_CALL),
        i(SET, 0, 0, 0, NOT_RUN as i32),
        i(EXIT, 0, 0, 0, 0),
    ]
}

/// Type information for the two functions, without which the kernel refuses a tail call in the
/// second (include/uapi/linux/btf.h).
fn btf() -> Vec<u8> {
    const KIND_INT: u32 = 1 << 24;
    const KIND_FUNC: u32 = 12 << 24;
    const KIND_FUNC_PROTO: u32 = 13 << 24;
    const SIGNED_32: u32 = 1 << 24 | 32;
    let names = b"\0int\0shim\0tail\0";
    let types: &[u32] = &[
        1,
        KIND_INT,
        4,
        SIGNED_32, // type 1: `int`
        0,
        KIND_FUNC_PROTO,
        1, // type 2: a function that returns it
        5,
        KIND_FUNC,
        2, // type 3
        10,
        KIND_FUNC,
        2, // type 4
    ];
    let types: &[u8] = bytemuck::cast_slice(types);
    let mut btf = Vec::new();
    btf.extend(0xeb9fu16.to_ne_bytes());
    btf.extend([1, 0]);
    let length = types.len() as u32;
    for word in [24, 0, length, length, names.len() as u32] {
        btf.extend(word.to_ne_bytes());
    }
    btf.extend(types);
    btf.extend(names);
    btf
}

/// `struct bpf_insn`.
fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let registers = if cfg!(target_endian = "little") {
        source << 4 | destination
    } else {
        destination << 4 | source
    };
    let mut bytes = [opcode, registers, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_has_the_kernels_layout() {
        assert_eq!(std::mem::offset_of!(SkBuff, tc_index), 44);
        assert_eq!(std::mem::offset_of!(SkBuff, cb), 48);
        assert_eq!(std::mem::offset_of!(SkBuff, data_meta), 140);
        assert_eq!(std::mem::offset_of!(SkBuff, gso_segs), 164);
        assert_eq!(std::mem::offset_of!(SkBuff, gso_size), 176);
        assert_eq!(size_of::<SkBuff>(), 192);
    }
}
