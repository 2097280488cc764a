//! The file system: the raw file, alone or in a directory.

use disk::Buffers;
use zerocopy::{Immutable, IntoBytes};

use super::abi::{
    Attr, AttrOut, EntryOut, LseekOut, OpenOut, ROOT, SetattrIn, WriteOut, open_flag,
};
use super::directory::{self, FILE, FILE_NAME};
use super::errno::Errno;
use super::file::RawFile;
use super::mount_point::Kind;
use super::request::{Operation, is_durable};

/// For how long the kernel may tell what it knows without asking. The allocated space changes
/// with what is written.
const ATTRIBUTES_VALID_S: u64 = 1;
/// Names never change.
const NAME_VALID_S: u64 = 86_400;
/// The handle of a file that was opened with `O_DSYNC` or `O_SYNC`. With an allocation comes
/// nothing else of how the file was opened.
const DURABLE: u64 = 1;

/// What is mounted.
pub(crate) struct Volume {
    file: RawFile,
    root: Kind,
}

/// What comes of a request.
pub(super) enum Reply {
    /// Nothing is said.
    None,
    /// It is done, and these bytes say more.
    Bytes(Vec<u8>),
    /// The data of a read, behind room for the start of the reply.
    Data(Buffers),
}

impl Reply {
    fn of(value: &(impl IntoBytes + Immutable)) -> Self {
        Self::Bytes(value.as_bytes().to_vec())
    }

    fn done() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Volume {
    /// A file system whose root is the file itself, or a directory that holds it: what the mount
    /// point is.
    pub(crate) fn new(file: RawFile, root: Kind) -> Self {
        Self { file, root }
    }

    /// Does what is asked of `node`.
    pub(super) async fn answer(&self, node: u64, operation: Operation) -> Result<Reply, Errno> {
        if matches!(operation, Operation::Forget) {
            return Ok(Reply::None);
        }
        match (self.kind(node)?, operation) {
            (_, Operation::Release) => Ok(Reply::done()),
            (_, Operation::StatFileSystem) => Ok(Reply::of(&self.file.stat_file_system())),
            (_, Operation::GetAttributes) => Ok(self.attributes(node)),
            (kind, Operation::SetAttributes(wanted)) => self.set_attributes(node, kind, &wanted),
            (Kind::Directory, Operation::Lookup(name)) => self.lookup(&name),
            (Kind::Directory, Operation::ReadDirectory(wanted)) => {
                Ok(Reply::Bytes(directory::list(wanted.offset, wanted.len)))
            }
            (Kind::Directory, _) => Err(Errno(libc::EISDIR)),
            (Kind::File, operation) => self.answer_of_file(operation).await,
        }
    }

    async fn answer_of_file(&self, operation: Operation) -> Result<Reply, Errno> {
        match operation {
            Operation::Open(wanted) => self.open(wanted.flags),
            Operation::Read(wanted) => {
                let data = self.file.read(wanted.offset, wanted.len).await?;
                Ok(data.map_or_else(Reply::done, Reply::Data))
            }
            Operation::Write {
                offset,
                data,
                durable,
            } => {
                let len = self.file.write(offset, data).await?;
                self.sync_if(durable).await?;
                Ok(Reply::of(&WriteOut { len, padding: 0 }))
            }
            Operation::Sync => self.file.sync().await.map(|()| Reply::done()),
            Operation::Allocate(wanted) => {
                self.file.allocate(&wanted).await?;
                self.sync_if(wanted.handle == DURABLE).await?;
                Ok(Reply::done())
            }
            Operation::Seek(wanted) => {
                let offset = self.file.seek(wanted.offset, wanted.whence).await?;
                Ok(Reply::of(&LseekOut { offset }))
            }
            _ => Err(Errno(libc::ENOTDIR)),
        }
    }

    async fn sync_if(&self, durable: bool) -> Result<(), Errno> {
        if durable {
            self.file.sync().await?;
        }
        Ok(())
    }

    fn kind(&self, node: u64) -> Result<Kind, Errno> {
        match (node, self.root) {
            // Requests about the whole file system come for node 0, too.
            (0 | ROOT, root) => Ok(root),
            (FILE, Kind::Directory) => Ok(Kind::File),
            _ => Err(Errno(libc::ENOENT)),
        }
    }

    fn attr(&self, node: u64) -> Attr {
        match self.root {
            Kind::Directory if node != FILE => self.file.attributes.directory(ROOT),
            _ => self.file.attributes.file(node),
        }
    }

    fn attributes(&self, node: u64) -> Reply {
        Reply::of(&AttrOut {
            valid_s: ATTRIBUTES_VALID_S,
            attr: self.attr(node),
            ..AttrOut::default()
        })
    }

    fn set_attributes(&self, node: u64, kind: Kind, wanted: &SetattrIn) -> Result<Reply, Errno> {
        if kind == Kind::Directory {
            return Err(Errno(libc::EPERM));
        }
        self.file.attributes.set(wanted)?;
        Ok(self.attributes(node))
    }

    fn lookup(&self, name: &[u8]) -> Result<Reply, Errno> {
        if name != FILE_NAME.as_bytes() {
            return Err(Errno(libc::ENOENT));
        }
        Ok(Reply::of(&EntryOut {
            node: FILE,
            entry_valid_s: NAME_VALID_S,
            attr_valid_s: ATTRIBUTES_VALID_S,
            attr: self.attr(FILE),
            ..EntryOut::default()
        }))
    }

    /// Without a page cache of its own: the image file has one, and a second would hold the same
    /// data again. Writes need no order among themselves.
    fn open(&self, flags: u32) -> Result<Reply, Errno> {
        self.file.check_open(flags)?;
        let handle = if is_durable(flags) { DURABLE } else { 0 };
        Ok(Reply::of(&OpenOut {
            handle,
            open_flags: open_flag::DIRECT_IO | open_flag::PARALLEL_DIRECT_WRITES,
            ..OpenOut::default()
        }))
    }
}
