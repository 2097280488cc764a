//! A real Debian (or Ubuntu) on a disk: its own initial RAM disk, systemd, a shell on the serial
//! console.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use crate::apt::Apt;
use crate::command::{is_root, progress, run};
use crate::packages::{Tool, require};
use crate::{Cache, Error, Result, disk, kernel};

/// What the system consists of beside a kernel and the essential packages.
const PACKAGES: &str = "dbus,initramfs-tools,systemd-sysv,udev,zstd";

const CUSTOMIZE: &str = include_str!("debian/customize.sh");

/// Room for the system, which takes about a quarter of it, and for what tests write.
const SIZE_BYTES: u64 = 2 << 30;

/// Settings of the host's apt that another apt needs to reach the same sources.
const SHARED_SETTINGS: [&str; 4] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
];

/// A root file system of the host's distribution, to be booted with `root=/dev/vda`.
///
/// Root is logged in on the serial console, with the prompt [`crate::initramfs::PROMPT`]; the
/// power button powers it off.
#[derive(Clone, Debug)]
pub struct Root {
    /// A raw disk image that holds ext4. It is shared: write to a copy ([`disk::copy`]).
    pub disk: PathBuf,
    /// The kernel that is installed in it, a bzImage.
    pub kernel: PathBuf,
    /// The initial RAM disk that the distribution's own tools made for it.
    pub initrd: PathBuf,
}

impl Root {
    /// Gives the root file system with the packages `extra` in it, built unless it is in the
    /// cache; that takes a minute or two.
    ///
    /// The packages come from the sources of the host.
    pub fn build(cache: &Cache, extra: &[&str]) -> Result<Self> {
        let recipe = format!("{CUSTOMIZE}{PACKAGES}{SIZE_BYTES}{}", extra.join(","));
        let name = format!("debian-{:08x}", crc32c::crc32c(recipe.as_bytes()));
        let entry = cache.entry(&name, |entry| build(cache, extra, entry))?;
        Ok(Self {
            disk: entry.join("disk.img"),
            kernel: entry.join("vmlinuz"),
            initrd: entry.join("initrd.img"),
        })
    }
}

fn build(cache: &Cache, extra: &[&str], entry: &Path) -> Result<()> {
    require(&[Tool::Mmdebstrap, Tool::Mke2fs])?;
    if is_root() {
        return bootstrap(cache, extra, entry, "root");
    }
    require(&[Tool::Uidmap])?;
    // The builder is then another user, whom the cache may be closed to.
    let scratch = std::env::temp_dir().join(format!("microvm-debian-{}", process::id()));
    fs::create_dir(&scratch).map_err(Error::io("create", &scratch))?;
    let open = Permissions::from_mode(0o777);
    let built = fs::set_permissions(&scratch, open)
        .map_err(Error::io("open to others", &scratch))
        .and_then(|()| bootstrap(cache, extra, &scratch, "unshare"))
        .and_then(|()| take(&scratch, entry));
    let removed = fs::remove_dir_all(&scratch).map_err(Error::io("remove", &scratch));
    built.and(removed)
}

fn take(scratch: &Path, entry: &Path) -> Result<()> {
    for name in ["disk.img", "vmlinuz", "initrd.img"] {
        disk::copy(&scratch.join(name), &entry.join(name))?;
    }
    Ok(())
}

fn bootstrap(cache: &Cache, extra: &[&str], output: &Path, mode: &str) -> Result<()> {
    let release = Path::new("/etc/os-release");
    let text = fs::read_to_string(release).map_err(Error::io("read", release))?;
    let suite = suite(&text).ok_or_else(|| Error::format(release, "no VERSION_CODENAME"))?;
    let kernel = kernel::meta_package(&Apt::new(cache)?)?.name;
    progress(&format!(
        "building a root file system of {suite}, which takes a minute or two"
    ));

    let script = output.join("customize.sh");
    fs::write(&script, CUSTOMIZE).map_err(Error::io("write", &script))?;
    let settings = output.join("apt.conf");
    fs::write(&settings, apt_settings()?).map_err(Error::io("write", &settings))?;

    let mut command = Tool::Mmdebstrap.start();
    command.args(["--quiet", "--variant=minbase", "--format=null"]);
    command.arg(format!("--mode={mode}"));
    command.arg(format!("--include={PACKAGES},{kernel}"));
    if !extra.is_empty() {
        command.arg(format!("--include={}", extra.join(",")));
    }
    command.arg(format!("--aptopt={}", settings.display()));
    // The system is thrown away if the machine fails, so nothing need be durable meanwhile.
    command.arg("--dpkgopt=force-unsafe-io");
    command.arg(format!("--customize-hook=sh {} \"$1\"", quote(&script)));
    command
        .env("OUTPUT", output)
        .env("SIZE", SIZE_BYTES.to_string());
    command.env("MKE2FS", Tool::Mke2fs.find().unwrap_or_default());
    command.arg(suite).arg("-");
    command.args(sources(suite)?);
    run(&mut command)?;

    for path in [script, settings] {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// The distribution's name for its release (os-release(5)).
fn suite(os_release: &str) -> Option<&str> {
    let mut lines = os_release.lines();
    let value = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"')).filter(|suite| !suite.is_empty())
}

/// The host's lists of sources that offer packages of `suite`.
fn sources(suite: &str) -> Result<Vec<PathBuf>> {
    let directory = Path::new("/etc/apt/sources.list.d");
    let items = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    let mut files: Vec<PathBuf> = items.flatten().map(|item| item.path()).collect();
    files.push("/etc/apt/sources.list".into());
    files.sort();
    files.retain(|path| {
        let kind = path.extension().and_then(|extension| extension.to_str());
        let offers = |text: String| names_suite(&text, suite);
        matches!(kind, Some("list" | "sources")) && fs::read_to_string(path).is_ok_and(offers)
    });
    if files.is_empty() {
        return Err(Error::NoPackage {
            what: format!("packages of {suite}"),
        });
    }
    Ok(files)
}

/// Whether a list of sources (sources.list(5), both formats) names `suite`.
fn names_suite(text: &str, suite: &str) -> bool {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(str::split_whitespace)
        .any(|word| word == suite)
}

/// The host's settings for reaching its sources: proxies, retries, checks of dates.
fn apt_settings() -> Result<String> {
    let dump = run(Command::new("apt-config").arg("dump"))?;
    let dump = String::from_utf8_lossy(&dump);
    let shared = |line: &&str| SHARED_SETTINGS.iter().any(|name| line.starts_with(name));
    Ok(dump
        .lines()
        .filter(shared)
        .fold(String::new(), |text, line| text + line + "\n"))
}

/// The path as one word of a shell.
fn quote(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_the_codename_of_the_host() {
        let text = "NAME=\"Debian\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(suite(text), Some("bookworm"));
        assert_eq!(suite("VERSION_CODENAME=\"noble\"\n"), Some("noble"));
        assert_eq!(suite("ID=debian\nVERSION_CODENAME=\n"), None);
    }

    #[test]
    fn sources_are_chosen_by_their_suite() {
        let deb822 = "Types: deb\n# Suites: trixie\nSuites: bookworm bookworm-updates\n";
        assert!(names_suite(deb822, "bookworm"));
        assert!(!names_suite(deb822, "trixie"));
        let one_line = "# deb http://mirror sid main\ndeb http://mirror/debian bookworm main\n";
        assert!(names_suite(one_line, "bookworm"));
        assert!(!names_suite(one_line, "sid"));
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(quote(Path::new("/a b/c'd")), r"'/a b/c'\''d'");
    }
}
