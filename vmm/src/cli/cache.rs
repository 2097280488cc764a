//! The options of `--disk` for a cache in front of it.

use disk::cache::{CacheOptions, MAX_BYTES, MIN_BYTES, WriteMode};

use super::disk::parse;
use super::parse_size;

/// `cache=SIZE` and what goes with it, as given.
#[derive(Default)]
pub(super) struct CacheFields {
    bytes: Option<u64>,
    file: Option<String>,
    mode: Option<WriteMode>,
    policy: Option<disk::cache::PolicyKind>,
    by_class: Option<bool>,
}

impl CacheFields {
    /// Takes an option; whether it is one of these.
    pub(super) fn apply(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "cache" => self.bytes = Some(parse_bytes(value)?),
            "cache-file" if !value.is_empty() => self.file = Some(value.to_owned()),
            "cache-write" => self.mode = Some(parse(value)?),
            "cache-policy" => self.policy = Some(parse(value)?),
            "cache-classes" => {
                self.by_class = Some(match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(format!("cache-classes={value}: give on or off")),
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What they mean together. `read_only` is whether the disk only is read, `is_snapshot` whether
    /// it is an internal snapshot.
    pub(super) fn finish(
        self,
        read_only: bool,
        is_snapshot: bool,
    ) -> Result<Option<CacheOptions>, String> {
        let others = [
            ("cache-file", self.file.is_some()),
            ("cache-write", self.mode.is_some()),
            ("cache-policy", self.policy.is_some()),
            ("cache-classes", self.by_class.is_some()),
        ];
        let Some(bytes) = self.bytes else {
            return match others.iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => Err(format!("{name}= needs cache=SIZE")),
                None => Ok(None),
            };
        };
        let mut options = CacheOptions::new(bytes)
            .write_mode(self.mode.unwrap_or_default())
            .policy(self.policy.unwrap_or_default())
            .by_class(self.by_class.unwrap_or(true));
        if self.mode == Some(WriteMode::Back) && (read_only || is_snapshot) {
            return Err("cache-write=back is for disks that are written; leave it out".to_owned());
        }
        match self.file {
            Some(_) if is_snapshot => {
                return Err(
                    "cache-file= is for the disk as it is now, not for snapshot=; leave it out"
                        .to_owned(),
                );
            }
            Some(path) => options = options.file(path),
            None => check_memory(bytes)?,
        }
        Ok(Some(options))
    }
}

fn parse_bytes(size: &str) -> Result<u64, String> {
    let bytes = parse_size(size)?;
    let limits = MIN_BYTES..=MAX_BYTES;
    if !limits.contains(&bytes) {
        return Err(format!("cache={size}: a cache has between 1M and 1T"));
    }
    Ok(bytes)
}

/// Refuses what no memory of this host holds.
fn check_memory(bytes: u64) -> Result<(), String> {
    match exceeded_memory_bytes(bytes) {
        Some(host) => Err(format!(
            "cache={bytes}: is more than half of the host's memory ({host} bytes); give less, or \
             cache-file=PATH on a fast disk"
        )),
        None => Ok(()),
    }
}

/// The host's memory in bytes, if `bytes` are more than half of it.
pub(super) fn exceeded_memory_bytes(bytes: u64) -> Option<u64> {
    host_memory_bytes().filter(|host| bytes > host / 2)
}

/// How much memory the host has, if it says so.
fn host_memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}
