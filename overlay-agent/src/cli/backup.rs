//! `backup` and `restore`: the managers' state, sealed under a key that is kept elsewhere; and `ca`.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::Subcommand;

use super::{
    Context, Failure, Outcome,
    secret_file::{self, NewFile},
    values,
};
use crate::api::{cluster::RestoreRequest, secret::Blob};

/// Bytes of a backup at the most: what the agent takes, without its base64.
const MAX: u64 = 70 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub struct BackupArguments {
    /// File to create for the sealed state
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File to create for the key that opens it: keep it apart from the backup
    #[arg(long, value_name = "FILE")]
    key_out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// The backup
    file: PathBuf,
    /// File with the backup's key, mode 0600, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Addresses that other nodes reach [default: those in the backup]
    #[arg(
        long,
        visible_alias = "advertise-addr",
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        value_parser = values::address
    )]
    advertise: Vec<IpAddr>,
    /// Where the agent takes connections of other nodes
    #[arg(long, visible_alias = "listen-addr", value_name = "ADDR[:PORT]", value_parser = values::listen)]
    listen: Option<SocketAddr>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make a new root; nodes get new certificates and trust both roots until the old one ends
    Rotate,
}

pub async fn backup(
    context: &mut Context,
    arguments: &BackupArguments,
) -> Result<Outcome, Failure> {
    let out = NewFile::create(&arguments.out)?;
    let key_out = NewFile::create(&arguments.key_out)?;
    let made = context.client.backup().await?;
    // The key first: a backup without one is worth nothing.
    key_out.finish(format!("{}\n", made.key.expose()).as_bytes())?;
    out.finish(&made.backup.0)?;
    context.terminal.line(format!(
        "{}: the managers' state\n{}: its key; keep it apart from the backup",
        arguments.out.display(),
        arguments.key_out.display()
    ))?;
    Ok(Outcome::Good)
}

pub async fn restore(
    context: &mut Context,
    arguments: RestoreArguments,
) -> Result<Outcome, Failure> {
    values::check_place(&arguments.advertise, arguments.listen)?;
    let backup = read(&arguments.file)?;
    let key = secret_file::read(&arguments.key_file, "Backup key", &mut context.terminal)?;
    context.terminal.confirm(
        arguments.yes,
        "This node becomes the only manager of the cluster in the backup. Managers that still run must be stopped \
         first; nodes that were evicted since must be evicted again.",
    )?;
    let restored = context
        .client
        .restore(&RestoreRequest {
            backup: Blob(backup),
            key: key.into(),
            advertise: arguments.advertise,
            listen: arguments.listen,
        })
        .await?;
    context.terminal.line(format!(
        "Cluster {} restored: current node {} ({}) is now its manager.",
        restored.cluster, restored.name, restored.node
    ))?;
    Ok(Outcome::Good)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the backup {}", path.display()))
        .map_err(Failure::Input)?;
    if bytes.len() as u64 > MAX {
        return Err(Failure::Input(anyhow!(
            "{} is longer than any backup: name the right file",
            path.display()
        )));
    }
    Ok(bytes)
}

pub async fn ca(context: &mut Context, ca: &Ca) -> Result<Outcome, Failure> {
    match ca {
        Ca::Rotate => {
            let rotation = context.client.rotate_ca().await?;
            let until = rotation.old_until.map_or(String::new(), |until| {
                format!("\nThe old root is trusted until {until}.")
            });
            context.terminal.line(format!(
                "Rotated the root of the cluster's certificates to {}.{until}\n\
                 Join tokens made before open nothing any more: `overlay token show` prints new ones.",
                rotation.root
            ))?;
            Ok(Outcome::Good)
        }
    }
}
