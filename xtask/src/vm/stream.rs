//! Telling a guest's output from the marker that ends it.

/// A part of what came from one output of the guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Output of the running command.
    Data(Vec<u8>),
    /// The command ended with this status.
    End(i32),
}

/// Finds `\x1eMARKER:STATUS\n` in a stream that arrives in arbitrary pieces.
#[derive(Debug)]
pub struct Scanner {
    marker: Vec<u8>,
    held: Vec<u8>,
}

impl Scanner {
    /// `marker` must not occur in any output; it is random for each boot.
    pub fn new(marker: &str) -> Self {
        Self {
            marker: format!("\x1e{marker}:").into_bytes(),
            held: Vec::new(),
        }
    }

    /// Takes the next bytes. What may be the start of a marker is held back.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        loop {
            let start = self.marker_start();
            if start > 0 {
                pieces.push(Piece::Data(self.held.drain(..start).collect()));
            }
            match self.take_marker() {
                Some(status) => pieces.push(Piece::End(status)),
                None => return pieces,
            }
        }
    }

    /// Where a marker, or what may become one, starts in what is held.
    fn marker_start(&self) -> usize {
        (0..self.held.len())
            .find(|&at| {
                let rest = &self.held[at..];
                rest.starts_with(&self.marker) || self.marker.starts_with(rest)
            })
            .unwrap_or(self.held.len())
    }

    /// Takes a whole marker from the front of what is held.
    fn take_marker(&mut self) -> Option<i32> {
        let rest = self.held.strip_prefix(self.marker.as_slice())?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let status = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        self.held.drain(..self.marker.len() + end + 1);
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> Piece {
        Piece::Data(text.as_bytes().to_vec())
    }

    #[test]
    fn output_before_and_after_a_marker_is_kept_apart() {
        let mut scanner = Scanner::new("ab");
        assert_eq!(
            scanner.feed(b"one\n\x1eab:3\ntwo"),
            [data("one\n"), Piece::End(3), data("two")]
        );
    }

    #[test]
    fn a_marker_in_single_bytes_is_found() {
        let mut scanner = Scanner::new("ab");
        let pieces: Vec<Piece> = b"x\x1eab:127\n"
            .iter()
            .flat_map(|&byte| scanner.feed(&[byte]))
            .collect();
        assert_eq!(pieces, [data("x"), Piece::End(127)]);
    }

    #[test]
    fn what_only_looks_like_a_marker_is_output() {
        let mut scanner = Scanner::new("ab");
        let mut pieces = scanner.feed(b"\x1ea");
        assert_eq!(pieces, []);
        pieces.extend(scanner.feed(b"c\n"));
        assert_eq!(pieces, [data("\x1eac\n")]);
    }

    #[test]
    fn output_is_not_held_back_without_need() {
        assert_eq!(Scanner::new("ab").feed(b"prompt> "), [data("prompt> ")]);
    }
}
