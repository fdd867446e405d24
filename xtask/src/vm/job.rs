//! A command for the guest, and how it becomes one line of bash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::quote;

/// A command for the guest.
#[derive(Debug, Clone)]
pub struct Job {
    /// The words, quoted.
    pub(super) line: String,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    pub(super) timeout: Option<Duration>,
    pub(super) silence: Option<Duration>,
}

impl Job {
    /// A program with its arguments.
    pub fn new<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Self {
        let words: Vec<String> = words.into_iter().map(|w| quote(w.as_ref())).collect();
        Self::line(words.join(" "))
    }

    /// A script for bash.
    pub fn script(text: &str) -> Self {
        Self::new(["bash", "-c", text])
    }

    /// A line for the guest's own shell.
    pub(super) fn line(line: String) -> Self {
        Self {
            line,
            environment: Vec::new(),
            directory: None,
            timeout: None,
            silence: None,
        }
    }

    /// Adds a variable to its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        let value = value.as_ref().to_string_lossy().into_owned();
        self.environment.push((name.to_owned(), value));
        self
    }

    /// A working directory other than that of the workspace.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// A time limit other than that of [`super::Options`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long it may print nothing. A guest that hangs is found sooner by it than by the time limit.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = Some(silence);
        self
    }

    /// One line of bash.
    pub(super) fn shell(&self, directory: &Path) -> String {
        let directory = self.directory.as_deref().unwrap_or(directory);
        let mut line = format!("cd {} &&", quote(&directory.to_string_lossy()));
        for (name, value) in &self.environment {
            line.extend([" ", name, "=", &quote(value)]);
        }
        line.extend([" ", &self.line]);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_line_whatever_its_words() {
        let line = Job::new(["printf", "a b\n"])
            .env("OVERLAY_BIN", "/t arget/overlay")
            .shell(Path::new("/work"));
        assert_eq!(
            line,
            r"cd /work && OVERLAY_BIN='/t arget/overlay' printf $'a b\012'"
        );
    }
}
