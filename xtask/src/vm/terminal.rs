//! Our terminal, while it is the guest's.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::command;

/// Our terminal's settings, restored on drop: QEMU killed leaves it raw.
pub struct Terminal(Option<OsString>);

impl Terminal {
    pub fn save() -> Self {
        let settings = stty(&["-g".into()]).map(|s| s.trim().into());
        Self(settings)
    }

    /// Rows and columns.
    pub fn size() -> Option<(String, String)> {
        let size = stty(&["size".into()])?;
        let (rows, columns) = size.trim().split_once(' ')?;
        Some((rows.to_owned(), columns.to_owned()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = self.0.take() {
            stty(&[settings]);
        }
    }
}

fn stty(arguments: &[OsString]) -> Option<String> {
    let output = Command::new(command::find_program("stty")?)
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}
