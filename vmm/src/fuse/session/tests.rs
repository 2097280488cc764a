//! A socket that keeps messages apart stands in for `/dev/fuse`.

use std::thread;

use disk::{Executor, OpenOptions, Statistics};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, send, socketpair};
use tempfile::NamedTempFile;
use zerocopy::FromBytes;

use super::*;
use crate::fuse::abi::{
    EntryOut, FallocateIn, InHeader, InitIn, InitOut, MAJOR, OpenIn, OpenOut, OutHeader, ROOT,
    ReadIn, WriteIn, WriteOut, opcode,
};
use crate::fuse::directory::FILE;
use crate::fuse::{FILE_NAME, Kind, RawFile, TRANSFER_MAX_BYTES};

const SIZE: u64 = 1 << 20;

const OFFER: InitIn = InitIn {
    major: MAJOR,
    minor: 39,
    max_readahead: 0,
    flags: u32::MAX,
    flags2: 0,
    unused: [0; 11],
};

/// The kernel's end.
struct Kernel {
    socket: OwnedFd,
    unique: u64,
}

impl Kernel {
    /// Asks something, and returns the number of the question.
    fn ask(&mut self, number: u32, node: u64, arguments: &[u8]) -> u64 {
        self.unique += 2;
        let header = InHeader {
            len: u32::try_from(size_of::<InHeader>() + arguments.len()).unwrap(),
            opcode: number,
            unique: self.unique,
            node,
            ..InHeader::default()
        };
        self.say(&[header.as_bytes(), arguments].concat());
        self.unique
    }

    fn say(&self, bytes: &[u8]) {
        send(&self.socket, bytes, SendFlags::empty()).unwrap();
    }

    /// The next answer: its number, its error, and what it holds.
    fn hear(&self) -> (u64, i32, Vec<u8>) {
        let mut bytes = vec![0; 2 << 20];
        let len = rustix::io::read(&self.socket, &mut bytes[..]).unwrap();
        let (header, _) = OutHeader::read_from_prefix(&bytes[..len]).unwrap();
        assert_eq!(header.len as usize, len);
        let content = bytes[size_of::<OutHeader>()..len].to_vec();
        (header.unique, header.error, content)
    }

    /// What comes of a question.
    fn result(&mut self, number: u32, node: u64, arguments: &[u8]) -> Result<Vec<u8>, Errno> {
        let asked = self.ask(number, node, arguments);
        let (answered, error, content) = self.hear();
        assert_eq!(asked, answered);
        match error {
            0 => Ok(content),
            error => Err(Errno(-error)),
        }
    }

