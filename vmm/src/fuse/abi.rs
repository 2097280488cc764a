//! What the kernel and we say to each other: the structures and numbers of
//! `include/uapi/linux/fuse.h`, in the machine's own byte order.

use std::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version we speak. The minor one is that of 7.39, which brought shared mappings of files
/// without a page cache.
pub(super) const MAJOR: u32 = 7;
pub(super) const MINOR: u32 = 39;
/// Linux 5.4. Before it, structures were shorter, and flags that we need missing.
pub(super) const MINOR_MIN: u32 = 31;

/// The number of the root.
pub(super) const ROOT: u64 = 1;

/// The least memory that the kernel reads a request into.
pub(super) const MESSAGE_MIN_BYTES: usize = 8192;

/// What a request is about (`enum fuse_opcode`).
pub(super) mod opcode {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const TMPFILE: u32 = 51;
}

/// What is agreed upon at the start (`FUSE_INIT` flags).
pub(super) mod init_flag {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    pub(in crate::fuse) const INIT_EXT: u64 = 1 << 30;
    pub(in crate::fuse) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// How an open file is used (`FOPEN_*`).
pub(super) mod open_flag {
    pub(in crate::fuse) const DIRECT_IO: u32 = 1 << 0;
    pub(in crate::fuse) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// What attributes are to be set (`FATTR_*`).
pub(super) mod set {
    pub(in crate::fuse) const MODE: u32 = 1 << 0;
    pub(in crate::fuse) const UID: u32 = 1 << 1;
    pub(in crate::fuse) const GID: u32 = 1 << 2;
    pub(in crate::fuse) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse) const MTIME: u32 = 1 << 5;
    pub(in crate::fuse) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse) const MTIME_NOW: u32 = 1 << 8;
}

macro_rules! kernel_struct {
    ($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub(super) $field: $type),+
        }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

kernel_struct! {
    /// The start of a request.
    InHeader, 40 {
        len: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32,
        extensions_len: u16, padding: u16,
    }
}
kernel_struct! {
    /// The start of a reply.
    OutHeader, 16 { len: u32, error: i32, unique: u64 }
}
kernel_struct! {
    /// What the kernel offers. Old ones leave out what begins with `flags2`.
    InitIn, 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11],
    }
}
kernel_struct! {
    /// What we take of it.
    InitOut, 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_granularity_ns: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, unused: [u32; 7],
    }
}
kernel_struct! {
    /// What `stat` tells of a file.
    Attr, 88 {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atime_ns: u32,
        mtime_ns: u32, ctime_ns: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        blksize: u32, flags: u32,
    }
}
kernel_struct! {
    /// The answer to `LOOKUP`.
    EntryOut, 128 {
        node: u64, generation: u64, entry_valid_s: u64, attr_valid_s: u64, entry_valid_ns: u32,
        attr_valid_ns: u32, attr: Attr,
    }
}
kernel_struct! {
    /// The answer to `GETATTR` and `SETATTR`.
    AttrOut, 104 { valid_s: u64, valid_ns: u32, padding: u32, attr: Attr }
}
kernel_struct! {
    /// What to change of a file's attributes.
    SetattrIn, 88 {
        valid: u32, padding: u32, handle: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64,
        ctime: u64, atime_ns: u32, mtime_ns: u32, ctime_ns: u32, mode: u32, unused: u32, uid: u32,
        gid: u32, unused2: u32,
    }
}
kernel_struct! {
    /// How a file is opened.
    OpenIn, 8 { flags: u32, open_flags: u32 }
}
kernel_struct! {
    /// An open file.
    OpenOut, 16 { handle: u64, open_flags: u32, backing: i32 }
}
kernel_struct! {
    /// What to read, of a file or a directory.
    ReadIn, 40 {
        handle: u64, offset: u64, len: u32, read_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
}
kernel_struct! {
    /// What to write; the data follows.
    WriteIn, 40 {
        handle: u64, offset: u64, len: u32, write_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
}
kernel_struct! {
    /// How much was written.
    WriteOut, 8 { len: u32, padding: u32 }
}
kernel_struct! {
    /// What `statfs` tells.
    StatfsOut, 80 {
        blocks: u64, free: u64, available: u64, files: u64, free_files: u64, block_size: u32,
        name_len: u32, fragment_size: u32, padding: u32, spare: [u32; 6],
    }
}
kernel_struct! {
    /// What to allocate or to give back, as `fallocate` has it.
    FallocateIn, 32 { handle: u64, offset: u64, len: u64, mode: u32, padding: u32 }
}
kernel_struct! {
    /// From where to look for what, as `lseek` has it.
    LseekIn, 24 { handle: u64, offset: u64, whence: u32, padding: u32 }
}
kernel_struct! {
    /// Where it was found.
    LseekOut, 8 { offset: u64 }
}
kernel_struct! {
    /// The start of an entry of a directory; the name follows, then zeros to a multiple of 8.
    Dirent, 24 { ino: u64, offset: u64, name_len: u32, kind: u32 }
}
