//! What packages install beside the programs fits what the programs do.

use std::{fs, io, path::Path, process::Command};

use super::{
    command,
    config::{Config, DEFAULT_PATH},
};

const UNIT: &str = include_str!("../../../docs/systemd/overlay-agent.service");
const SYSUSERS: &str = include_str!("../../../docs/systemd/overlay.sysusers.conf");
const PROGRAM: &str = "/usr/bin/overlay-agent";
/// Of 100. With all that the agent needs the unit has 39.
const EXPOSURE: &str = "--threshold=42";

fn setting(key: &str) -> &'static str {
    let mut values = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values
        .next()
        .unwrap_or_else(|| panic!("the unit lacks {key}"))
}

#[test]
fn unit_starts_the_program_as_it_can_be_started() {
    let start: Vec<_> = setting("ExecStart").split(' ').collect();
    assert_eq!(start[0], PROGRAM);
    assert!(start.ends_with(&["--config", DEFAULT_PATH]));
    command::definition().try_get_matches_from(start).unwrap();
    assert_eq!(setting("Type"), "notify");
    assert!(UNIT.contains("kill -HUP"));
}

#[test]
fn directories_and_group_of_the_unit_are_those_of_the_configuration() {
    let config = Config::default();
    let directories = config.directories();
    assert_eq!(
        directories.state,
        Path::new("/var/lib").join(setting("StateDirectory"))
    );
    assert_eq!(
        directories.run,
        Path::new("/run").join(setting("RuntimeDirectory"))
    );
    assert!(config.api.socket.starts_with(&directories.run));
    let configuration = Path::new("/etc").join(setting("ConfigurationDirectory"));
    assert_eq!(Path::new(DEFAULT_PATH).parent().unwrap(), configuration);
    let group = format!("g {} - -", config.api.group);
    assert!(SYSUSERS.lines().any(|line| line == group), "{SYSUSERS}");
}

#[test]
fn systemd_takes_the_unit_and_finds_it_hardened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("overlay-agent.service");
    // The program is not installed here.
    let here = std::env::current_exe().unwrap();
    fs::write(&path, UNIT.replace(PROGRAM, here.to_str().unwrap())).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&path)
            .env("SYSTEMD_PAGER", "")
            .output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("skipped: there is no systemd-analyze");
            }
            output => {
                let output = output.unwrap();
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(output.status.success(), "{arguments:?}: {said}");
                // An unknown setting is a warning only.
                let about = said
                    .lines()
                    .filter(|line| line.contains("overlay-agent.service:"));
                let warnings: Vec<_> = about.filter(|line| !line.contains('→')).collect();
                assert!(warnings.is_empty(), "{arguments:?}: {warnings:?}");
            }
        }
    };
    analyze(&["verify", "--man=no"]);
    analyze(&["security", "--no-pager", "--offline=true", EXPOSURE]);
}
