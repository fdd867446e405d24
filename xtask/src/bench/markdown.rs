//! The result as a page.

use super::record::Record;
use super::setting::Setting;
use super::{targets, terminal};

/// The page; `plots` are the files of the settings beside it.
pub fn page(record: &Record, name: &str, plots: &[(Setting, String)]) -> String {
    let machine = &record.machine;
    let mut text = format!(
        "# Benchmark: {name}\n\n\
         Written by `{}` at {} UTC, sources at commit {}. How it is measured, and what the names \
         mean: [README.md](README.md). Every sample: [{name}.json]({name}.json).\n\n\
         | machine | |\n|---|---|\n\
         | processor | {} |\n| CPUs, memory | {}, {} GiB |\n| running kernel | {} |\n\
         | emulator of the VM | {} |\n| load average at the start | {} |\n",
        record.command,
        machine.date,
        machine.commit,
        machine.processor,
        machine.cpus,
        machine.memory_gib,
        machine.kernel,
        machine.qemu,
        machine.load_average,
    );
    let verdicts = targets::verdicts(record);
    if !verdicts.is_empty() {
        text.push_str("\n## Targets\n\nOurs divided by the other, medians.\n\n");
        text.push_str(&table(&terminal::verdict_rows(&verdicts)));
    }
    if let Some(line) = terminal::repeat_line(record) {
        text.push_str(&format!("\n{line}.\n"));
    }
    if !record.notes.is_empty() {
        text.push_str("\n## Notes\n\n");
    }
    for line in record.notes.iter().chain(&record.failures) {
        text.push_str(&format!("- {line}\n"));
    }
    for setting in record.settings() {
        let Some(run) = record.first(setting) else {
            continue;
        };
        text.push_str(&format!(
            "\n## {}\n\nLinux {}, `{}`\n\n",
            setting.title(),
            run.kernel,
            run.command
        ));
        text.push_str(&table(&terminal::rows(run)));
        for (_, file) in plots.iter().filter(|(of, _)| *of == setting) {
            text.push_str(&format!("\n![{}]({file})\n", setting.title()));
        }
    }
    for report in &record.reports {
        text.push_str(&format!(
            "\n## {}, Linux {}{}\n\n`{}`\n",
            report.detail.title(),
            report.kernel,
            if report.counted {
                ", VM that counts instructions"
            } else {
                ""
            },
            report.command
        ));
        for rows in report.tables() {
            text.push('\n');
            text.push_str(&table(&rows));
        }
    }
    text
}

/// Rows as a Markdown table, the first one being the head.
fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if number == 0 {
            let rules = vec!["---"; 1]
                .into_iter()
                .chain(row.iter().skip(1).map(|_| "---:"));
            text.push_str(&format!("|{}|\n", rules.collect::<Vec<_>>().join("|")));
        }
    }
    text
}
