//! The configuration file of the daemon: what each host sets for itself. What the cluster agreed on is
//! in the managers' log.
//!
//! Everything has a default. `docs/overlay-agent.toml` shows each setting with it.

mod reload;
mod values;

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use overlay_cluster::log::names::NodeName;
use serde::{Deserialize, Serialize};

pub use self::{
    reload::{RELOADABLE, Reloaded},
    values::{AbsolutePath, GroupName, Level, NoValue, Port, Upstream},
};
use crate::{
    dataplane::{
        desired,
        file::{self, MapSizes, XdpMode},
    },
    kernel::{bpf::DEFAULT_PIN_ROOT, host::Directories},
    plan::HostSettings,
    state::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR},
};

/// Read if no other file is named; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/overlay/overlay-agent.toml";
/// TCP for control connections, UDP for gossip.
pub const DEFAULT_PORT: u16 = 7790;
/// Bytes of a configuration file.
const MAX_SIZE: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}{}", path.display(), hint(source))]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has more than {MAX_SIZE} bytes: that is no configuration of the agent", .0.display())]
    TooLarge(PathBuf),
    #[error("{}, line {line}{}: {message}", path.display(), of_setting(setting))]
    Syntax {
        path: PathBuf,
        line: usize,
        /// Left of the `=` in that line.
        setting: Option<String>,
        message: String,
    },
    #[error("{}: {message}", path.display())]
    Contradiction { path: PathBuf, message: String },
    #[error(
        "the host name {0:?} cannot name this node (1 to 63 of `a` to `z`, `0` to `9` and `-`): set `name` in the configuration"
    )]
    HostName(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            ": name another with --config, or start from docs/overlay-agent.toml"
        }
        _ => "",
    }
}

fn of_setting(setting: &Option<String>) -> String {
    setting
        .as_ref()
        .map(|setting| format!(", `{setting}`"))
        .unwrap_or_default()
}

/// The configuration of one daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of this node in the cluster; without it, the first label of the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    pub control: Control,
    pub directories: Places,
    pub api: Api,
    pub log: Log,
    pub data_plane: DataPlane,
    pub dns: Dns,
}

/// Where other nodes reach this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// `::` is every address of both families.
    pub listen: IpAddr,
    /// TCP for control connections, UDP for gossip.
    pub port: Port,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            listen: Ipv6Addr::UNSPECIFIED.into(),
            port: Port::DEFAULT,
        }
    }
}

/// Where the agent keeps its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Places {
    /// Survives a reboot: the node's identity, used keys, a manager's log.
    pub state: AbsolutePath,
    /// Ends with a reboot.
    pub run: AbsolutePath,
    /// On a BPF file system.
    pub pins: AbsolutePath,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            state: AbsolutePath::known(DEFAULT_STATE_DIR),
            run: AbsolutePath::known(DEFAULT_RUN_DIR),
            pins: AbsolutePath::known(DEFAULT_PIN_ROOT),
        }
    }
}

/// Where the commands of this host reach the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    pub socket: AbsolutePath,
    /// Who may use the socket beside root.
    pub group: GroupName,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: AbsolutePath::known("/run/overlay/agent.sock"),
            group: GroupName::default(),
        }
    }
}

/// What the agent says, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    pub level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The journal if systemd started the agent with it, else text on a terminal, else JSON.
    #[default]
    Auto,
    Journal,
    /// One object a line on standard error.
    Json,
    /// For people, on standard error.
    Text,
}

/// What this host sets of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPlane {
    pub xdp: XdpMode,
    /// One drop in this many is reported to `overlay events`; 0 reports none.
    pub event_sample: u32,
    pub map_sizes: MapSizes,
}

impl Default for DataPlane {
    fn default() -> Self {
        let defaults = file::Settings::default();
        Self {
            xdp: defaults.xdp,
            event_sample: defaults.event_sample,
            map_sizes: defaults.map_sizes,
        }
    }
}

/// The resolver inside the containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    pub enabled: bool,
    /// Who is asked for names that are not of a network, in this order; none are those of
    /// /etc/resolv.conf, which is read again when it changes.
    pub upstream: Vec<Upstream>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            enabled: true,
            upstream: Vec::new(),
        }
    }
}

impl Dns {
    pub const MAX_UPSTREAM: usize = 8;
}

impl Config {
    /// Reads the file that was named; [`DEFAULT_PATH`] if none was, where a missing file is an empty one.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        match read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(ConfigError::Read { source, .. })
                if named.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Self::default())
            }
            Err(error) => Err(error),
        }
    }

    /// `path` is for errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| syntax(path, text, &error))?;
        config.contradiction().map_or(Ok(config), |message| {
            Err(ConfigError::Contradiction {
                path: path.to_owned(),
                message,
            })
        })
    }

    /// What no single setting can tell.
    fn contradiction(&self) -> Option<String> {
        let Places { state, run, pins } = &self.directories;
        for (a, first, b, second) in [
            ("state", state, "run", run),
            ("state", state, "pins", pins),
            ("run", run, "pins", pins),
        ] {
            if first == second {
                return Some(format!(
                    "`directories.{a}` and `directories.{b}` are both {}: choose another for one",
                    first.display()
                ));
            }
        }
        let upstream = self.dns.upstream.len();
        (upstream > Dns::MAX_UPSTREAM).then(|| {
            format!(
                "`dns.upstream` names {upstream} resolvers, more than {}: leave some out",
                Dns::MAX_UPSTREAM
            )
        })
    }

    /// The name set, else the first label of the host name.
    pub fn node_name(&self) -> Result<NodeName, ConfigError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => {
                let system = rustix::system::uname();
                of_host_name(&system.nodename().to_string_lossy())
            }
        }
    }

    pub fn directories(&self) -> Directories {
        Directories {
            pins: self.directories.pins.to_path_buf(),
            state: self.directories.state.to_path_buf(),
            run: self.directories.run.to_path_buf(),
        }
    }

    pub fn host_settings(&self) -> HostSettings {
        let DataPlane {
            xdp,
            event_sample,
            map_sizes,
        } = self.data_plane;
        let settings = desired::Settings::from(file::Settings {
            xdp,
            event_sample,
            map_sizes,
            ..file::Settings::default()
        });
        HostSettings {
            xdp: settings.xdp,
            event_sample: settings.event_sample,
            map_sizes: settings.map_sizes,
        }
    }
}

fn of_host_name(host: &str) -> Result<NodeName, ConfigError> {
    let label = host.split('.').next().unwrap_or(host);
    NodeName::new(label.to_ascii_lowercase()).map_err(|_| ConfigError::HostName(host.to_owned()))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let error = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(error)?;
    file.take(MAX_SIZE + 1)
        .read_to_string(&mut text)
        .map_err(error)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text.as_bytes()[..at];
    let number = before.iter().filter(|&&byte| byte == b'\n').count();
    let line = text.lines().nth(number).unwrap_or_default();
    let setting = line.split_once('=').map(|(key, _)| key.trim().to_owned());
    ConfigError::Syntax {
        path: path.to_owned(),
        line: number + 1,
        setting: setting.filter(|key| !key.is_empty() && !key.starts_with('#')),
        message: error.message().trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests;
