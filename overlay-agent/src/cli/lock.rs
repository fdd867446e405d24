//! `unlock`, `unlock-key` and `autolock`: whether a manager's disk alone opens its state.

use std::path::PathBuf;

use anyhow::anyhow;
use overlay_cluster::identity::unlock;

use super::{Context, Failure, Outcome, membership::how_to_unlock, secret_file};
use crate::api::cluster::{UnlockKey, UnlockRequest};

#[derive(Debug, clap::Args)]
pub struct UnlockArguments {
    /// File with the unlock key, mode 0600, or `-` for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    key_file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct KeyArguments {
    /// Make a new key; the old one is void at once
    #[arg(long)]
    rotate: bool,
    /// Only the key
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub struct AutolockArguments {
    /// Whether an operator must unlock each manager after a restart
    #[arg(value_enum)]
    autolock: Switch,
    /// Only the key
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

pub async fn unlock(
    context: &mut Context,
    arguments: &UnlockArguments,
) -> Result<Outcome, Failure> {
    let key = secret_file::read(&arguments.key_file, "Unlock key", &mut context.terminal)?;
    key.parse::<unlock::UnlockKey>().map_err(Failure::input)?;
    let key = key.into();
    context.client.unlock(&UnlockRequest { key }).await?;
    context.terminal.line("Manager unlocked.")?;
    Ok(Outcome::Good)
}

pub async fn key(context: &mut Context, arguments: &KeyArguments) -> Result<Outcome, Failure> {
    let key = if arguments.rotate {
        context.client.rotate_unlock_key().await?
    } else {
        context.client.unlock_key().await?
    };
    if key.key.is_none() {
        return Err(Failure::Host(anyhow!(
            "autolock is off, so there is no unlock key: `overlay autolock on` makes one"
        )));
    }
    if arguments.rotate && !arguments.quiet {
        context
            .terminal
            .line("Rotated the unlock key of the managers.\n")?;
    }
    print(context, &key, arguments.quiet)
}

pub async fn autolock(
    context: &mut Context,
    arguments: &AutolockArguments,
) -> Result<Outcome, Failure> {
    let on = arguments.autolock == Switch::On;
    let key = context.client.set_autolock(on).await?;
    if !arguments.quiet {
        context.terminal.line(if on {
            "Autolock is on.\n"
        } else {
            "Autolock is off."
        })?;
    }
    print(context, &key, arguments.quiet)
}

fn print(context: &mut Context, key: &UnlockKey, quiet: bool) -> Result<Outcome, Failure> {
    match &key.key {
        None => {}
        Some(key) if quiet => context.terminal.line(key.expose())?,
        Some(key) => context.terminal.print(how_to_unlock(key))?,
    }
    Ok(Outcome::Good)
}