    fn begin(&mut self) {
        let agreed = self.result(opcode::INIT, 0, OFFER.as_bytes()).unwrap();
        let agreed = InitOut::read_from_bytes(&agreed).unwrap();
        assert_eq!(agreed.max_write, TRANSFER_MAX_BYTES);
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
}

/// Has `kernel` speak to a session, and returns how that ended.
fn converse(kernel: impl FnOnce(&mut Kernel) + Send + 'static) -> Result<()> {
    let (ours, socket) = pair();
    let kernel = thread::spawn(move || kernel(&mut Kernel { socket, unique: 0 }));
    let (ended, _) = serve(ours);
    kernel.join().unwrap();
    ended
}

/// Serves on `socket` to its end; returns how that was, and what the disk has done.
fn serve(socket: OwnedFd) -> (Result<()>, Statistics) {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(SIZE).unwrap();
    Executor::new().unwrap().run(async {
        let disk = OpenOptions::new(image.path()).open().await.unwrap();
        let file = RawFile::new(image.path(), Rc::clone(&disk)).unwrap();
        let session = Session::new(socket, Volume::new(file, Kind::Directory)).unwrap();
        let mut ended = session.negotiate().await;
        if ended.is_ok() {
            ended = session.run().await;
        }
        session.finish().await;
        disk.close().await.unwrap();
        (ended, disk.statistics())
    })
}

fn read_in(offset: u64, len: u32) -> ReadIn {
    ReadIn {
        offset,
        len,
        ..ReadIn::default()
    }
}

fn write_in(offset: u64, data: &[u8]) -> Vec<u8> {
    let write = WriteIn {
        offset,
        len: u32::try_from(data.len()).unwrap(),
        ..WriteIn::default()
    };
    [write.as_bytes(), data].concat()
}

#[test]
fn the_file_is_found_written_and_read() {
    let ended = converse(|kernel| {
        kernel.begin();
        let name = [FILE_NAME.as_bytes(), b"\0"].concat();
        let entry = kernel.result(opcode::LOOKUP, ROOT, &name).unwrap();
        let entry = EntryOut::read_from_bytes(&entry).unwrap();
        assert_eq!((entry.node, entry.attr.size), (FILE, SIZE));
        let written = kernel.result(opcode::WRITE, FILE, &write_in(1001, b"hello"));
        let written = WriteOut::read_from_bytes(&written.unwrap()).unwrap();
        assert_eq!(written.len, 5);
        let read = kernel.result(opcode::READ, FILE, read_in(1000, 7).as_bytes());
        assert_eq!(read.unwrap(), b"\0hello\0");
        let read = kernel.result(opcode::READ, FILE, read_in(SIZE, 7).as_bytes());
        assert_eq!(read.unwrap(), b"");
        assert_eq!(kernel.result(opcode::FSYNC, FILE, &[0; 16]).unwrap(), b"");
    });
    // The socket ends, which no FUSE device does.
    assert!(ended.unwrap_err().to_string().contains("no request"));
}

#[test]
fn what_is_not_there_or_not_known_is_refused() {
    let _ = converse(|kernel| {
        kernel.begin();
        let read = read_in(0, 7);
        for (number, node, errno) in [
            (opcode::LOOKUP, ROOT, libc::ENOENT),
            (opcode::GETATTR, 77, libc::ENOENT),
            (opcode::READ, ROOT, libc::EISDIR),
            (opcode::READDIR, FILE, libc::ENOTDIR),
            (opcode::UNLINK, ROOT, libc::EPERM),
            (opcode::INIT, FILE, libc::ENOTDIR),
            (9999, FILE, libc::ENOSYS),
        ] {
            let refused = kernel.result(number, node, read.as_bytes());
            assert_eq!(refused, Err(Errno(errno)), "{number}");
        }
        let refused = kernel.result(opcode::READ, FILE, &read.as_bytes()[..20]);
        assert_eq!(refused, Err(Errno(libc::EINVAL)));
        let refused = kernel.result(opcode::READ, FILE, read_in(0, u32::MAX).as_bytes());
        assert_eq!(refused, Err(Errno(libc::EINVAL)));
        // Nobody hears of what is forgotten.
        kernel.ask(opcode::FORGET, FILE, &[0; 8]);
        let asked = kernel.ask(opcode::GETATTR, FILE, &[0; 16]);
        assert_eq!(kernel.hear().0, asked);
    });
}

#[test]
fn more_requests_than_there_is_room_for_take_turns() {
    let _ = converse(|kernel| {
        kernel.begin();
        let data = vec![7; 20_000];
        for round in 1..=5 {
            // More than are in flight at a time, and no more than a socket has room for.
            let mut asked: Vec<_> = (0..100)
                .map(|n| {
                    let write = write_in(n, &data[..=round * 3000]);
                    kernel.ask(opcode::WRITE, FILE, &write)
                })
                .collect();
            let mut answered: Vec<_> = asked
                .iter()
                .map(|_| {
                    let (unique, error, _) = kernel.hear();
                    assert_eq!(error, 0);
                    unique
                })
                .collect();
            asked.sort_unstable();
            answered.sort_unstable();
            assert_eq!(asked, answered);
        }
    });
}

/// The kernel asks for no `fsync` behind a write to a file that is synchronous and has no page
/// cache.
#[test]
fn a_change_that_must_be_durable_is_flushed_before_it_is_answered() {
    let flushes = |open_flags: i32, write_flags: i32| {
        let (ours, socket) = pair();
        let mut kernel = Kernel { socket, unique: 0 };
        let kernel = thread::spawn(move || {
            kernel.begin();
            let open = OpenIn {
                flags: (libc::O_RDWR | open_flags).cast_unsigned(),
                open_flags: 0,
            };
            let opened = kernel.result(opcode::OPEN, FILE, open.as_bytes()).unwrap();
            let OpenOut { handle, .. } = OpenOut::read_from_bytes(&opened).unwrap();
            let write = WriteIn {
                handle,
                len: 5,
                flags: (libc::O_RDWR | open_flags | write_flags).cast_unsigned(),
                ..WriteIn::default()
            };
            let write = [write.as_bytes(), b"hello"].concat();
            kernel.result(opcode::WRITE, FILE, &write).unwrap();
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let punch = FallocateIn {
                handle,
                len: 4096,
                mode: punch.cast_unsigned(),
                ..FallocateIn::default()
            };
            let punched = kernel.result(opcode::FALLOCATE, FILE, punch.as_bytes());
            punched.unwrap();
        });
        let (_, counts) = serve(ours);
        kernel.join().unwrap();
        counts.flushes
    };
    assert_eq!(flushes(0, 0), 0);
    assert_eq!(flushes(0, libc::O_DSYNC), 1);
    assert_eq!(flushes(libc::O_DSYNC, 0), 2);
    assert_eq!(flushes(libc::O_SYNC, 0), 2);
}

/// Linux 6.18 lets only one `fsync` of a file through at a time (`fuse_fsync` holds the inode's
/// lock), so that no program can show this.
#[test]
fn syncs_that_come_together_share_one() {
    const SYNCS: u64 = 16;
    let (ours, socket) = pair();
    let mut kernel = Kernel { socket, unique: 0 };
    // All is said before anybody listens.
    kernel.ask(opcode::INIT, 0, OFFER.as_bytes());
    for n in 0..SYNCS {
        kernel.ask(opcode::WRITE, FILE, &write_in(n * 4096, &[1; 4096]));
        kernel.ask(opcode::FSYNC, FILE, &[0; 16]);
    }
    rustix::net::shutdown(&kernel.socket, Shutdown::Write).unwrap();
    let (_, counts) = serve(ours);
    assert_eq!(counts.flushes, SYNCS, "{counts:?}");
    assert!((1..=3).contains(&counts.host_syncs), "{counts:?}");
}

#[test]
fn what_does_not_begin_as_fuse_does_is_an_error() {
    let ended = converse(|kernel| {
        kernel.ask(opcode::GETATTR, ROOT, &[0; 16]);
    });
    assert!(ended.unwrap_err().to_string().contains("does not begin"));
    let ended = converse(|kernel| {
        let old = InitIn {
            major: MAJOR,
            minor: 12,
            ..InitIn::default()
        };
        let refused = kernel.result(opcode::INIT, 0, old.as_bytes());
        assert_eq!(refused, Err(Errno(libc::EPROTO)));
    });
    assert!(ended.unwrap_err().to_string().contains("FUSE 7.12"));
    let ended = converse(|kernel| {
        kernel.begin();
        kernel.say(b"nonsense");
    });
    assert!(ended.unwrap_err().to_string().contains("8 bytes"));
}
