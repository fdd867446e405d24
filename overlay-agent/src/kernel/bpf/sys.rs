//! The bpf(2) commands that aya does not offer as needed: links by interface index, without its
//! silent fall-back to a netlink attachment that ends with the process, and what they are on.
//!
//! Layouts: `union bpf_attr` and `struct bpf_link_info` of include/uapi/linux/bpf.h. The kernel
//! takes any prefix of them and treats the rest as zero.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_cmd, bpf_link_type,
    bpf_map_type, bpf_prog_type,
};
use bytemuck::{Pod, Zeroable};

use super::hook::{Hook, XdpMode};

/// Programs in one TCX chain at the most (`BPF_MPROG_MAX`).
const MPROG_MAX: usize = 64;

/// # Safety
///
/// Every pointer in `attr` must be to memory that the command may read, or write, for the length
/// that `attr` says.
unsafe fn bpf<A: Pod>(command: bpf_cmd, attr: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is valid for its size; the caller vouches for what it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
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

/// # Safety
///
/// As [`bpf`]; and the command must return a new file descriptor.
unsafe fn bpf_fd<A: Pod>(command: bpf_cmd, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for both.
    unsafe { bpf(command, attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    // Descriptors are not negative.
    fd.as_raw_fd().unsigned_abs()
}

/// Attributes of BPF_OBJ_PIN and BPF_OBJ_GET.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens a pinned object.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr() as u64,
        ..ObjectAttr::zeroed()
    };
    // SAFETY: `path` is a C string that outlives the call; BPF_OBJ_GET returns a descriptor.
    unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) }
}

/// Pins an object.
pub(super) fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: fd_number(fd),
        file_flags: 0,
    };
    // SAFETY: `path` is a C string that outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Asks for the head of an object's `bpf_*_info`.
fn object_info<I: Pod>(object: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut attr = Attr {
        bpf_fd: fd_number(object),
        info_len: size_of::<I>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: `info` is writable for `info_len` bytes, any bytes are an `I`, and it outlives the
    // call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// What a link is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program: u32,
    /// 0 once the device is gone.
    pub(super) ifindex: u32,
}

/// Asks what an XDP or TCX link is on; `None` if it is another kind of link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<Option<LinkInfo>> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        /// First member of both `xdp` and `tcx`.
        ifindex: u32,
        attach_type: u32,
        rest: [u32; 10],
    }
    let mut info = Info::zeroed();
    object_info(link, &mut info)?;
    let ours = [
        bpf_link_type::BPF_LINK_TYPE_XDP as u32,
        bpf_link_type::BPF_LINK_TYPE_TCX as u32,
    ];
    Ok(ours.contains(&info.kind).then_some(LinkInfo {
        id: info.id,
        program: info.program,
        ifindex: info.ifindex,
    }))
}

const fn attach_type(hook: Hook) -> u32 {
    (match hook {
        Hook::TcIngress => bpf_attach_type::BPF_TCX_INGRESS,
        Hook::TcEgress => bpf_attach_type::BPF_TCX_EGRESS,
        Hook::Xdp(_) => bpf_attach_type::BPF_XDP,
    }) as u32
}

/// Attaches a program by a link; TCX links are put **first** in their chain.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: Hook,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative_id: u32,
        padding: u32,
        expected_revision: u64,
    }
    let mut attr = Attr {
        prog_fd: fd_number(program),
        target_ifindex: ifindex,
        attach_type: attach_type(hook),
        flags: match hook {
            Hook::TcIngress | Hook::TcEgress => BPF_F_BEFORE,
            Hook::Xdp(XdpMode::Native) => XDP_FLAGS_DRV_MODE,
            Hook::Xdp(XdpMode::Generic) => XDP_FLAGS_SKB_MODE,
        },
        ..Attr::zeroed()
    };
    // SAFETY: no pointers; BPF_LINK_CREATE returns a descriptor.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Replaces the program of a link, atomically.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr {
        link_fd: fd_number(link),
        new_prog_fd: fd_number(program),
        ..Attr::zeroed()
    };
    // SAFETY: no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link, whoever else holds it.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link_fd = fd_number(link);
    // SAFETY: no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut link_fd) }.map(drop)
}

/// One member of a TCX chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainMember {
    pub(super) program: u32,
    /// 0 for a program attached without a link.
    pub(super) link: u32,
}

