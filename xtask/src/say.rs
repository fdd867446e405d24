//! What xtask tells its user. Everything goes to standard error, so that the
//! standard output of a guest's command can be piped.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// A step that may take a while, announced before it starts.
pub fn step(what: impl Display) {
    line("==>", "1;34", what);
}

/// What came out of a step, or a fact the user should know.
pub fn note(what: impl Display) {
    line("   ", "0", what);
}

/// Something left out or degraded; the work goes on.
pub fn warn(what: impl Display) {
    line("warning:", "1;33", what);
}

/// Announces a step and, when dropped, how long it took.
pub fn timed(what: impl Display) -> Timed {
    step(&what);
    Timed(Instant::now())
}

/// See [`timed`].
pub struct Timed(Instant);

impl Drop for Timed {
    fn drop(&mut self) {
        let seconds = self.0.elapsed().as_secs_f32();
        if seconds >= 2.0 {
            note(format_args!("took {seconds:.0} s"));
        }
    }
}

fn line(head: &str, color: &str, what: impl Display) {
    let mut err = std::io::stderr().lock();
    // A closed standard error is no reason to stop the work.
    let _ignored = if err.is_terminal() {
        writeln!(err, "\x1b[{color}m{head}\x1b[0m {what}")
    } else {
        writeln!(err, "{head} {what}")
    };
}
