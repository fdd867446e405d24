//! Measurements that compare nobody: single programs, growth, the agent.

use std::collections::BTreeMap;

/// A verb of `overlay-bench`, beside `traffic`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Detail {
    /// Every program on one packet at a time
    Programs,
    /// The same where the maps hold more and more
    Growth,
    /// How long an attach takes, how fast the agent fills the kernel, takes over and replaces SAs, and
    /// what memory that holds
    Control,
}

impl Detail {
    pub const ALL: [Self; 3] = [Self::Programs, Self::Growth, Self::Control];

    /// As `overlay-bench` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Growth => "growth",
            Self::Control => "control",
        }
    }

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Programs => "Single programs",
            Self::Growth => "Growth",
            Self::Control => "The agent",
        }
    }

    /// Arguments where instructions are counted: they hardly vary, and nothing is cached or missed. `None` where that
    /// says nothing.
    pub fn counted(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Programs => Some(&["programs", "--runs=51"]),
            Self::Growth => Some(&["growth", "--runs=256"]),
            // SAs need ESP, which the running kernel may lack.
            Self::Control => Some(&[
                "control",
                "--endpoints=1000",
                "--peers=100,1000",
                "--rotate=10,100,1000",
                "--rounds=3",
                "--local",
                "--remote",
                "--members",
            ]),
        }
    }
}

/// A line of output: numbers and names by what they are.
pub type Row = BTreeMap<String, serde_json::Value>;

/// What one verb printed in one place.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Report {
    pub detail: Detail,
    /// Whether times count instructions.
    pub counted: bool,
    /// `uname -r`.
    pub kernel: String,
    pub command: String,
    pub rows: Vec<Row>,
}

impl Report {
    /// Tables of the rows: one for each set of columns, in the order in which they came.
    pub fn tables(&self) -> Vec<Vec<Vec<String>>> {
        let mut tables: Vec<(Vec<&str>, Vec<Vec<String>>)> = Vec::new();
        for row in &self.rows {
            let mut columns: Vec<&str> = row.keys().map(String::as_str).collect();
            columns.sort_by_key(|column| (row[*column].is_number(), *column == "ns"));
            let cells = columns.iter().map(|column| cell(&row[*column])).collect();
            match tables.iter_mut().find(|(known, _)| *known == columns) {
                Some((_, rows)) => rows.push(cells),
                None => {
                    let head = columns.iter().map(|name| self.head(name)).collect();
                    tables.push((columns, vec![head, cells]));
                }
            }
        }
        tables.into_iter().map(|(_, rows)| rows).collect()
    }

    fn head(&self, column: &str) -> String {
        match column {
            "ns" if self.counted => "instructions".to_owned(),
            "p99_ns" if self.counted => "p99 instructions".to_owned(),
            other => other.to_owned(),
        }
    }
}

fn cell(value: &serde_json::Value) -> String {
    match (value.as_str(), value.as_u64(), value.as_f64()) {
        (Some(text), ..) => text.to_owned(),
        (_, Some(number), _) => number.to_string(),
        (_, _, Some(number)) => format!("{number:.0}"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_same_columns_are_one_table_with_names_first() {
        let row = |text: &str| serde_json::from_str(text).unwrap();
        let report = Report {
            detail: Detail::Programs,
            counted: true,
            kernel: "6.12".to_owned(),
            command: String::new(),
            rows: vec![
                row(r#"{"ns": 7, "path": "a"}"#),
                row(r#"{"other": 1.5}"#),
                row(r#"{"ns": 8, "path": "b"}"#),
            ],
        };
        assert_eq!(
            report.tables(),
            [
                vec![vec!["path", "instructions"], vec!["a", "7"], vec!["b", "8"]],
                vec![vec!["other"], vec!["2"]],
            ]
        );
    }
}
