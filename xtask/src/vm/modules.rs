//! Kernel modules and what they depend on, as `modules.dep` tells.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

/// The content of a `modules.dep`, as written by depmod.
#[derive(Debug)]
pub struct Dependencies<'a> {
    /// Module name → (file, files it needs), relative to the directory of
    /// `modules.dep`.
    by_name: BTreeMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Dependencies<'a> {
    /// Reads lines of the form `file: file file …`. depmod lists all
    /// dependencies, also the indirect ones.
    pub fn parse(text: &'a str) -> Self {
        let by_name = text
            .lines()
            .filter_map(|line| {
                let (file, needs) = line.split_once(':')?;
                Some((name(file)?, (file, needs.split_whitespace().collect())))
            })
            .collect();
        Self { by_name }
    }

    /// The files of these modules and of all they depend on. Names in `builtin`
    /// (`modules.builtin`) need no file.
    pub fn files(&self, wanted: &[&str], builtin: &str) -> Result<BTreeSet<&'a str>> {
        let builtin: BTreeSet<String> = builtin.lines().filter_map(name).collect();
        let mut files = BTreeSet::new();
        for module in wanted {
            if builtin.contains(*module) {
                continue;
            }
            let (file, needs) = self
                .by_name
                .get(*module)
                .with_context(|| format!("this kernel has no module `{module}`"))?;
            files.insert(*file);
            files.extend(needs);
        }
        Ok(files)
    }
}

/// `kernel/net/ipv4/esp4.ko.xz` → `esp4`, with `-` and `_` being the same.
fn name(file: &str) -> Option<String> {
    let file = file.rsplit('/').next()?;
    let (name, _suffix) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/fs/fuse/fuse.ko.xz:
kernel/drivers/virtio/virtio.ko.xz:
kernel/crypto/xts-mode.ko.xz:
";

    #[test]
    fn a_module_brings_what_it_depends_on() {
        let files = Dependencies::parse(DEP)
            .files(&["virtiofs"], "")
            .expect("known");
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [
                "kernel/drivers/virtio/virtio.ko.xz",
                "kernel/fs/fuse/fuse.ko.xz",
                "kernel/fs/fuse/virtiofs.ko.xz"
            ]
        );
    }

    #[test]
    fn a_built_in_module_needs_no_file() {
        let files = Dependencies::parse("")
            .files(&["virtio_pci"], "kernel/drivers/virtio/virtio_pci.ko\n")
            .expect("built in");
        assert!(files.is_empty());
    }

    #[test]
    fn dash_and_underscore_name_the_same_module() {
        assert!(Dependencies::parse(DEP).files(&["xts_mode"], "").is_ok());
    }

    #[test]
    fn an_unknown_module_is_an_error_that_names_it() {
        let error = Dependencies::parse(DEP)
            .files(&["esp4"], "")
            .expect_err("missing");
        assert!(error.to_string().contains("`esp4`"));
    }
}
