//! What every listing takes: a format, `--quiet`, and filters.

use serde::Serialize;

use super::{Context, Failure, Format, Outcome, table};
use anyhow::anyhow;

#[derive(Debug, Clone, clap::Args)]
pub struct Listing {
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only names
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filters {
    /// Only what matches, as KEY=VALUE; of one key one value must match, of several keys each
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    filters: Vec<(String, String)>,
}

pub fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_ascii_lowercase(), value.to_owned())),
        _ => Err("no filter: write KEY=VALUE, such as name=web".into()),
    }
}

impl Filters {
    pub fn new(filters: Vec<(String, String)>) -> Self {
        Self { filters }
    }

    /// Refuses keys that the listing does not know: they would match nothing or all.
    pub fn check(&self, known: &[&str]) -> Result<(), Failure> {
        match self
            .filters
            .iter()
            .find(|(key, _)| !known.contains(&key.as_str()))
        {
            None => Ok(()),
            Some((key, _)) => Err(Failure::Input(anyhow!(
                "filter `{key}` is not known here: use {}",
                known.join(", ")
            ))),
        }
    }

    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.filters
            .iter()
            .filter(move |(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a filter of the key, if there is one, takes it.
    pub fn takes(&self, key: &str, holds: impl Fn(&str) -> bool) -> bool {
        let mut values = self.values(key).peekable();
        values.peek().is_none() || values.any(holds)
    }

    /// Whether all filters by label hold: `label=KEY` or `label=KEY=VALUE`.
    pub fn take_labels(&self, labels: &overlay_cluster::log::names::Labels) -> bool {
        self.values("label")
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key) == Some(value),
                None => labels.get(wanted).is_some(),
            })
    }
}

impl Listing {
    /// Prints items: their names, JSON, or a table with a head.
    pub fn print<T: Serialize, const N: usize>(
        &self,
        context: &mut Context,
        items: &[T],
        name: impl Fn(&T) -> String,
        head: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<Outcome, Failure> {
        let text = if self.quiet {
            items.iter().map(|item| name(item) + "\n").collect()
        } else {
            match self.format {
                Format::Json => json(items)?,
                Format::Table => table::columns(head, &items.iter().map(row).collect::<Vec<_>>()),
            }
        };
        context.terminal.print(text)?;
        Ok(Outcome::Good)
    }
}

/// JSON for people and programs.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Labels as `docker network ls` shows them.
pub fn labels(labels: &overlay_cluster::log::names::Labels) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.join(",")
}

/// Names or numbers in one cell.
pub fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}
