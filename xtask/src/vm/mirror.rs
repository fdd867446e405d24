//! Getting a package of another Debian suite without touching this machine's
//! apt: a private state directory, and a sources list derived from the machine's
//! own, so that its mirror, proxy and keys are used and no host name is written
//! here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{command, setup};

/// Used when the machine's own source names no key of its own.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package downloaded and its version.
#[derive(Debug)]
pub struct Download {
    pub package: String,
    pub version: String,
    pub deb: PathBuf,
}

/// Downloads into `dir` the package that `metapackage` of one of the `suites`
/// depends on and whose name starts with `prefix`.
pub fn download(suites: &[&str], metapackage: &str, prefix: &str, dir: &Path) -> Result<Download> {
    if command::find_program("apt-get").is_none() || command::find_program("dpkg-deb").is_none() {
        bail!(
            "the kernels of the test VM are Debian packages, and there is no apt here: run this \
             on Debian, or in a Debian container"
        );
    }
    let source = match Source::of_this_machine() {
        // Container images come without lists.
        Err(_) if setup::is_root() => {
            setup::apt_update()?;
            Source::of_this_machine()?
        }
        source => source?,
    };
    let key = source.entry().and_then(|(file, line)| {
        let text = fs::read_to_string(&file).ok()?;
        signed_by(&text, line)
    });

    let mut refused = Vec::new();
    for suite in suites {
        let apt = PrivateApt::new(&dir.join(suite))?;
        match apt.download(&source.list(suite, key.as_deref()), metapackage, prefix) {
            Ok(download) => return Ok(download),
            Err(error) => refused.push(format!("suite {suite}: {error:#}")),
        }
    }
    bail!(
        "found no package {prefix}… at the mirror of this machine's apt; is the network there?\n{}",
        refused.join("\n")
    )
}

/// The machine's own source of Debian's main archive.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    entry: String,
}

impl Source {
    fn of_this_machine() -> Result<Self> {
        let targets = command::capture(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)|$(SOURCESENTRY)",
            "Created-By: Packages",
        ]))
        .context("ask apt for its sources")?;
        Self::pick(&targets)
    }

    /// Picks from the lines of `apt-get indextargets`. The security archive has
    /// the same origin but other suites, the plain release has the plain name.
    fn pick(targets: &str) -> Result<Self> {
        targets
            .lines()
            .filter_map(|line| {
                let mut fields = line.split('|');
                let (origin, component) = (fields.next()?, fields.next()?);
                let (codename, uri, entry) = (fields.next()?, fields.next()?, fields.next()?);
                let release = !codename.contains('-') && !codename.contains('/');
                (origin == "Debian" && component == "main" && release).then(|| Self {
                    uri: uri.to_owned(),
                    entry: entry.to_owned(),
                })
            })
            .next()
            .context(
                "apt has no lists of a Debian release (component main): run `apt-get update`; on \
                 another distribution, run this in a Debian container",
            )
    }

    /// File and line (or number of the stanza) that the source was read from.
    fn entry(&self) -> Option<(PathBuf, usize)> {
        let (file, number) = self.entry.rsplit_once(':')?;
        Some((file.into(), number.parse().ok()?))
    }

    /// A sources list of one suite of this mirror.
    fn list(&self, suite: &str, key: Option<&str>) -> String {
        let key = key.or_else(|| Path::new(DEBIAN_KEYRING).exists().then_some(DEBIAN_KEYRING));
        let option = key.map_or(String::new(), |key| format!("[signed-by={key}] "));
        format!("deb {option}{} {suite} main\n", self.uri)
    }
}

/// The key that a source is checked with: `Signed-By:` of the deb822 stanza with
/// this number, or `[signed-by=…]` of the line with this number. A key written
/// out in the file itself is left alone.
fn signed_by(text: &str, number: usize) -> Option<String> {
    let index = number.checked_sub(1)?;
    let file_name = |value: &str| {
        let value = value.trim();
        value.starts_with('/').then(|| value.to_owned())
    };
    if let Some(line) = text
        .lines()
        .nth(index)
        .filter(|line| line.starts_with("deb "))
    {
        let options = line.split_once('[')?.1.split_once(']')?.0;
        return options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .and_then(file_name);
    }
    let mut stanzas = text
        .split("\n\n")
        .filter(|stanza| stanza.lines().any(|l| l.starts_with("URIs:")));
    stanzas
        .nth(index)?
        .lines()
        .find_map(|line| line.strip_prefix("Signed-By:"))
        .and_then(file_name)
}

