//! Manual pages and shell completions of both programs, from the definition of their commands.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::Shell;

/// A directory for manual pages that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write manual pages to {}: {source}", directory.display())]
pub struct PagesError {
    directory: PathBuf,
    source: io::Error,
}

/// Completions of a command for a shell.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each command and each of its subcommands.
pub fn manual(
    commands: impl IntoIterator<Item = Command>,
    directory: &Path,
) -> Result<(), PagesError> {
    let write = || {
        fs::create_dir_all(directory)?;
        for command in commands {
            clap_mangen::generate_to(command, directory)?;
        }
        Ok(())
    };
    write().map_err(|source| PagesError {
        directory: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, process};

    use super::*;
    use crate::{cli, daemon};

    fn definitions() -> [Command; 2] {
        [cli::command(), daemon::command::definition()]
    }

    /// Names of the pages of a command and all that is below it.
    fn pages(command: &Command, above: &str, into: &mut BTreeSet<String>) {
        let name = format!("{above}{}", command.get_name());
        into.insert(format!("{name}.1"));
        for below in command.get_subcommands() {
            if !below.is_hide_set() {
                pages(below, &format!("{name}-"), into);
            }
        }
    }

    #[test]
    fn each_command_has_a_page_that_says_what_it_is_for() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("man/man1");
        manual(definitions(), &out).unwrap();
        let mut expected = BTreeSet::new();
        for definition in definitions() {
            pages(&definition, "", &mut expected);
        }
        for page in &expected {
            let text = fs::read_to_string(out.join(page))
                .unwrap_or_else(|error| panic!("{page}: {error}"));
            let name = text.split(".SH NAME").nth(1).unwrap();
            let line = name.trim_start().lines().next().unwrap();
            assert!(
                line.contains(" \\- "),
                "{page} does not say what it is for: {line}"
            );
        }
        assert!(expected.contains("overlay.1") && expected.contains("overlay-agent-run.1"));
    }

    #[test]
    fn directory_that_cannot_be_written_to_is_named() {
        let error = manual(definitions(), Path::new("/proc/version/man")).unwrap_err();
        assert!(error.to_string().contains("/proc/version/man"), "{error}");
    }

    #[test]
    fn completions_know_the_commands_and_their_shell() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        for definition in definitions() {
            let command = definition
                .get_subcommands()
                .next()
                .unwrap()
                .get_name()
                .to_owned();
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let script = completions(definition.clone(), shell);
                assert!(script.contains(&command), "{shell}");
                fs::write(&path, &script).unwrap();
                let mut read = process::Command::new(shell.to_string());
                match read.arg("-n").arg(&path).output() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        println!("not read by {shell}: there is none");
                    }
                    output => {
                        let output = output.unwrap();
                        let said = String::from_utf8_lossy(&output.stderr);
                        assert!(output.status.success(), "{shell}: {said}");
                    }
                }
            }
        }
    }
}
