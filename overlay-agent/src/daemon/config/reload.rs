//! What SIGHUP changes, and what waits for a restart.

use std::collections::BTreeMap;

use toml::Value;

use super::Config;

/// Settings that a running daemon takes over. Each other is kept as it was at the start, and named.
pub const RELOADABLE: [&str; 4] = [
    "data_plane.event_sample",
    "data_plane.xdp",
    "dns.upstream",
    "log.level",
];

/// What became of a configuration that was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// In force from now on.
    pub config: Config,
    /// Settings that changed and are taken over.
    pub taken: Vec<String>,
    /// Settings that changed and need a restart.
    pub kept: Vec<String>,
}

impl Config {
    /// This configuration with those settings of `next` that a running daemon takes over.
    pub fn reload(&self, next: &Self) -> Reloaded {
        let (ours, theirs) = (self.settings(), next.settings());
        let names = ours
            .keys()
            .chain(theirs.keys().filter(|name| !ours.contains_key(*name)));
        let changed = names
            .filter(|name| ours.get(*name) != theirs.get(*name))
            .cloned();
        let (taken, kept) = changed.partition(|name| RELOADABLE.contains(&name.as_str()));
        let mut config = self.clone();
        config.data_plane.event_sample = next.data_plane.event_sample;
        config.data_plane.xdp = next.data_plane.xdp;
        config.dns.upstream.clone_from(&next.dns.upstream);
        config.log.level = next.log.level.clone();
        Reloaded {
            config,
            taken,
            kept,
        }
    }

    /// Every setting that has a value, by its full name.
    pub(super) fn settings(&self) -> BTreeMap<String, Value> {
        let mut settings = BTreeMap::new();
        // Paths that are no UTF-8 cannot come from a file, which is.
        if let Ok(Value::Table(table)) = Value::try_from(self) {
            flatten(String::new(), table, &mut settings);
        }
        settings
    }
}

fn flatten(section: String, table: toml::Table, settings: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let name = format!("{section}{key}");
        match value {
            Value::Table(inner) => flatten(format!("{name}."), inner, settings),
            value => {
                settings.insert(name, value);
            }
        }
    }
}
