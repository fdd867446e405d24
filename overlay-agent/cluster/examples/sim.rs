//! Simulates gossip and prints what docs/benchmarks/gossip.md records:
//! `cargo run --release -p overlay-cluster --example sim -- --sizes 3,25,100 --seed 1 --format table`

use std::{env, process::ExitCode};

use overlay_cluster::sim;

const USAGE: &str = "usage: sim [--sizes N,N,…] [--seed N] [--loss SHARE] [--format table|json]";

struct Options {
    sizes: Vec<usize>,
    seed: u64,
    loss: f64,
    json: bool,
}

fn options() -> Option<Options> {
    let mut options = Options {
        sizes: vec![3, 25, 100, 500, 1000],
        seed: 1,
        loss: 0.01,
        json: false,
    };
    let mut args = env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next()?;
        match name.as_str() {
            "--sizes" => {
                let sizes = value
                    .split(',')
                    .map(|size| size.parse().ok().filter(|n| *n > 1));
                options.sizes = sizes.collect::<Option<_>>()?;
            }
            "--seed" => options.seed = value.parse().ok()?,
            "--loss" => options.loss = value.parse().ok().filter(|l| (0.0..1.0).contains(l))?,
            "--format" => {
                options.json = match value.as_str() {
                    "json" => true,
                    "table" => false,
                    _ => return None,
                };
            }
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut reports = Vec::new();
    for size in options.sizes {
        eprintln!("{size} nodes …");
        reports.push(sim::measure(size, options.seed, options.loss));
    }
    match options.json {
        true => print!("{}", sim::json(&reports)),
        false => print!("{}", sim::table(&reports)),
    }
    ExitCode::SUCCESS
}
