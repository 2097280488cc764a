//! Calls that end a file, or a part of it, and name it by a path.

use kvm_bindings::kvm_regs;
use libc::c_long;

use super::call::fd;

const O_EXCL: u64 = 0o200;
const O_TRUNC: u64 = 0o1000;
const O_NOFOLLOW: u64 = 0o40_0000;
const RENAME_NOREPLACE: u64 = 1;
const RENAME_EXCHANGE: u64 = 2;
const AT_REMOVEDIR: u64 = 0x200;

/// What a call names, which the guest's kernel finds as it will for the call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// What the path begins at, unless it begins with `/`.
    pub(super) directory: i32,
    /// Where the path is, in the memory of the process.
    pub(super) path: u64,
    /// Whether a symbolic link stands for what it points to.
    pub(super) follows: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It loses this name.
    Unlinked,
    /// It has so many bytes afterwards.
    Truncated(u64),
    /// It is opened, and loses its content if the `struct open_how` at this address says so.
    Opened(u64),
}

/// What a call does to what it names; nothing if it leaves that as it is.
pub(super) fn decode(number: c_long, regs: &kvm_regs) -> Option<(Named, Fate)> {
    let (here, there) = (libc::AT_FDCWD, fd(regs.rdi));
    let named = |directory, path, follows| Named {
        directory,
        path,
        follows,
    };
    let (named, fate) = match number {
        libc::SYS_unlink => (named(here, regs.rdi, false), Fate::Unlinked),
        libc::SYS_unlinkat if regs.rdx & AT_REMOVEDIR == 0 => {
            (named(there, regs.rsi, false), Fate::Unlinked)
        }
        // What had the new name has lost it.
        libc::SYS_rename => (named(here, regs.rsi, false), Fate::Unlinked),
        libc::SYS_renameat => (named(fd(regs.rdx), regs.r10, false), Fate::Unlinked),
        libc::SYS_renameat2 if regs.r8 & (RENAME_NOREPLACE | RENAME_EXCHANGE) == 0 => {
            (named(fd(regs.rdx), regs.r10, false), Fate::Unlinked)
        }
        libc::SYS_truncate => (named(here, regs.rdi, true), Fate::Truncated(regs.rsi)),
        libc::SYS_creat => (named(here, regs.rdi, true), Fate::Truncated(0)),
        libc::SYS_open if empties(regs.rsi) => {
            let follows = regs.rsi & O_NOFOLLOW == 0;
            (named(here, regs.rdi, follows), Fate::Truncated(0))
        }
        libc::SYS_openat if empties(regs.rdx) => {
            let follows = regs.rdx & O_NOFOLLOW == 0;
            (named(there, regs.rsi, follows), Fate::Truncated(0))
        }
        libc::SYS_openat2 => (named(there, regs.rsi, true), Fate::Opened(regs.rdx)),
        _ => return None,
    };
    Some((named, fate))
}

/// Whether a file that is opened with these flags has lost its content.
pub(super) fn empties(flags: u64) -> bool {
    flags & O_TRUNC != 0 && flags & O_EXCL == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: c_long, [rdi, rsi, rdx, r10, r8]: [u64; 5]) -> Option<(i32, u64, bool, Fate)> {
        let regs = kvm_regs {
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            ..Default::default()
        };
        let (named, fate) = decode(number, &regs)?;
        Some((named.directory, named.path, named.follows, fate))
    }

    #[test]
    fn what_loses_its_name_is_what_had_it_before() {
        let here = libc::AT_FDCWD;
        let unlinked = |directory, path| Some((directory, path, false, Fate::Unlinked));
        assert_eq!(of(libc::SYS_unlink, [10, 0, 0, 0, 0]), unlinked(here, 10));
        assert_eq!(of(libc::SYS_unlinkat, [3, 10, 0, 0, 0]), unlinked(3, 10));
        assert_eq!(of(libc::SYS_unlinkat, [3, 10, 0x200, 0, 0]), None);
        assert_eq!(of(libc::SYS_rename, [10, 20, 0, 0, 0]), unlinked(here, 20));
        let at_here = u64::from(here.cast_unsigned());
        let renamed = [3, 10, at_here, 20, 0];
        assert_eq!(of(libc::SYS_renameat, renamed), unlinked(here, 20));
        assert_eq!(of(libc::SYS_renameat2, renamed), unlinked(here, 20));
        for flags in [1, 2] {
            assert_eq!(of(libc::SYS_renameat2, [3, 10, 4, 20, flags]), None);
        }
    }

    #[test]
    fn what_is_opened_loses_its_content_only_if_that_is_said() {
        let emptied = |directory, follows| Some((directory, 10, follows, Fate::Truncated(0)));
        let here = libc::AT_FDCWD;
        assert_eq!(
            of(libc::SYS_openat, [3, 10, 0o1101, 0, 0]),
            emptied(3, true)
        );
        let not_followed = [3, 10, 0o1101 | 0o40_0000, 0, 0];
        assert_eq!(of(libc::SYS_openat, not_followed), emptied(3, false));
        for flags in [0, 0o101, 0o1301] {
            assert_eq!(of(libc::SYS_openat, [3, 10, flags, 0, 0]), None);
            assert_eq!(of(libc::SYS_open, [10, flags, 0, 0, 0]), None);
        }
        assert_eq!(
            of(libc::SYS_open, [10, 0o1001, 0, 0, 0]),
            emptied(here, true)
        );
        assert_eq!(of(libc::SYS_creat, [10, 0, 0, 0, 0]), emptied(here, true));
        let (_, _, _, fate) = of(libc::SYS_openat2, [3, 10, 77, 24, 0]).unwrap();
        assert_eq!(fate, Fate::Opened(77));
        let (_, _, _, fate) = of(libc::SYS_truncate, [10, 5, 0, 0, 0]).unwrap();
        assert_eq!(fate, Fate::Truncated(5));
    }
}
