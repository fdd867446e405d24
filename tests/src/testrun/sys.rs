//! The bpf(2) commands that aya does not offer as needed: a program from bare instructions, its map,
//! and `BPF_PROG_TEST_RUN` on a descriptor.
//!
//! Layouts: `union bpf_attr` of include/uapi/linux/bpf.h. The kernel takes any prefix of it.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_BTF_LOAD: libc::c_long = 18;

const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// # Safety
///
/// Every pointer in `attr` must be to memory that the command may read, or write, for the length
/// that `attr` says.
unsafe fn bpf<A: Pod>(command: libc::c_long, attr: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is valid for its size; the caller vouches for what it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as libc::c_int)
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // Descriptors are not negative.
    fd.as_raw_fd().unsigned_abs()
}

/// A program array of one entry.
pub(super) fn program_array() -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    let mut attr = Attr {
        map_type: BPF_MAP_TYPE_PROG_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
    };
    // SAFETY: no pointers; BPF_MAP_CREATE returns a new descriptor.
    unsafe { bpf(BPF_MAP_CREATE, &mut attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Puts `program` into the array's one entry.
pub(super) fn set_program(array: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (key, value) = (0u32, number(program));
    let mut attr = Attr {
        map_fd: number(array),
        reserved: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: key and value are four bytes, as the map has them, and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop) }
}

/// Loads type information.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        btf: u64,
        log_buf: u64,
        size: u32,
        log_size: u32,
    }
    let mut attr = Attr {
        btf: btf.as_ptr() as u64,
        size: btf.len() as u32,
        ..Attr::zeroed()
    };
    // SAFETY: the bytes outlive the call and have the length given; BPF_BTF_LOAD returns a new
    // descriptor.
    unsafe { bpf(BPF_BTF_LOAD, &mut attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// `struct bpf_func_info`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct FunctionInfo {
    /// Position of the function's first instruction.
    pub(super) instruction: u32,
    pub(super) type_id: u32,
}

/// Loads a classifier from bare instructions.
pub(super) fn load_classifier(
    instructions: &[u64],
    btf: BorrowedFd<'_>,
    functions: &[FunctionInfo],
) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
        prog_btf_fd: u32,
        func_info_rec_size: u32,
        func_info: u64,
        func_info_cnt: u32,
        line_info_rec_size: u32,
    }
    let mut log = vec![0u8; 1 << 16];
    let mut attr = Attr {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        prog_btf_fd: number(btf),
        func_info_rec_size: size_of::<FunctionInfo>() as u32,
        func_info: functions.as_ptr() as u64,
        func_info_cnt: functions.len() as u32,
        ..Attr::zeroed()
    };
    // SAFETY: instructions, licence, log and functions outlive the call and have the lengths given;
    // BPF_PROG_LOAD returns a new descriptor.
    unsafe { bpf(BPF_PROG_LOAD, &mut attr).map(|fd| OwnedFd::from_raw_fd(fd)) }.map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        io::Error::other(format!("{error}: {}", String::from_utf8_lossy(&log[..end])))
    })
}

/// What a program did to a packet.
pub(super) struct Outcome<C> {
    pub(super) verdict: u32,
    pub(super) data: Vec<u8>,
    pub(super) context: C,
    /// How long it took, without the system call: the kernel's own measurement.
    pub(super) nanoseconds: u32,
}

/// Runs a program once (net/bpf/test_run.c).
pub(super) fn test_run<C: Pod>(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &C,
) -> io::Result<Outcome<C>> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        reserved: u32,
    }
    // Room for outer headers and for a packet that an answer makes longer.
    let mut data = vec![0; packet.len() + 512];
    let mut after = *context;
    let size = size_of::<C>() as u32;
    let mut attr = Attr {
        prog_fd: number(program),
        data_size_in: packet.len() as u32,
        data_size_out: data.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: data.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: size,
        ctx_size_out: size,
        ctx_in: std::ptr::from_ref(context) as u64,
        ctx_out: (&raw mut after) as u64,
        ..Attr::zeroed()
    };
    // SAFETY: all four buffers outlive the call, have the lengths given, and those written to are
    // exclusively ours; any bytes are valid for them.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr)? };
    data.truncate(attr.data_size_out as usize);
    Ok(Outcome {
        verdict: attr.retval,
        data,
        context: after,
        nanoseconds: attr.duration,
    })
}