/// An apt that knows nothing but one sources list, and changes nothing outside
/// its directory.
struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    fn new(dir: &Path) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial", "parts", "debs"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("create {}", sub.display()))?;
        }
        fs::write(dir.join("status"), "").context("write an empty package status")?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut apt = Command::new(program);
        let mut set = |key: &str, value: &Path| {
            apt.arg("-o").arg(format!("{key}={}", value.display()));
        };
        set("Dir::State", &self.dir);
        set("Dir::State::status", &self.dir.join("status"));
        set("Dir::Cache", &self.dir.join("cache"));
        set("Dir::Etc::sourcelist", &self.dir.join("sources.list"));
        set("Dir::Etc::sourceparts", &self.dir.join("parts"));
        set("Dir::Etc::preferencesparts", &self.dir.join("parts"));
        // Package lists only; no translations, no descriptions of applications.
        for option in [
            "Acquire::Languages=none",
            // A mirror that does not answer is an error, not a warning.
            "APT::Update::Error-Mode=any",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false",
        ] {
            apt.args(["-o", option]);
        }
        if setup::is_root() {
            // apt's own download user cannot enter every target directory.
            apt.args(["-o", "APT::Sandbox::User=root"]);
        }
        let output = apt
            .args(arguments)
            .env("LC_ALL", "C")
            .current_dir(self.dir.join("debs"))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {program}"))?;
        if !output.status.success() {
            // Without the options: they say nothing to the user.
            bail!(
                "`{program} {}`: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn download(&self, list: &str, metapackage: &str, prefix: &str) -> Result<Download> {
        fs::write(self.dir.join("sources.list"), list).context("write the sources list")?;
        self.run("apt-get", &["-qq", "update"])?;
        let depends = self.run("apt-cache", &["show", metapackage])?;
        let (package, version) = real_package(&depends, prefix)
            .with_context(|| format!("{metapackage} depends on no {prefix}… there"))?;
        let exact = format!("{package}={version}");
        self.run("apt-get", &["-qq", "download", &exact])?;
        let debs = self.dir.join("debs");
        let deb = fs::read_dir(&debs)
            .with_context(|| format!("list {}", debs.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(&package) && name.ends_with(".deb"))
            })
            .with_context(|| format!("apt-get left no {package} in {}", debs.display()))?;
        Ok(Download {
            package,
            version,
            deb,
        })
    }
}

/// Of `apt-cache show METAPACKAGE`: the first dependency `NAME (= VERSION)`
/// whose name starts with `prefix`.
fn real_package(show: &str, prefix: &str) -> Option<(String, String)> {
    show.lines()
        .filter_map(|line| line.strip_prefix("Depends: "))
        .flat_map(|depends| depends.split(", "))
        .find_map(|depend| {
            let (name, rest) = depend.split_once(" (= ")?;
            let version = rest.strip_suffix(')')?;
            name.starts_with(prefix)
                .then(|| (name.to_owned(), version.to_owned()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "\
|main|nodistro|http://a.invalid/node/|/etc/apt/sources.list.d/node.sources:1
Debian|main|bookworm-updates|http://m.invalid/debian/|/etc/apt/sources.list.d/debian.sources:1
Debian|main|bookworm-security|http://m.invalid/debian-security/|/etc/apt/sources.list.d/debian.sources:2
Debian|main|bookworm|http://m.invalid/debian/|/etc/apt/sources.list.d/debian.sources:1
";

    #[test]
    fn the_source_of_the_plain_release_is_picked() {
        let source = Source::pick(TARGETS).expect("found");
        assert_eq!(source.uri, "http://m.invalid/debian/");
        assert_eq!(
            source.entry(),
            Some((PathBuf::from("/etc/apt/sources.list.d/debian.sources"), 1))
        );
        assert_eq!(
            source.list("bookworm-backports", Some("/k.gpg")),
            "deb [signed-by=/k.gpg] http://m.invalid/debian/ bookworm-backports main\n"
        );
    }

    #[test]
    fn a_machine_without_debian_sources_is_told_what_to_do() {
        let error = Source::pick("Ubuntu|main|noble|http://u.invalid/|/x:1\n").expect_err("none");
        assert!(error.to_string().contains("container"), "{error}");
    }

    #[test]
    fn the_key_of_a_deb822_stanza_is_found_by_its_number() {
        let text = "Types: deb\n# note\nURIs: http://m.invalid/debian\nSuites: bookworm\n\
                    Signed-By: /a.gpg\n\nTypes: deb\nURIs: http://m.invalid/s\nSigned-By: /b.gpg\n";
        assert_eq!(signed_by(text, 1).as_deref(), Some("/a.gpg"));
        assert_eq!(signed_by(text, 2).as_deref(), Some("/b.gpg"));
        assert_eq!(signed_by(text, 3), None);
    }

    #[test]
    fn the_key_of_a_one_line_source_is_found_by_its_line() {
        let text = "# main\ndeb [arch=amd64 signed-by=/k.gpg] http://m.invalid/d bookworm main\n\
                    deb http://m.invalid/d bookworm main\n";
        assert_eq!(signed_by(text, 2).as_deref(), Some("/k.gpg"));
        assert_eq!(signed_by(text, 3), None);
    }

    #[test]
    fn a_key_inside_the_sources_file_is_not_taken_for_a_file() {
        let text = "URIs: http://m.invalid/debian\nSigned-By:\n -----BEGIN PGP\n .\n";
        assert_eq!(signed_by(text, 1), None);
    }

    #[test]
    fn a_metapackage_leads_to_the_kernel_it_depends_on() {
        let show = "Package: linux-image-cloud-amd64\n\
                    Depends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)\n";
        assert_eq!(
            real_package(show, "linux-image-6.12."),
            Some((
                "linux-image-6.12.95+deb12-cloud-amd64".to_owned(),
                "6.12.95-1~bpo12+1".to_owned()
            ))
        );
        assert_eq!(real_package(show, "linux-image-6.1."), None);
    }
}
