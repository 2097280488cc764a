//! Downloads packages from the sources that the host itself uses, without root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{is_root, progress, run};
use crate::{Cache, Error, Result};

/// Where Debian and Ubuntu keep the lists of packages.
const HOST_LISTS: &str = "/var/lib/apt/lists";

/// The package manager, with the host's lists or, where there are none, lists of its own.
#[derive(Debug)]
pub struct Apt {
    options: Vec<String>,
}

/// What the package lists say about one package.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The names of the packages it depends on; of alternatives, the first.
    pub depends: Vec<String>,
}

impl Apt {
    /// Prepares to download. The host's package lists are used if there are any; else root
    /// updates them, and another user keeps lists in the cache.
    pub fn new(cache: &Cache) -> Result<Self> {
        // As root, apt would drop its privileges and then fail to write into the cache.
        let mut apt = Self {
            options: vec!["-qq".into(), "-o=APT::Sandbox::User=root".into()],
        };
        if host_has_lists() {
            return Ok(apt);
        }
        if !is_root() {
            let state = cache.root().join("apt");
            let partial = state.join("lists/partial");
            fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
            apt.options
                .push(format!("-o=Dir::State={}", state.display()));
            apt.options
                .push(format!("-o=Dir::Cache={}", state.join("cache").display()));
            apt.options
                .push("-o=Dir::State::status=/var/lib/dpkg/status".into());
            if has_lists(&state.join("lists")) {
                return Ok(apt);
            }
        }
        progress("updating the package lists (apt-get update)");
        run(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// What the lists say about the newest version of `name`, or `None` if they do not have it.
    pub fn show(&self, name: &str) -> Result<Option<Package>> {
        let text = run(self
            .command("apt-cache")
            .args(["show", "--no-all-versions", name]));
        match text {
            Ok(text) => Ok(parse(&String::from_utf8_lossy(&text))),
            // apt-cache fails for a name it does not know.
            Err(Error::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Downloads `package` and unpacks its files below `directory`; nothing is installed.
    pub fn unpack(&self, package: &str, directory: &Path) -> Result<()> {
        progress(&format!("downloading {package}"));
        let download = directory.join(".download");
        fs::create_dir_all(&download).map_err(Error::io("create", &download))?;
        run(self
            .command("apt-get")
            .arg("download")
            .arg(package)
            .current_dir(&download))?;
        let archive = only_archive(&download)?;
        run(Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&archive)
            .arg(directory))?;
        fs::remove_dir_all(&download).map_err(Error::io("remove", &download))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }
}

/// Whether the host's own package lists have been fetched.
pub(crate) fn host_has_lists() -> bool {
    has_lists(Path::new(HOST_LISTS))
}

fn has_lists(directory: &Path) -> bool {
    let Ok(items) = fs::read_dir(directory) else {
        return false;
    };
    let names = items.flatten().map(|item| item.file_name());
    names
        .into_iter()
        .any(|name| name.to_string_lossy().contains("_Packages"))
}

fn only_archive(directory: &Path) -> Result<PathBuf> {
    let items = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    let mut paths = items.flatten().map(|item| item.path());
    paths
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .ok_or_else(|| Error::format(directory, "apt-get download left no package here"))
}

/// Reads the first record of `apt-cache show` (Debian policy section 5.1).
fn parse(text: &str) -> Option<Package> {
    let record: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    let field = |name: &str| {
        let mut lines = record.iter();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_default()
    };
    let name_of = |clause: &str| clause.split_whitespace().next().map(str::to_string);
    let package = Package {
        name: field("Package").to_string(),
        version: field("Version").to_string(),
        depends: field("Depends").split(',').filter_map(name_of).collect(),
    };
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_version_and_dependencies() {
        let text = "Package: meta\nVersion: 6.1-2\nDepends: image (= 6.1-2), linux-base (>= 4) | old\n\
                    Description: a line\n more: of it\n\nPackage: second\n";
        let package = parse(text).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("meta", "6.1-2")
        );
        assert_eq!(package.depends, ["image", "linux-base"]);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn lists_are_there_once_they_name_packages() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!has_lists(&directory.path().join("missing")));
        assert!(!has_lists(directory.path()));
        fs::write(directory.path().join("host_dists_Packages.lz4"), "").unwrap();
        assert!(has_lists(directory.path()));
    }
}
