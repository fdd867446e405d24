//! Shared pieces of the end-to-end tests.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod hostile;
pub mod lab;
pub mod supervise;
pub mod testrun;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    /// With `autotests` off cargo says nothing of a test that is not named.
    #[test]
    fn every_test_binary_is_named_in_the_manifest() {
        let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = fs::read_to_string(crate_directory.join("Cargo.toml")).unwrap();
        let named: BTreeSet<String> = manifest
            .split("[[test]]\nname = \"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect();
        let there: BTreeSet<String> = fs::read_dir(crate_directory.join("tests"))
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(named, there);
    }

    /// That crate is built by hand: nobody would notice a table of its manifest that two merges made one.
    #[test]
    fn every_fuzz_target_has_a_table_in_its_manifest_and_a_line_in_its_readme() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        let (manifest, readme) = (read("Cargo.toml"), read("README.md"));
        let tables: BTreeSet<&str> = manifest.split("[[bin]]\n").skip(1).map(str::trim).collect();
        let targets: BTreeSet<String> = fs::read_dir(directory.join("fuzz_targets"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let wanted: Vec<String> = targets
            .iter()
            .map(|name| {
                format!(
                    "name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n\
                     test = false\ndoc = false\nbench = false"
                )
            })
            .collect();
        assert_eq!(tables, wanted.iter().map(String::as_str).collect());
        for name in &targets {
            assert!(readme.contains(&format!("`{name}`")), "{name}");
        }
    }
}
