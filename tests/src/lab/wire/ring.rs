//! Frames of a device, copied the moment they pass (`TPACKET_V3`, packet(7) and
//! Documentation/networking/packet_mmap.rst).
//!
//! The queue of an ordinary packet socket holds references: on a veth wire the receiving node
//! decrypts in place, in the very pages that wait there to be read, and the capture would show
//! plaintext that was never on the wire. A ring is filled by copying at once.

use std::{
    io,
    mem::{offset_of, size_of},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use memmap2::{MmapOptions, MmapRaw};

use crate::lab::{
    Netns, bind_packet_socket, packet_socket,
    raw_socket::{PACKET_IGNORE_OUTGOING, interface_index},
    set_option,
};

/// A block holds frames of any length, one after the other.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 128;
/// A block that is not full is handed over after this time. With few frames in each, the ring lasts for
/// this times its blocks: an emulated machine may be busy that long.
pub(super) const RETIRE: Duration = Duration::from_millis(60);
/// Only what the kernel checks the other sizes against.
const FRAME: usize = 2048;

/// Where the fields of a block lie.
const HEADER: usize = offset_of!(libc::tpacket_block_desc, hdr);
const STATUS: usize = HEADER + offset_of!(libc::tpacket_hdr_v1, block_status);
const COUNT: usize = HEADER + offset_of!(libc::tpacket_hdr_v1, num_pkts);
const FIRST: usize = HEADER + offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt);

/// Frames that passed a device, in memory shared with the kernel.
#[derive(Debug)]
pub(super) struct Ring {
    socket: OwnedFd,
    memory: MmapRaw,
    /// The block that is handed over next.
    next: usize,
}

/// A frame as it passed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed<'a> {
    /// Since the Unix epoch.
    pub at: Duration,
    pub bytes: &'a [u8],
    /// Whether nothing was cut off.
    pub whole: bool,
}

impl Ring {
    /// Takes all frames of a device of a namespace from now on; those that the node itself sends, too,
    /// unless told to ignore them.
    pub fn open(netns: &Netns, device: &str, ignore_outgoing: bool) -> Result<Self> {
        netns
            .enter(|| Self::open_here(device, ignore_outgoing))?
            .with_context(|| format!("capture on {device} in {}", netns.name()))
    }

    fn open_here(device: &str, ignore_outgoing: bool) -> io::Result<Self> {
        let socket = packet_socket()?;
        let set = |name, value: libc::c_int| set_option(&socket, libc::SOL_PACKET, name, value);
        set(
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V3 as libc::c_int,
        )?;
        if ignore_outgoing {
            set(PACKET_IGNORE_OUTGOING, 1)?;
        }
        let ring = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (BLOCK / FRAME * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE.as_millis() as u32,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, ring)?;
        let memory = MmapOptions::new().len(BLOCK * BLOCKS).map_raw(&socket)?;
        bind_packet_socket(&socket, interface_index(device)?)?;
        Ok(Self {
            socket,
            memory,
            next: 0,
        })
    }

    /// Shows the frames of the next block and gives it back; false if the kernel still has it.
    pub fn take(&mut self, mut each: impl FnMut(Passed<'_>)) -> bool {
        let start = self.next * BLOCK;
        // SAFETY: the block lies in the mapping and is aligned to its own size; both sides change
        // this field by single stores only.
        let status =
            unsafe { AtomicU32::from_ptr(self.memory.as_mut_ptr().add(start + STATUS).cast()) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: the block lies in the mapping, and is ours until its status says otherwise.
        let block = unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), BLOCK) };
        let mut at = word(block, FIRST) as usize;
        for _ in 0..word(block, COUNT) {
            let header = &block[at..];
            let field = |offset| word(header, offset);
            let length = field(offset_of!(libc::tpacket3_hdr, tp_snaplen));
            let start = usize::from(half(header, offset_of!(libc::tpacket3_hdr, tp_mac)));
            each(Passed {
                at: Duration::new(
                    field(offset_of!(libc::tpacket3_hdr, tp_sec)).into(),
                    field(offset_of!(libc::tpacket3_hdr, tp_nsec)),
                ),
                bytes: &header[start..start + length as usize],
                whole: length == field(offset_of!(libc::tpacket3_hdr, tp_len)),
            });
            at += field(offset_of!(libc::tpacket3_hdr, tp_next_offset)) as usize;
        }
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % BLOCKS;
        true
    }

    /// Frames for which there was no room.
    pub fn missed(&self) -> Result<u32> {
        let mut stats = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: `stats` and `length` are valid for writes, and `length` is the size of `stats`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("ask a packet socket what it missed");
        }
        Ok(stats.tp_drops)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}
