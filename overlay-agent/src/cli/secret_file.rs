//! Secrets that the user gives: from a file or from standard input, never as an argument.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use zeroize::Zeroizing;

use super::{Failure, terminal::Terminal};

/// Bytes of a file with a secret at the most.
const MAX: u64 = 4096;

/// The secret in a file, or with `-` from standard input. White space around it is not of it.
pub fn read(
    path: &Path,
    prompt: &str,
    terminal: &mut Terminal,
) -> Result<Zeroizing<String>, Failure> {
    if path == Path::new("-") {
        return terminal.secret(prompt);
    }
    let file = File::open(path)
        .with_context(|| format!("cannot open {}", path.display()))
        .map_err(Failure::Input)?;
    let found = file
        .metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?;
    if found.is_file() && found.mode() & 0o077 != 0 {
        return Err(Failure::Input(anyhow!(
            "{} holds a secret and others may use it (mode {:04o}): `chmod 600` it, and consider the secret known",
            path.display(),
            found.mode() & 0o7777
        )));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX as usize + 1));
    file.take(MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(Failure::Input)?;
    if text.len() as u64 > MAX {
        return Err(Failure::Input(anyhow!(
            "{} is longer than any secret: name the right file",
            path.display()
        )));
    }
    let trimmed = Zeroizing::new(text.trim().to_owned());
    if trimmed.is_empty() {
        return Err(Failure::Input(anyhow!(
            "{} is empty: put the secret there",
            path.display()
        )));
    }
    Ok(trimmed)
}

/// A new file, mode 0600. It is removed when dropped, unless it was finished.
pub struct NewFile {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl NewFile {
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| {
                format!(
                    "cannot create {} (an existing file is not overwritten)",
                    path.display()
                )
            })
            .map_err(Failure::Input)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            finished: false,
        })
    }

    pub fn finish(mut self, content: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(content)
            .and_then(|()| self.file.sync_all())
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // Empty or in part: of no use to anyone.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn reading(path: &Path, input: &'static str) -> Result<Zeroizing<String>, Failure> {
        let mut terminal = Terminal::scripted(std::io::sink(), std::io::sink(), input, false);
        read(path, "Token", &mut terminal)
    }

    fn why(result: Result<Zeroizing<String>, Failure>) -> String {
        match result.map(|_| ()).unwrap_err() {
            Failure::Input(error) | Failure::Host(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_secret_comes_from_a_private_file_or_from_standard_input() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "  secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = why(reading(&path, ""));
        assert!(error.contains("chmod 600"), "{error}");
        assert!(!error.contains("secret\n"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*reading(&path, "").ok().unwrap(), "secret");
        let typed = reading(Path::new("-"), "typed\nnext line\n");
        assert_eq!(*typed.ok().unwrap(), "typed");
        assert!(why(reading(Path::new("-"), "\n")).contains("standard input"));
        fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(why(reading(&path, "")).contains("longer"));
        fs::write(&path, "\n").unwrap();
        assert!(why(reading(&path, "")).contains("empty"));
        assert!(why(reading(&directory.path().join("none"), "")).contains("none"));
    }

    #[test]
    fn a_new_file_is_private_whole_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let file = NewFile::create(&path).ok().unwrap();
        assert!(NewFile::create(&path).is_err());
        drop(file);
        assert!(!path.exists());
        let file = NewFile::create(&path).ok().unwrap();
        assert!(file.finish(b"content").is_ok());
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }
}
