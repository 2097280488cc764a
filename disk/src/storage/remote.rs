//! Storage that is far away, and is only read: what a server lends.
//!
//! ```text
//!   format ──> RemoteStorage ──Patience──> Source: nbd │ object
//!                                 └ Ticker: limits of time
//! ```
//! A read that fails is tried again until its deadline; after that it is an error, and the next one
//! tries again. So a guest waits while a server is away, and never reads anything wrong.

mod address;
mod nbd;
mod object;
mod patience;
mod source;
mod ticker;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Geometry, Storage, StorageExtent};
use crate::{Buffers, Error};
pub(crate) use address::Address;
pub use address::is_remote;
use nbd::Nbd;
use object::Object;
use patience::Patience;
use source::{Failure, Source};
use ticker::Ticker;

/// How long a read waits for its server, unless somebody says otherwise.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// A server that is silent for so long, while somebody waits, is away.
const SILENCE: Duration = Duration::from_secs(10);
/// What is larger is no disk, and sums with it would overflow.
const SIZE_BYTES_MAX: u64 = 1 << 62;
/// How exactly limits of time are kept.
const TICKS_PER_LIMIT: u32 = 8;

/// Bytes that a server lends.
pub struct RemoteStorage {
    path: PathBuf,
    size_bytes: u64,
    version: Option<String>,
    source: Box<dyn Source>,
    patience: Patience,
}

impl RemoteStorage {
    /// Opens what is at `address`, which is called `path` in messages. A server that does not answer
    /// now is an error at once; later, it is waited for until the `deadline`.
    pub(crate) async fn open(
        path: &Path,
        address: Address,
        deadline: Duration,
    ) -> Result<Self, Error> {
        let silence = SILENCE.min(deadline);
        let ticker = Ticker::new(silence / TICKS_PER_LIMIT);
        let failed = |problem| Error::io(path, "open")(io::Error::other(problem));
        let (size_bytes, version, source): (_, _, Box<dyn Source>) = match address {
            Address::Nbd(address) => {
                let nbd = Nbd::open(address, ticker.clone(), silence).await;
                let nbd = nbd.map_err(failed)?;
                (nbd.size_bytes(), None, Box::new(nbd))
            }
            Address::Object(address) => {
                let object = Object::open(address, silence).await.map_err(failed)?;
                (object.size_bytes(), object.version(), Box::new(object))
            }
        };
        if size_bytes > SIZE_BYTES_MAX {
            return Err(failed(format!(
                "its server says that it has {size_bytes} bytes"
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            size_bytes,
            version,
            source,
            patience: Patience::new(deadline, ticker),
        })
    }

    /// What the server calls what it lends, if it has a name for each version of it.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn error(&self, operation: &'static str, offset: u64, len: u64, failure: Failure) -> Error {
        let path = self.path.clone();
        match failure {
            Failure::Changed(problem) => Error::Changed { path, problem },
            Failure::Passing(why) => Error::Range {
                path,
                operation,
                offset,
                len,
                source: io::Error::new(io::ErrorKind::TimedOut, why),
            },
        }
    }

    fn read_only<T>(&self, operation: &'static str) -> Result<T, Error> {
        Err(Error::ReadOnly {
            path: self.path.clone(),
            operation,
        })
    }
}

impl Storage for RemoteStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            read_only: true,
            block_size_bytes: 512,
            physical_block_size_bytes: 4096,
            optimal_io_size_bytes: 0,
            discard_granularity_bytes: 4096,
        }
    }

    fn nonce(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the host has random numbers");
        bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.size_bytes) {
            let source = io::ErrorKind::UnexpectedEof.into();
            let path = self.path.clone();
            return Err(Error::Range {
                path,
                operation: "read",
                offset,
                len,
                source,
            });
        }
        let read = async || self.source.read(offset, buffers.clone()).await;
        let done = self.patience.persist(read).await;
        done.map_err(|failure| self.error("read", offset, len, failure))
    }

    async fn write_at(&self, _: u64, _: Buffers) -> Result<(), Error> {
        self.read_only("write")
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn has_barrier(&self) -> bool {
        false
    }

    async fn barrier(&self) -> Result<(), Error> {
        self.read_only("keep the order of writes")
    }

    fn has_zero_ahead(&self) -> bool {
        false
    }

    async fn zero_ahead(&self, _: u64, _: u64) -> Result<(), Error> {
        self.read_only("write zeros")
    }

    fn spare_bytes(&self) -> u64 {
        0
    }

    async fn discard(&self, _: u64, _: u64) -> Result<bool, Error> {
        self.read_only("discard")
    }

    async fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        self.read_only("write zeros")
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        let left = self.size_bytes.saturating_sub(offset);
        if left == 0 {
            return Ok(StorageExtent { len, data: false });
        }
        let len = len.min(left);
        let find = async || self.source.extent(offset, len).await;
        let found = self.patience.persist(find).await;
        found.map_err(|failure| self.error("find the holes of", offset, len, failure))
    }

    fn can_resize(&self) -> bool {
        false
    }

    /// What has another size is something else.
    fn refresh_size(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn set_len(&self, _: u64) -> Result<(), Error> {
        self.read_only("resize")
    }

    fn give_up(&self) {
        self.patience.give_up();
    }

    fn close(&self) {
        self.source.close();
    }
}
