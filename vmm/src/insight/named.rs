//! Calls that end a file, or a part of it, and name it by a path.

use kvm_bindings::kvm_regs;
use libc::c_long;

use super::call::fd;

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
        _ => return None,
    };
    Some((named, fate))
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
    fn what_is_truncated_is_what_a_link_points_to() {
        let truncated = (libc::AT_FDCWD, 10, true, Fate::Truncated(5));
        assert_eq!(of(libc::SYS_truncate, [10, 5, 0, 0, 0]), Some(truncated));
    }
}