/// The TCX chain of a device, in the order in which it runs.
pub(super) fn tcx_chain(ifindex: u32, hook: Hook) -> io::Result<Vec<ChainMember>> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        padding: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut programs = [0u32; MPROG_MAX];
    let mut links = [0u32; MPROG_MAX];
    let mut attr = Attr {
        target_ifindex: ifindex,
        attach_type: attach_type(hook),
        prog_ids: programs.as_mut_ptr() as u64,
        count: MPROG_MAX as u32,
        link_ids: links.as_mut_ptr() as u64,
        ..Attr::zeroed()
    };
    // SAFETY: both arrays are writable for `count` elements and outlive the call.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    Ok(programs
        .into_iter()
        .zip(links)
        .take(attr.count as usize)
        .map(|(program, link)| ChainMember { program, link })
        .collect())
}

/// What the commands for one entry of a map take (`union bpf_attr`, include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    /// Address of the key.
    key: u64,
    /// Address of the value.
    value: u64,
    flags: u64,
}

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

/// Reads an entry of an array map; `value` must have the map's value size.
pub(super) fn array_read(map: BorrowedFd<'_>, index: u32, value: &mut [u8]) -> io::Result<()> {
    let mut info = MapInfo::zeroed();
    object_info(map, &mut info)?;
    if info.kind != bpf_map_type::BPF_MAP_TYPE_ARRAY as u32
        || info.value_size as usize != value.len()
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attr = MapElement {
        map_fd: fd_number(map),
        key: std::ptr::from_ref(&index) as u64,
        value: value.as_mut_ptr() as u64,
        ..MapElement::zeroed()
    };
    // SAFETY: an array's key has four bytes, and `value` is writable for as many bytes as the
    // kernel writes, which it has just told.
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }.map(drop)
}

/// A part of a hash map: `keys` and `values` are filled from the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) entries: usize,
    /// Where the next part begins; `None` after the last one.
    pub(super) next: Option<u32>,
}

/// Reads the entries of a hash map from a bucket on, whole buckets only. `ENOSPC` if the first one has
/// more entries than fit.
pub(super) fn hash_read<const KS: usize, const VS: usize>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [[u8; KS]],
    values: &mut [[u8; VS]],
) -> io::Result<Batch> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    let mut info = MapInfo::zeroed();
    object_info(map, &mut info)?;
    if info.kind != bpf_map_type::BPF_MAP_TYPE_HASH as u32
        || (info.key_size as usize, info.value_size as usize) != (KS, VS)
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut next = 0u32;
    let mut attr = Attr {
        in_batch: from
            .as_ref()
            .map_or(0, |from| std::ptr::from_ref(from) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: fd_number(map),
        ..Attr::zeroed()
    };
    // SAFETY: the positions of a hash map have four bytes; `keys` and `values` are writable for
    // `count` entries of the sizes that the kernel has just told; all outlive the call.
    let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    let entries = attr.count as usize;
    match result {
        Ok(_) => Ok(Batch {
            entries,
            next: Some(next),
        }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Batch {
            entries,
            next: None,
        }),
        Err(error) => Err(error),
    }
}

/// Creates a map with keys and values of four bytes and one entry; `inner` is an example of what
/// a map of maps holds.
pub(super) fn map_create(
    map_type: bpf_map_type,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
    }
    let mut attr = Attr {
        map_type: map_type as u32,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner.map_or(0, fd_number),
    };
    // SAFETY: no pointers; BPF_MAP_CREATE returns a descriptor.
    unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Puts a map into the only entry of a map of maps made by [`map_create`].
pub(super) fn map_of_maps_set(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    let index = 0u32;
    let value = fd_number(inner);
    let mut attr = MapElement {
        map_fd: fd_number(outer),
        key: std::ptr::from_ref(&index) as u64,
        value: std::ptr::from_ref(&value) as u64,
        ..MapElement::zeroed()
    };
    // SAFETY: keys and values of a map of maps have four bytes, and both outlive the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Loads a TC program from instructions.
pub(super) fn classifier_load(instructions: &[u64], license: &CStr) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    let mut attr = Attr {
        prog_type: bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    // SAFETY: `instructions` and `license` outlive the call; the kernel reads `insn_cnt`
    // instructions of eight bytes; BPF_PROG_LOAD returns a descriptor.
    unsafe { bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

/// Runs a TC program once on a packet and returns its verdict.
pub(super) fn classifier_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
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
    }
    let mut attr = Attr {
        prog_fd: fd_number(program),
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ..Attr::zeroed()
    };
    // SAFETY: the kernel reads `data_size_in` bytes of `packet` and writes no packet back.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.retval)
}
