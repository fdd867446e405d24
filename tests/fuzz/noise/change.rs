//! Changes of bytes that a parser may meet.

/// Changes up to four bytes. `below` gives random numbers below a limit.
pub fn change(bytes: &mut [u8], mut below: impl FnMut(usize) -> usize) {
    for _ in 0..=below(4) {
        let at = below(bytes.len());
        bytes[at] = match below(4) {
            0 => 0,
            1 => 0xff,
            // A byte of another place: fields take each other's values.
            2 => bytes[below(bytes.len())],
            _ => below(256) as u8,
        };
    }
}
