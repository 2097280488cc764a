//! What the host offers beside KVM.

use std::fs;

use super::Finding;

/// Less than this and even a small guest makes the host swap.
const MEMORY_MIN_KIB: u64 = 1 << 20;
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

pub(super) fn examine() -> Vec<Finding> {
    vec![io_uring(), huge_pages(), memory()]
}

fn io_uring() -> Finding {
    match disk::probe::io_uring() {
        Ok(mode) => Finding::good("io_uring", format!("allowed ({mode})")),
        Err(error) => Finding::fair(
            "io_uring",
            format!("{error}, disks do their I/O by slower threads"),
            "allow it: sysctl kernel.io_uring_disabled=0, or the container's seccomp profile",
        ),
    }
}

fn huge_pages() -> Finding {
    let setting = fs::read_to_string(HUGE_PAGES).unwrap_or_default();
    let chosen = setting
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    match chosen.map(|(chosen, _)| chosen) {
        Some(chosen @ ("always" | "madvise")) => Finding::good(
            "huge pages",
            format!("transparent huge pages are given ({chosen})"),
        ),
        Some(_) => Finding::fair(
            "huge pages",
            "transparent huge pages are off, guests boot slower",
            &format!("echo madvise | sudo tee {HUGE_PAGES}"),
        ),
        None => Finding::fair(
            "huge pages",
            "this kernel has no transparent huge pages, guests boot slower",
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
    }
}

fn memory() -> Finding {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_kib(&info) {
        Some(kib) if kib >= MEMORY_MIN_KIB => {
            Finding::good("memory", format!("{} MiB available", kib >> 10))
        }
        Some(kib) => Finding::fair(
            "memory",
            format!("only {} MiB available", kib >> 10),
            "give guests less (--mem) or end other programs",
        ),
        None => Finding::fair("memory", "/proc/meminfo does not tell", "mount /proc"),
    }
}

/// `MemAvailable` of `/proc/meminfo`.
fn available_kib(info: &str) -> Option<u64> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_its_line() {
        let info = "MemTotal:  24 kB\nMemAvailable:   12345 kB\nSwapFree: 1 kB\n";
        assert_eq!(available_kib(info), Some(12345));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }
}
