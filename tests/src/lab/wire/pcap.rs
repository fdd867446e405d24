//! The classic capture file format (pcap-savefile(5)), microseconds, Ethernet.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::Frame;

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const LARGEST: u32 = 256 * 1024;

pub(super) fn save<'a>(path: &Path, frames: impl Iterator<Item = Frame<'a>>) -> Result<()> {
    let attempt = || format!("write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(attempt)?);
    let mut words = vec![MAGIC, 2 | 4 << 16, 0, 0, LARGEST, ETHERNET];
    let mut put = |words: &[u32], bytes: &[u8]| {
        for word in words {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(bytes)
    };
    put(&words, &[]).with_context(attempt)?;
    for frame in frames {
        let length = u32::try_from(frame.bytes.len())?;
        let seconds = u32::try_from(frame.at.as_secs())?;
        words = vec![seconds, frame.at.subsec_micros(), length, length];
        put(&words, frame.bytes).with_context(attempt)?;
    }
    file.flush().with_context(attempt)
}
