//! Settings below `/proc/sys`; those below `net` are of the calling thread's network namespace.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

const ROOT: &str = "/proc/sys";

/// Writing it writes the same to every device and to `default` (`addrconf_fixup_forwarding`,
/// net/ipv6/addrconf.c).
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is no path below `/proc/sys`, for example `net/ipv4/conf/ovl-in/accept_local`.
    #[error(
        "{0:?} is not the path of a sysctl below /proc/sys (use slashes: device names may have dots)"
    )]
    Name(String),
    #[error("cannot read sysctl {name}: {error}")]
    Read { name: String, error: io::Error },
    #[error("cannot set sysctl {name} to {value:?}: {error}{}", hint(.error))]
    Write {
        name: String,
        value: String,
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (no such device, or the kernel lacks the setting)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (root is needed, and /proc/sys must be mounted writable)"
        }
        _ => "",
    }
}

/// The value without the final newline; `None` if the kernel has no such setting.
pub fn read(name: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(path(name)?) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Read {
            name: name.to_owned(),
            error,
        }),
    }
}

/// Sets a value; writes nothing if it is the value already.
pub fn write(name: &str, value: &str) -> Result<(), Error> {
    if read(name)?.as_deref() == Some(value) {
        return Ok(());
    }
    fs::write(path(name)?, value).map_err(|error| Error::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        error,
    })
}

/// The values of `names`; a setting that does not exist is left out.
pub fn observe<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut values = BTreeMap::new();
    for name in names {
        if let Some(value) = read(name)? {
            values.insert(name.to_owned(), value);
        }
    }
    Ok(values)
}

/// The settings that writing `name` overwrites beside it, with their values.
pub fn overwritten_by(name: &str) -> Result<BTreeMap<String, String>, Error> {
    if name != IPV6_FORWARDING {
        return Ok(BTreeMap::new());
    }
    let directory = "net/ipv6/conf";
    let failed = |error| Error::Read {
        name: directory.to_owned(),
        error,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(path(directory)?).map_err(failed)? {
        let device = entry.map_err(failed)?.file_name();
        names.push(format!("{directory}/{}/forwarding", device.display()));
    }
    observe(
        names
            .iter()
            .map(String::as_str)
            .filter(|other| *other != name),
    )
}

fn path(name: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(name);
    let normal = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !normal {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(Path::new(ROOT).join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_leaves_proc_sys_is_refused() {
        for name in ["", "/etc/passwd", "net/../../etc/passwd", "../sys"] {
            assert!(matches!(read(name), Err(Error::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn missing_setting_reads_as_none_and_is_left_out_of_what_is_observed() {
        let missing = "net/ipv4/conf/no-such-device/forwarding";
        assert_eq!(read(missing).unwrap(), None);
        let observed = observe(["kernel/ostype", missing]).unwrap();
        assert_eq!(observed.len(), 1);
        assert_eq!(observed["kernel/ostype"], "Linux");
    }
}
