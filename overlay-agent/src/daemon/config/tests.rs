use std::collections::BTreeSet;

use super::*;

const EXAMPLE: &str = include_str!("../../../../docs/overlay-agent.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("agent.toml"), text)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The example with its commented settings in force.
fn uncommented() -> String {
    let setting = |line: &str| {
        let rest = line.strip_prefix('#')?;
        let key = rest.split(" = ").next()?;
        let is_key =
            rest.contains(" = ") && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_key.then(|| rest.to_owned())
    };
    EXAMPLE
        .lines()
        .map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n")
        .collect()
}

#[test]
fn example_as_it_stands_is_the_defaults() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn example_shows_every_setting_with_its_default() {
    let shown = parse(&uncommented()).unwrap();
    let name = shown.name.clone().expect("the example shows `name`");
    let expected = Config {
        name: Some(name),
        ..Config::default()
    };
    assert_eq!(shown, expected);
    let text = uncommented();
    let table: toml::Table = text.parse().unwrap();
    for setting in expected.settings().keys() {
        let value = setting
            .split('.')
            .try_fold(toml::Value::Table(table.clone()), |value, key| {
                value.get(key).cloned()
            });
        assert!(value.is_some(), "the example lacks {setting}");
    }
}

#[test]
fn example_says_which_settings_a_reload_takes_over() {
    let mut marked = BTreeSet::new();
    let mut section = String::new();
    let mut reload = false;
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        }
        let key = line.trim_start_matches('#').split(" = ").next().unwrap();
        match line {
            _ if line.starts_with("# ") => reload |= line.contains("(reload)"),
            _ if line.contains(" = ") => {
                if std::mem::take(&mut reload) {
                    marked.insert(format!("{section}.{key}"));
                }
            }
            _ => reload = false,
        }
    }
    assert_eq!(marked, RELOADABLE.map(str::to_owned).into());
}

#[test]
fn reload_takes_over_what_it_says_and_names_the_rest() {
    let config = parse("").unwrap();
    let next = parse(
        "name = \"other\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n[control]\nport = 1\n\
         [data_plane]\nxdp = \"off\"\nevent_sample = 7\n[data_plane.map_sizes]\npeers = 16\n\
         [dns]\nenabled = false\nupstream = [\"192.0.2.53\"]\n",
    )
    .unwrap();
    let reloaded = config.reload(&next);
    assert_eq!(reloaded.taken, RELOADABLE);
    let kept = [
        "control.port",
        "data_plane.map_sizes.peers",
        "dns.enabled",
        "log.format",
        "name",
    ];
    assert_eq!(
        reloaded.kept.iter().collect::<BTreeSet<_>>(),
        kept.map(str::to_owned).iter().collect()
    );
    // What is in force differs from what was by exactly what was taken over.
    let again = config.reload(&reloaded.config);
    assert_eq!(again.taken, RELOADABLE);
    assert!(again.kept.is_empty(), "{again:?}");
    assert_eq!(reloaded.config.reload(&next).taken, Vec::<String>::new());
}

#[test]
fn unchanged_file_changes_nothing() {
    let config = parse(&uncommented()).unwrap();
    let reloaded = config.reload(&config);
    assert_eq!(reloaded.config, config);
    assert!(reloaded.taken.is_empty() && reloaded.kept.is_empty());
}

#[test]
fn error_names_the_line_and_the_setting_and_what_to_write() {
    let text = "[log]\nlevel = \"info\"\n\n[control]\nport = 0\n";
    let said = refusal(text);
    assert!(said.contains("agent.toml, line 5, `port`"), "{said}");
    assert!(said.contains("use 1 to 65535"), "{said}");
}

#[test]
fn unknown_setting_is_refused_with_those_that_there_are() {
    let said = refusal("[api]\nsokcet = \"/x\"\n");
    assert!(said.contains("line 2"), "{said}");
    assert!(
        said.contains("`sokcet`") && said.contains("`socket`"),
        "{said}"
    );
    assert!(refusal("[rotation]\n").contains("rotation"));
}

#[test]
fn values_of_another_form_are_refused() {
    for (text, says) in [
        ("name = \"Node_1\"", "cannot name a node"),
        ("[directories]\nstate = \"var\"", "no absolute path"),
        ("[directories]\nrun = \"/run/../etc\"", "no absolute path"),
        (
            "[directories]\nrun = \"/var/lib/overlay/\"",
            "choose another",
        ),
        ("[control]\nport = 65536", "65536"),
        ("[control]\nlisten = \"here\"", "line 2, `listen`"),
        ("[api]\ngroup = \"a:b\"", "no name of a group"),
        ("[log]\nlevel = \"loud\"", "no level"),
        ("[log]\nlevel = \"info,overlay_agent=loud\"", "no level"),
        ("[log]\nlevel = \"\"", "no level"),
        ("[log]\nformat = \"xml\"", "`journal`"),
        ("[data_plane]\nxdp = \"fast\"", "`native`"),
        (
            "[dns]\nupstream = [\"example.com\"]",
            "no address of a resolver",
        ),
        ("[dns]\nupstream = [\"0.0.0.0\"]", "no single resolver"),
        ("[dns]\nupstream = [\"ff02::1\"]", "no single resolver"),
        (
            "[dns]\nupstream = [\"192.0.2.1:0\"]",
            "no address of a resolver",
        ),
    ] {
        let said = refusal(text);
        assert!(said.contains(says), "{text}: {said}");
    }
    let many = format!("[dns]\nupstream = [{}]", "\"192.0.2.1\",".repeat(9));
    assert!(refusal(&many).contains("leave some out"));
}

#[test]
fn resolvers_are_read_with_and_without_port() {
    let text = "[dns]\nupstream = [\"192.0.2.1\", \"192.0.2.1:54\", \"2001:db8::1\", \"[2001:db8::1]:54\"]";
    let addresses = parse(text).unwrap().dns.upstream;
    let written: Vec<_> = addresses
        .iter()
        .map(|upstream| upstream.get().to_string())
        .collect();
    let expected = [
        "192.0.2.1:53",
        "192.0.2.1:54",
        "[2001:db8::1]:53",
        "[2001:db8::1]:54",
    ];
    assert_eq!(written, expected);
}

#[test]
fn missing_file_is_an_error_only_if_it_was_named() {
    let said = Config::load(Some(Path::new("/no/such/file")))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("/no/such/file") && said.contains("--config"),
        "{said}"
    );
}

#[test]
fn huge_file_and_directory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "#".repeat(MAX_SIZE as usize + 1)).unwrap();
    assert!(matches!(
        Config::load(Some(&path)),
        Err(ConfigError::TooLarge(_))
    ));
    std::fs::write(&path, "#".repeat(MAX_SIZE as usize)).unwrap();
    assert_eq!(Config::load(Some(&path)).unwrap(), Config::default());
    assert!(matches!(
        Config::load(Some(directory.path())),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn host_name_without_its_domain_names_the_node() {
    assert_eq!(
        of_host_name("Node-1.example.com").unwrap().as_str(),
        "node-1"
    );
    let said = of_host_name("node_1").unwrap_err().to_string();
    assert!(
        said.contains("node_1") && said.contains("set `name`"),
        "{said}"
    );
}
