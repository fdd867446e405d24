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
}
