//! The kernel's requests, understood.

use disk::Buffers;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::abi::{
    FallocateIn, InHeader, InitIn, LseekIn, OpenIn, ReadIn, SetattrIn, WriteIn, opcode,
};
use super::errno::Errno;
use super::inbox::DATA_START;

/// The longest name that we know is much shorter; of a longer one, this much tells it apart.
const NAME_MAX_BYTES: usize = 256;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    /// The number by which the reply names it.
    pub(super) unique: u64,
    /// What it is about.
    pub(super) node: u64,
    pub(super) operation: Result<Operation, Errno>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Operation {
    Init(InitIn),
    Lookup(Vec<u8>),
    /// The kernel lets go of nodes, and wants no reply.
    Forget,
    GetAttributes,
    SetAttributes(SetattrIn),
    Open(OpenIn),
    Read(ReadIn),
    Write {
        offset: u64,
        data: Buffers,
        /// Whether it is not done until it is durable; the kernel asks for no `fsync` then.
        durable: bool,
    },
    StatFileSystem,
    Release,
    Sync,
    ReadDirectory(ReadIn),
    Allocate(FallocateIn),
    Seek(LseekIn),
}

impl Request {
    /// Understands a message; nothing if it is not even the start of one.
    pub(super) fn parse(message: &Buffers) -> Option<Self> {
        let header: InHeader = read(message, 0).filter(|header: &InHeader| {
            usize::try_from(header.len).is_ok_and(|len| len == message.len())
        })?;
        Some(Self {
            unique: header.unique,
            node: header.node,
            operation: operation(header.opcode, message),
        })
    }
}

fn operation(number: u32, message: &Buffers) -> Result<Operation, Errno> {
    Ok(match number {
        opcode::INIT => Operation::Init(init(message)),
        opcode::LOOKUP => Operation::Lookup(name(message)),
        opcode::FORGET | opcode::BATCH_FORGET => Operation::Forget,
        opcode::GETATTR => Operation::GetAttributes,
        opcode::SETATTR => Operation::SetAttributes(arguments(message)?),
        opcode::OPEN => Operation::Open(arguments(message)?),
        opcode::READ => Operation::Read(arguments(message)?),
        opcode::WRITE => write(message)?,
        opcode::STATFS => Operation::StatFileSystem,
        opcode::RELEASE => Operation::Release,
        opcode::FSYNC => Operation::Sync,
        opcode::READDIR => Operation::ReadDirectory(arguments(message)?),
        opcode::FALLOCATE => Operation::Allocate(arguments(message)?),
        opcode::LSEEK => Operation::Seek(arguments(message)?),
        opcode::SYMLINK
        | opcode::MKNOD
        | opcode::MKDIR
        | opcode::UNLINK
        | opcode::RMDIR
        | opcode::RENAME
        | opcode::RENAME2
        | opcode::LINK
        | opcode::CREATE
        | opcode::TMPFILE => return Err(Errno(libc::EPERM)),
        // The kernel remembers what we do not know, and does not ask again. A close is among
        // that: it makes nothing durable, as with every file.
        _ => return Err(Errno(libc::ENOSYS)),
    })
}

/// A structure in the message, if it is long enough.
fn read<T: FromBytes + IntoBytes + FromZeros>(message: &Buffers, at: usize) -> Option<T> {
    let end = at + size_of::<T>();
    (end <= message.len()).then(|| {
        let mut value = T::new_zeroed();
        message.slice(at..end).copy_to(value.as_mut_bytes());
        value
    })
}

/// What follows the header.
fn arguments<T: FromBytes + IntoBytes + FromZeros>(message: &Buffers) -> Result<T, Errno> {
    read(message, size_of::<InHeader>()).ok_or(Errno(libc::EINVAL))
}

/// What old kernels leave out is zero.
fn init(message: &Buffers) -> InitIn {
    let mut offered = InitIn::default();
    let there = message.slice(size_of::<InHeader>()..message.len());
    let len = there.len().min(size_of::<InitIn>());
    let bytes = &mut offered.as_mut_bytes()[..len];
    there.slice(0..len).copy_to(bytes);
    offered
}

