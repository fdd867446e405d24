//! The test binaries of the crate `tests`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;
use crate::workspace::Workspace;

/// A test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Name of its cargo target; its prefix tells where it runs.
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// Directory of its crate, in which cargo would run it.
    pub directory: PathBuf,
    /// Whether these are the unit tests of the library, of which there may be
    /// none.
    pub unit_tests: bool,
}

/// Builds them and says where cargo put them.
pub fn build(workspace: &Workspace) -> Result<Vec<Binary>> {
    let mut cargo = command::cargo();
    cargo
        .current_dir(&workspace.root)
        .args(["test", "--package=overlay-tests", "--no-run"])
        .arg("--features=kernel")
        .arg("--message-format=json-render-diagnostics")
        .stderr(std::process::Stdio::inherit());
    let output = cargo
        .output()
        .context("start cargo to build the crate `tests`")?;
    anyhow::ensure!(
        output.status.success(),
        "`{}` ended with {}",
        command::display(&cargo),
        output.status
    );
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Of these, the ones that a filter means, and the filter for their tests.
pub fn select(all: Vec<Binary>, filter: Option<&str>) -> (Vec<Binary>, Option<&str>) {
    let Some(filter) = filter else {
        return (all, None);
    };
    let named: Vec<Binary> = all
        .iter()
        .filter(|binary| binary.name.contains(filter))
        .cloned()
        .collect();
    if named.is_empty() {
        (all, Some(filter))
    } else {
        (named, None)
    }
}

fn parse(messages: &str) -> Result<Vec<Binary>> {
    #[derive(serde::Deserialize)]
    struct Message {
        reason: String,
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
    }
    #[derive(serde::Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    #[derive(serde::Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut binaries = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("read cargo's message `{line}`"))?;
        if message.reason != "compiler-artifact" || !message.profile.is_some_and(|p| p.test) {
            continue;
        }
        if let (Some(path), Some(manifest), Some(target)) =
            (message.executable, message.manifest_path, message.target)
        {
            binaries.push(Binary {
                unit_tests: target.kind.iter().any(|kind| kind == "lib"),
                name: target.name,
                path,
                directory: manifest.parent().unwrap_or(Path::new("/")).to_owned(),
            });
        }
    }
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","manifest_path":"/w/agent/Cargo.toml","target":{"name":"overlay","kind":["bin"]},"profile":{"test":false},"executable":"/t/overlay"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"plain_tcp","kind":["test"]},"profile":{"test":true},"executable":"/t/plain_tcp-1"}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"kernel_programs","kind":["test"]},"profile":{"test":true},"executable":"/t/kernel_programs-2"}
{"reason":"build-finished","success":true}
"#;

    fn names(binaries: &[Binary]) -> Vec<&str> {
        binaries.iter().map(|binary| binary.name.as_str()).collect()
    }

    #[test]
    fn only_test_binaries_are_taken_in_order_of_name() {
        let binaries = parse(MESSAGES).expect("parses");
        assert_eq!(names(&binaries), ["kernel_programs", "plain_tcp"]);
        assert_eq!(binaries[1].directory, Path::new("/w/tests"));
    }

    #[test]
    fn a_filter_that_names_a_binary_runs_it_whole() {
        let (binaries, rest) = select(parse(MESSAGES).expect("parses"), Some("plain"));
        assert_eq!((names(&binaries), rest), (vec!["plain_tcp"], None));
    }

    #[test]
    fn another_filter_goes_to_every_binary() {
        let (binaries, rest) = select(parse(MESSAGES).expect("parses"), Some("arp_probe"));
        assert_eq!((binaries.len(), rest), (2, Some("arp_probe")));
    }
}
