//! Values that have a form, checked as they are read, so that errors name their line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    ops::Deref,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Targets;

/// A text that is not what a setting takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoValue {
    #[error("`{0}` is no absolute path: begin it with `/` and leave out `..`")]
    Path(String),
    #[error("0 is no port: use 1 to 65535")]
    Port,
    #[error(
        "`{0}` is no name of a group: use 1 to 32 of `a` to `z`, `0` to `9`, `_` and `-`, beginning with a letter or `_`"
    )]
    Group(String),
    #[error(
        "`{0}` is no level: use `error`, `warn`, `info`, `debug` or `trace`, or levels of modules such as `info,overlay_agent::daemon=debug`"
    )]
    Level(String),
    #[error(
        "`{0}` is no address of a resolver: write it as 192.0.2.53, 192.0.2.53:5353, 2001:db8::53 or [2001:db8::53]:5353"
    )]
    Upstream(String),
    #[error("{0} is the address of no single resolver: name another")]
    NoResolver(IpAddr),
}

macro_rules! text {
    ($name:ident) => {
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

/// A path from the root, without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    pub(super) fn known(path: &'static str) -> Self {
        Self(path.into())
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = NoValue;

    fn try_from(text: String) -> Result<Self, NoValue> {
        let path = Path::new(&text);
        let plain = path.is_absolute() && !text.contains('\0');
        if plain && path.components().all(|part| part.as_os_str() != "..") {
            // Of its parts: two ways to write a path are equal.
            Ok(Self(path.components().collect()))
        } else {
            Err(NoValue::Path(text))
        }
    }
}

impl Deref for AbsolutePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// A TCP and UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(NonZero<u16>);

impl Port {
    pub(super) const DEFAULT: Self = Self(NonZero::new(super::DEFAULT_PORT).unwrap());

    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u16> for Port {
    type Error = NoValue;

    fn try_from(port: u16) -> Result<Self, NoValue> {
        NonZero::new(port).map(Self).ok_or(NoValue::Port)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        port.get()
    }
}

/// Name of a group of this host, which need not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

impl GroupName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for GroupName {
    fn default() -> Self {
        Self("overlay".to_owned())
    }
}

impl TryFrom<String> for GroupName {
    type Error = NoValue;

    fn try_from(text: String) -> Result<Self, NoValue> {
        let first = |b: &u8| b.is_ascii_lowercase() || *b == b'_';
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        let is_name = (1..=32).contains(&text.len())
            && text.as_bytes().first().is_some_and(first)
            && text.bytes().all(inner);
        match is_name {
            true => Ok(Self(text)),
            false => Err(NoValue::Group(text)),
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text!(GroupName);

/// What is logged: a level, or levels of modules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Level {
    text: String,
    targets: Targets,
}

// `Targets` could be and is not.
impl Eq for Level {}

impl Level {
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

impl Default for Level {
    fn default() -> Self {
        Self {
            text: "info".to_owned(),
            targets: Targets::new().with_default(tracing::Level::INFO),
        }
    }
}

impl TryFrom<String> for Level {
    type Error = NoValue;

    fn try_from(text: String) -> Result<Self, NoValue> {
        let words = |part: &str| {
            // `Targets` takes any word for a module and logs all of it.
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            !level.is_empty() && tracing_subscriber::filter::LevelFilter::from_str(level).is_ok()
        };
        match Targets::from_str(&text) {
            Ok(targets) if text.split(',').all(|part| words(part.trim())) => {
                Ok(Self { text, targets })
            }
            _ => Err(NoValue::Level(text)),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text!(Level);

/// A resolver; its port is 53 if none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream(SocketAddr);

impl Upstream {
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<String> for Upstream {
    type Error = NoValue;

    fn try_from(text: String) -> Result<Self, NoValue> {
        let address = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => SocketAddr::new(ip, 53),
            (_, Ok(address)) if address.port() != 0 => address,
            _ => return Err(NoValue::Upstream(text)),
        };
        match crate::daemon::dns::may_ask(address) {
            true => Ok(Self(address)),
            false => Err(NoValue::NoResolver(address.ip())),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            53 => write!(f, "{}", self.0.ip()),
            _ => write!(f, "{}", self.0),
        }
    }
}

text!(Upstream);
