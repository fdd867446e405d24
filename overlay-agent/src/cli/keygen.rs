use std::{collections::BTreeSet, path::PathBuf, thread};

use anyhow::anyhow;
use overlay_ebpf::abi::{Epoch, PeerIndex, Slot};

use super::{Failure, Outcome};
use crate::state::key_file;

/// In the name of `--out`: one file per node, with that node's keys alone.
const NODE: &str = "{node}";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Indices of the nodes, for example 1,2,3
    #[arg(long, value_delimiter = ',', required = true, value_parser = node)]
    nodes: Vec<PeerIndex>,
    /// SAs per ordered pair and slot; default: the number of CPUs, at most 4
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=16))]
    lanes: Option<u8>,
    /// Epoch that the keys belong to
    #[arg(long, default_value_t = 1)]
    epoch: u32,
    /// Slot that the SAs stand in; a new one for every set of keys
    #[arg(long, default_value_t = 0)]
    slot: u8,
    /// File to create, mode 0600; `{node}` in its name makes one for each node
    #[arg(long)]
    out: PathBuf,
    /// Add to the file instead
    #[arg(long)]
    append: bool,
}

fn node(text: &str) -> Result<PeerIndex, String> {
    let index: u32 = text.trim().parse().map_err(|_| "no number".to_owned())?;
    PeerIndex::new(index).map_err(|error| error.to_string())
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let nodes: BTreeSet<PeerIndex> = arguments.nodes.iter().copied().collect();
    if nodes.len() < 2 || nodes.len() != arguments.nodes.len() {
        return Err(Failure::Input(anyhow!(
            "--nodes: give at least two different indices"
        )));
    }
    let lanes = arguments.lanes.unwrap_or_else(|| {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        u8::try_from(cpus.min(4)).unwrap_or(4)
    });
    let nodes: Vec<PeerIndex> = nodes.into_iter().collect();
    let keys = key_file::generate(
        &nodes,
        lanes,
        Epoch::new(arguments.epoch),
        Slot::new(arguments.slot),
    )
    .map_err(|error| anyhow!("random bytes from the kernel: {error}"))?;
    let write = |path: &std::path::Path, keys: &[_]| {
        if arguments.append {
            key_file::append(path, keys)
        } else {
            key_file::create(path, keys)
        }
    };
    let name = arguments.out.to_string_lossy();
    if name.contains(NODE) {
        for node in nodes {
            let path = PathBuf::from(name.replace(NODE, &node.to_string()));
            let own: Vec<_> = keys
                .iter()
                .filter(|key| key.sender == node || key.receiver == node)
                .cloned()
                .collect();
            write(&path, &own).map_err(Failure::input)?;
            println!("{}: {} keys of node {node}", path.display(), own.len());
        }
    } else {
        write(&arguments.out, &keys).map_err(Failure::input)?;
        println!(
            "{}: {} keys, {lanes} lanes for each ordered pair, epoch {}, slot {}",
            arguments.out.display(),
            keys.len(),
            arguments.epoch,
            arguments.slot
        );
    }
    Ok(Outcome::Good)
}
