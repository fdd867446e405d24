//! The reference in `docs/commands.md`, made of the definition of the command line.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::super::command;

const HEADING: &str = "## Reference\n";

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md")
}

fn reference() -> String {
    let mut text = format!(
        "{HEADING}\nMade of the command line's own definition; `overlay help COMMAND` says the same.\n"
    );
    let mut root = command();
    root.build();
    for command in root.get_subcommands() {
        describe(command, &mut text);
    }
    text
}

fn describe(command: &clap::Command, text: &mut String) {
    if command.get_name() == "help" {
        return;
    }
    if command.has_subcommands() {
        for command in command.get_subcommands() {
            describe(command, text);
        }
        return;
    }
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let about = command.get_about().map(ToString::to_string);
    let _ = write!(text, "\n### `{name}`\n\n{}.\n", about.unwrap_or_default());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let _ = write!(text, "\n    {usage}\n\n");
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !argument.is_global_set());
    for argument in arguments {
        if matches!(argument.get_id().as_str(), "help" | "version") {
            continue;
        }
        let help = argument.get_help().map(ToString::to_string);
        let mut help = help.unwrap_or_else(|| "How it is printed".into());
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect();
        let is_flag = !argument.get_action().takes_values();
        if !is_flag && !values.is_empty() {
            help += &format!(": {}", values.join(", "));
        }
        let default: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        if !is_flag && !default.is_empty() {
            help += &format!(" [default: {}]", default.join(","));
        }
        let _ = writeln!(text, "- `{argument}`: {help}");
    }
}

#[test]
fn the_reference_in_the_documentation_is_of_this_command_line() {
    let document = fs::read_to_string(document()).unwrap();
    let at = document.find(HEADING).expect("a reference");
    assert!(
        document[at..] == reference(),
        "docs/commands.md is of another command line: `cargo test -p overlay-agent --lib -- --ignored write_reference` writes it"
    );
}

#[test]
#[ignore = "writes docs/commands.md, after a change of the command line"]
fn write_reference() {
    let mut document_text = fs::read_to_string(document()).unwrap();
    let end = document_text.find(HEADING).unwrap_or(document_text.len());
    document_text.truncate(end);
    fs::write(document(), document_text + &reference()).unwrap();
}
