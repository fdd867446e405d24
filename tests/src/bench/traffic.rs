//! All loads over all competitors, in alternation.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Cipher, Competitor, Load, Rig, Sample, cipher};

/// Begins a line on standard error that belongs to the result.
const NOTE: &str = "note: ";

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Traffic {
    /// How the network is encrypted
    #[arg(long, value_enum)]
    pub cipher: Cipher,
    /// Who takes part; all that can by default
    #[arg(long, value_enum, value_delimiter = ',')]
    pub competitors: Vec<Competitor>,
    /// What runs; everything by default
    #[arg(long, value_enum, value_delimiter = ',')]
    pub loads: Vec<Load>,
    /// How often everyone has a turn
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// How long a load runs
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    pub duration: u64,
}

/// Runs it and prints the samples; progress goes to standard error.
pub fn traffic(options: &Traffic) -> Result<()> {
    let Traffic {
        cipher,
        competitors,
        loads,
        rounds,
        duration,
    } = options;
    let wanted: &[Competitor] = if competitors.is_empty() {
        &Competitor::ALL
    } else {
        competitors
    };
    let loads: &[Load] = if loads.is_empty() { &Load::ALL } else { loads };
    let duration = Duration::from_millis(*duration);
    cipher::load_modules();
    let mut rigs = Vec::new();
    for &competitor in wanted.iter().filter(|c| c.runs_with(*cipher)) {
        if let Some(lacking) = competitor.lacking(*cipher)? {
            eprintln!("{NOTE}{} is left out: {lacking}", competitor.name());
            continue;
        }
        let rig = Rig::build(competitor, *cipher)
            .with_context(|| format!("set up {}", competitor.name()))?;
        rig.passes_traffic()
            .with_context(|| format!("first packets over {}", competitor.name()))?;
        rigs.push(rig);
    }
    if rigs.is_empty() {
        bail!("nobody is left to compare");
    }
    if *cipher == Cipher::AesGcm
        && let Some(driver) = cipher::aes_driver()
    {
        eprintln!("{NOTE}AES-GCM by {driver}");
    }
    for load in loads {
        for round in 0..*rounds {
            for rig in &rigs {
                let competitor = rig.competitor();
                let measured = load
                    .run(&rig.ends()?, duration)
                    .with_context(|| format!("{} over {}", load.name(), competitor.name()))?;
                eprintln!(
                    "{} {} {} {round}: {:.0}",
                    cipher.name(),
                    load.name(),
                    competitor.name(),
                    measured.value
                );
                Sample {
                    cipher: cipher.name(),
                    competitor: competitor.name(),
                    load: load.name(),
                    round,
                    value: measured.value,
                    details: measured.details,
                }
                .print();
            }
        }
    }
    Ok(())
}
