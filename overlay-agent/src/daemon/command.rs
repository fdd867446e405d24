//! The `overlay-agent` command.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use super::{
    config::{Config, DEFAULT_PATH},
    logging::Logging,
};
use crate::{memory, pages};

/// The daemon of the encrypted overlay network.
#[derive(Debug, Parser)]
#[command(name = "overlay-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT; the data path stays in the kernel
    ///
    /// SIGHUP reads the configuration again. Started by systemd, it tells when it is ready
    /// (Type=notify) and that it lives (WatchdogSec=).
    Run(File),
    /// Check a configuration and print what is in force with it
    CheckConfig(File),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
struct File {
    /// Configuration, TOML [default: /etc/overlay/overlay-agent.toml, where none need be]
    #[arg(long, value_name = "FILE", env = "OVERLAY_AGENT_CONFIG")]
    config: Option<PathBuf>,
}

impl File {
    fn load(&self) -> Result<Config, ExitCode> {
        let config = Config::load(self.config.as_deref()).and_then(|config| {
            config.node_name()?;
            Ok(config)
        });
        config.map_err(|error| {
            eprintln!("overlay-agent: {error}");
            ExitCode::from(INPUT)
        })
    }
}

/// Exit status where what was asked for makes no sense.
const INPUT: u8 = 2;
/// Exit status where this host could not.
const HOST: u8 = 1;

/// Parses the arguments, runs the command, and returns the exit status: 0, 1 if the host could not, 2
/// if the input makes no sense.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(file) => match file.load() {
            Ok(config) => run(file.config, config),
            Err(status) => status,
        },
        Command::Completions { shell } => {
            print!("{}", pages::completions(definition(), shell));
            ExitCode::SUCCESS
        }
        Command::CheckConfig(file) => match file.load() {
            Ok(config) => check(&config),
            Err(status) => status,
        },
    }
}

/// The definition of the command, for its manual page and completions.
pub fn definition() -> clap::Command {
    Arguments::command()
}

fn check(config: &Config) -> ExitCode {
    match toml::to_string(config) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("overlay-agent: cannot print the configuration: {error}");
            ExitCode::from(HOST)
        }
    }
}

fn run(path: Option<PathBuf>, config: Config) -> ExitCode {
    let fails = |error: &dyn std::fmt::Display| {
        eprintln!("overlay-agent: {error}");
        ExitCode::from(HOST)
    };
    memory::set_up();
    let logging = match Logging::start(&config.log) {
        Ok(logging) => logging,
        Err(error) => return fails(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fails(&format_args!("cannot start: {error}")),
    };
    let configured = Configured {
        path,
        config,
        logging,
    };
    match runtime.block_on(super::run(configured)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            fails(&format_args!("{error:#}"))
        }
    }
}

/// What the daemon starts with, and reads again at SIGHUP.
#[derive(Debug)]
pub struct Configured {
    path: Option<PathBuf>,
    config: Config,
    logging: Logging,
}

impl Configured {
    /// What is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the file again, takes over what a running daemon can, and logs what was taken over and what
    /// needs a restart. A file that makes no sense changes nothing. Returns whether something changed.
    pub fn reload(&mut self) -> bool {
        let next = match Config::load(self.path.as_deref()) {
            Ok(next) => next,
            Err(error) => {
                tracing::error!("the configuration stays as it is: {error}");
                return false;
            }
        };
        let reloaded = self.config.reload(&next);
        for setting in &reloaded.kept {
            tracing::warn!(
                "`{setting}` has changed in {}: restart the agent",
                self.path().display()
            );
        }
        for setting in &reloaded.taken {
            tracing::info!("`{setting}` is taken over from {}", self.path().display());
        }
        self.config = reloaded.config;
        self.logging.set_level(&self.config.log.level);
        !reloaded.taken.is_empty()
    }

    fn path(&self) -> &std::path::Path {
        self.path
            .as_deref()
            .unwrap_or(std::path::Path::new(DEFAULT_PATH))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reload_takes_over_what_the_file_says_now_and_keeps_all_if_it_makes_no_sense() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("");
        let (logging, _layer) = Logging::unattached();
        let mut configured = Configured {
            path: Some(path.clone()),
            config: Config::load(Some(&path)).unwrap(),
            logging,
        };
        assert!(!configured.reload());
        write("[log]\nlevel = \"debug\"\n[control]\nport = 9\n");
        assert!(configured.reload());
        assert_eq!(configured.config().log.level.to_string(), "debug");
        assert_eq!(configured.config().control, Config::default().control);
        let before = configured.config().clone();
        for broken in ["[log", "unknown = 1\n"] {
            write(broken);
            assert!(!configured.reload());
            assert_eq!(*configured.config(), before);
        }
        fs::remove_file(&path).unwrap();
        assert!(!configured.reload());
        assert_eq!(*configured.config(), before);
    }

    #[test]
    fn arguments_are_consistent_and_name_the_default() {
        definition().debug_assert();
        let mut definition = definition();
        let run = definition.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string();
        assert!(help.contains(DEFAULT_PATH), "{help}");
    }
}
