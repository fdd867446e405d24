//! What the demo prints: coloured on a terminal, plain elsewhere or with `NO_COLOR` set.

use std::io::IsTerminal as _;

/// Prints as it goes, and remembers whether every check held.
#[derive(Debug)]
pub struct Report {
    colour: bool,
    held: u32,
    failed: Vec<String>,
}

impl Report {
    pub fn new() -> Self {
        // The VM's terminal is ours at one remove: the caller says whether it is one.
        let forced = std::env::var_os("CLICOLOR_FORCE").is_some();
        let colour =
            std::env::var_os("NO_COLOR").is_none() && (forced || std::io::stdout().is_terminal());
        Self {
            colour,
            held: 0,
            failed: Vec::new(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn title(&self, text: &str) {
        println!("\n{}", self.paint("1;36", text));
    }

    /// What a user types on a node.
    pub fn command(&self, node: u32, line: &str) {
        println!("  {}", self.paint("1", &format!("node-{node}$ {line}")));
    }

    pub fn say(&self, text: &str) {
        for line in text.lines() {
            println!("  {line}");
        }
    }

    pub fn check(&mut self, what: &str, held: bool, detail: &str) {
        let mark = if held {
            self.held += 1;
            self.paint("32", "ok  ")
        } else {
            self.failed.push(format!("{} {detail}", what.trim()));
            self.paint("1;31", "FAIL")
        };
        println!("  {mark} {what:48} {detail}");
    }

    /// Prints the sum; whether every check held.
    pub fn verdict(&self) -> bool {
        println!();
        if self.failed.is_empty() {
            let text = format!("All {} checks held.", self.held);
            println!("{}", self.paint("1;32", &text));
            return true;
        }
        let text = format!(
            "{} of {} checks failed:",
            self.failed.len(),
            self.failed.len() as u32 + self.held
        );
        println!("{}", self.paint("1;31", &text));
        for what in &self.failed {
            println!("  {what}");
        }
        false
    }
}