/// A name, without the zero at its end.
fn name(message: &Buffers) -> Vec<u8> {
    let start = size_of::<InHeader>();
    let end = message.len().min(start + NAME_MAX_BYTES);
    let mut name = message.slice(start..end).to_vec();
    if let Some(end) = name.iter().position(|&byte| byte == 0) {
        name.truncate(end);
    }
    name
}

fn write(message: &Buffers) -> Result<Operation, Errno> {
    let WriteIn {
        offset, len, flags, ..
    } = arguments(message)?;
    let data = message.slice(DATA_START..message.len());
    if usize::try_from(len).is_ok_and(|len| len == data.len()) {
        Ok(Operation::Write {
            offset,
            data,
            durable: is_durable(flags),
        })
    } else {
        Err(Errno(libc::EINVAL))
    }
}

/// Whether the flags of an open file, to which the kernel adds those of a single write
/// (`RWF_DSYNC`) and of the mount (`-o sync`), want changes durable. `O_SYNC` has the bit of
/// `O_DSYNC` in it.
pub(super) fn is_durable(flags: u32) -> bool {
    flags.cast_signed() & libc::O_DSYNC != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u32, arguments: &[u8]) -> Buffers {
        let len = size_of::<InHeader>() + arguments.len();
        let header = InHeader {
            len: u32::try_from(len).unwrap(),
            opcode: number,
            unique: 7,
            node: 1,
            ..InHeader::default()
        };
        Buffers::from_vec([header.as_bytes(), arguments].concat())
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let write = WriteIn {
            len: 5,
            ..WriteIn::default()
        };
        let whole = message(opcode::WRITE, &[write.as_bytes(), b"hello"].concat());
        let request = Request::parse(&whole).unwrap();
        assert_eq!((request.unique, request.node), (7, 1));
        let Ok(Operation::Write { data, .. }) = request.operation else {
            panic!("{request:?}");
        };
        assert_eq!(data.to_vec(), b"hello");
        for len in 0..whole.len() {
            assert!(Request::parse(&whole.slice(0..len)).is_none(), "{len}");
            let Some(arguments) = len.checked_sub(size_of::<InHeader>()) else {
                continue;
            };
            let short = &whole.to_vec()[size_of::<InHeader>()..][..arguments];
            let request = Request::parse(&message(opcode::WRITE, short)).unwrap();
            assert_eq!(request.operation.unwrap_err(), Errno(libc::EINVAL), "{len}");
        }
    }

    #[test]
    fn names_end_with_a_zero_or_with_the_message() {
        let lookup = |arguments: &[u8]| {
            let request = Request::parse(&message(opcode::LOOKUP, arguments)).unwrap();
            match request.operation {
                Ok(Operation::Lookup(name)) => name,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(lookup(b"disk.raw\0"), b"disk.raw");
        assert_eq!(lookup(b"disk.raw"), b"disk.raw");
        assert_eq!(lookup(b""), b"");
        assert_eq!(lookup(&[b'a'; 5000]).len(), NAME_MAX_BYTES);
    }

    #[test]
    fn old_kernels_offer_less() {
        let offered = InitIn {
            major: 7,
            minor: 31,
            flags: 9,
            flags2: 3,
            ..InitIn::default()
        };
        let request = Request::parse(&message(opcode::INIT, &offered.as_bytes()[..16])).unwrap();
        let Ok(Operation::Init(seen)) = request.operation else {
            panic!("{request:?}");
        };
        assert_eq!((seen.minor, seen.flags, seen.flags2), (31, 9, 0));
    }

    #[test]
    fn what_would_change_the_directory_is_not_permitted() {
        let request = |number| Request::parse(&message(number, &[])).unwrap().operation;
        assert_eq!(request(opcode::UNLINK).unwrap_err(), Errno(libc::EPERM));
        assert_eq!(request(12345).unwrap_err(), Errno(libc::ENOSYS));
    }
}
