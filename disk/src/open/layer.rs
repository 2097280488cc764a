//! One file of a chain.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use super::recognize::{format_of, looks_like};
use super::{Format, OpenOptions, name};
use crate::flat::{self, Flat, Grow};
use crate::journal::{Identity, RecoveryReport, unclosed};
use crate::qcow2::format::{BitmapEntry, FormatError, Header, SnapshotEntry};
use crate::qcow2::{self, DedupOptions, Parts, Qcow2, file, snapshot};
use crate::request::SECTOR_BYTES;
use crate::storage::Address;
use crate::{AnyStorage, Disk, Error, FileStorage, Raw, RemoteStorage, Storage, is_remote};

/// One file of a chain.
pub struct Layer {
    /// The file, as it was named or found; or a URL.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its header, if it is a qcow2 image.
    pub header: Option<Header>,
    /// Its header, if it is a flat image.
    pub flat: Option<flat::format::Header>,
    /// Its bytes.
    pub storage: AnyStorage,
}

impl Layer {
    /// Opens the file at `path`, below `above`, and reads its header. Also whether its format is
    /// a guess.
    pub(super) async fn open(
        path: PathBuf,
        format: Option<Format>,
        above: Option<&Self>,
        options: &OpenOptions,
    ) -> Result<(Self, bool), Error> {
        let storage = open_storage(&path, above.is_none(), options).await?;
        let guessed = match format {
            Some(_) => Format::Raw,
            None => guess(&storage, above, options.recognize).await?,
        };
        let format = format.unwrap_or(guessed);
        let mut layer = Self {
            path,
            format,
            header: None,
            flat: None,
            storage,
        };
        match format {
            Format::Raw => {}
            Format::Qcow2 => layer.header = Some(file::read_header(&layer.storage).await?),
            Format::Flat => layer.flat = Some(flat::read_header(&layer.storage).await?),
        }
        Ok((layer, guessed != Format::Raw))
    }

    /// Where its backing file is.
    pub fn backing_path(&self) -> Result<Option<PathBuf>, Error> {
        let qcow2 = self.header.as_ref();
        let name = match self.flat_base() {
            Some(base) => Some(base.name.as_str()),
            None => qcow2.and_then(|header| header.backing_file.as_deref()),
        };
        name.map(|name| self.resolve("backing file", name))
            .transpose()
    }

    /// Where its external data file is.
    pub fn data_path(&self) -> Result<Option<PathBuf>, Error> {
        let header = self.header.as_ref().filter(|header| header.has_data_file());
        let Some(header) = header else {
            return Ok(None);
        };
        if self.storage.is_remote() {
            let problem = "has a data file, which an image that is far away must not name";
            return Err(self.unsupported(problem.into()));
        }
        match &header.data_file {
            Some(name) if is_remote(Path::new(name)) => Err(self.unsupported(format!(
                "its data file '{name}' is far away, where nothing is written"
            ))),
            Some(name) => self.resolve("data file", name).map(Some),
            None => {
                Err(self.unsupported("does not name its data file; give data-file=PATH".into()))
            }
        }
    }

    /// The format of its backing file, if that is recorded.
    pub(super) fn backing_format(&self) -> Result<Option<Format>, Error> {
        let qcow2 = self.header.as_ref();
        let name = match self.flat_base() {
            Some(base) => Some(base.format.as_str()),
            None => qcow2.and_then(|header| header.backing_format.as_deref()),
        };
        name.map(str::parse).transpose().map_err(|_| {
            let name = name.unwrap_or_default();
            let known = Format::KNOWN;
            self.unsupported(format!(
                "its backing file has the format '{name}'; known: {known}"
            ))
        })
    }

    /// The size of its disk in bytes. That of a raw one may end within a sector.
    pub fn virtual_size_bytes(&self) -> u64 {
        match (&self.header, &self.flat) {
            (Some(header), _) => header.size_bytes,
            (_, Some(header)) => header.size_bytes,
            (None, None) => self.storage.size_bytes(),
        }
    }

    /// Whether it has a journal: it was not closed, or is in use by somebody who writes.
    pub fn is_unclosed(&self) -> bool {
        self.journal().is_some()
    }

    /// Where its journal is, and what tells it from others, if it has one.
    pub fn journal(&self) -> Option<(Range<u64>, Identity)> {
        match (&self.header, &self.flat) {
            (Some(header), _) => {
                let journal = header.journal.as_ref()?;
                Some((journal.region.clone(), journal.identity))
            }
            (_, Some(header)) => Some((header.journal.clone(), header.journal_identity?)),
            (None, None) => None,
        }
    }

    /// What its journal would have recovery do, if it has one.
    pub async fn inspect_journal(&self) -> Result<Option<RecoveryReport>, Error> {
        match (&self.header, &self.flat) {
            (Some(header), _) => qcow2::inspect(&self.storage, header).await,
            (_, Some(header)) => flat::inspect(&self.storage, header).await,
            (None, None) => Ok(None),
        }
    }

    /// Refuses a base that is not as large as it was when this was put on it, if that is known.
    pub fn check_base(&self, base: &Self) -> Result<(), Error> {
        match &self.flat {
            Some(header) => {
                let size_bytes = base.virtual_size_bytes().next_multiple_of(SECTOR_BYTES);
                flat::check_base_size(self.storage.path(), header, size_bytes)
            }
            None => Ok(()),
        }
    }

    /// What its server calls it in the version that it has, if it is far away and has such a name.
    pub fn version(&self) -> Option<&str> {
        match &self.storage {
            AnyStorage::File(_) => None,
            AnyStorage::Remote(storage) => storage.version(),
        }
    }

    /// Refuses a base that has another version than it had when this was put on it, if that is known.
    pub(super) fn check_version(&self, base: &Self) -> Result<(), Error> {
        let Some(name) = self.flat_base() else {
            return Ok(());
        };
        let (had, has) = (name.version.as_deref(), base.version());
        if had.is_none() || had == has {
            return Ok(());
        }
        let (had, has) = (had.unwrap_or_default(), has.unwrap_or("nothing"));
        Err(self.unsupported(format!(
            "its base '{}' has changed: its server says {has} of it, and said {had}; bring the old \
             one back, or take this one with image rebase -u",
            name.name
        )))
    }

    /// Refuses an image that was not closed: its tables are stale, and nothing recovers them here.
    pub fn refuse_unclosed(&self) -> Result<(), Error> {
        if self.is_unclosed() {
            return Err(unclosed(&self.storage));
        }
        Ok(())
    }

    /// Its internal snapshots, if it is a flat image.
    pub async fn flat_snapshots(&self) -> Result<Vec<flat::Snapshot>, Error> {
        match &self.flat {
            Some(header) => flat::snapshots(&self.storage, header).await,
            None => Ok(Vec::new()),
        }
    }

    /// Its internal snapshots, if it is a qcow2 image.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotEntry>, Error> {
        match &self.header {
            Some(header) => snapshot::list(&self.storage, header).await,
            None => Ok(Vec::new()),
        }
    }

    /// Its persistent bitmaps.
    pub async fn bitmaps(&self) -> Result<Vec<BitmapEntry>, Error> {
        let Some(bitmaps) = self.header.as_ref().and_then(|header| header.bitmaps) else {
            return Ok(Vec::new());
        };
        let end = bitmaps
            .directory_offset
            .checked_add(bitmaps.directory_bytes);
        if end.is_none_or(|end| end > self.storage.size_bytes()) {
            return Err(Error::Damaged {
                path: self.path.clone(),
                offset: bitmaps.directory_offset,
                problem: "the bitmap directory is not within the file".into(),
            });
        }
        let len = file::len(bitmaps.directory_bytes);
        let directory = file::read(&self.storage, bitmaps.directory_offset, len).await?;
        bitmaps
            .parse_directory(&directory)
            .map_err(FormatError::at(&self.path))
    }

    fn flat_base(&self) -> Option<&flat::format::BaseName> {
        self.flat.as_ref()?.base.as_ref()
    }

    /// Refuses to open what it names, if nobody gave its format.
    pub(super) fn refuse_if(&self, guessed: bool) -> Result<(), Error> {
        if guessed {
            return Err(Error::FormatNeeded {
                path: self.path.clone(),
                looks_like: match self.format {
                    Format::Flat => "a flat image that names another file",
                    _ => "a qcow2 image that names another file",
                },
            });
        }
        Ok(())
    }

    fn resolve(&self, what: &str, name: &str) -> Result<PathBuf, Error> {
        name::resolve(&self.path, name)
            .map_err(|problem| self.unsupported(format!("its {what} '{name}' {problem}")))
    }

    pub(super) fn unsupported(&self, problem: String) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            problem,
        }
    }

    /// A disk of this layer, or of one of its internal snapshots, on top of `backing`.
    pub(super) async fn into_disk(
        self,
        backing: Option<Rc<dyn Disk>>,
        snapshot: Option<String>,
        options: &OpenOptions,
    ) -> Result<Rc<dyn Disk>, Error> {
        let data_path = self.data_path()?;
        // Each kind of storage has an engine of its own, so that a file costs nothing more.
        match self.storage {
            AnyStorage::File(storage) => {
                let data_file = open_data_file(data_path, &storage, options)?;
                disk(
                    self.format,
                    (storage, data_file),
                    backing,
                    snapshot,
                    options,
                )
                .await
            }
            AnyStorage::Remote(storage) => {
                disk(self.format, (storage, None), backing, snapshot, options).await
            }
        }
    }

    /// A disk of this layer, or of one of its internal snapshots, on top of `base`.
    pub(super) async fn into_flat(
        self,
        base: Option<Rc<dyn Disk>>,
        snapshot: Option<String>,
        options: &OpenOptions,
    ) -> Result<Rc<Flat<FileStorage>>, Error> {
        flat(self.into_file()?, base, snapshot, options).await
    }

    /// A disk of this layer, or of one of its internal snapshots, on top of `backing`.
    pub(super) async fn into_qcow2(
        self,
        backing: Option<Rc<dyn Disk>>,
        data_path: Option<PathBuf>,
        snapshot: Option<String>,
        options: &OpenOptions,
    ) -> Result<Rc<Qcow2<FileStorage>>, Error> {
        let storage = self.into_file()?;
        let data_file = open_data_file(data_path, &storage, options)?;
        qcow2((storage, data_file), backing, snapshot, options).await
    }

    fn into_file(self) -> Result<FileStorage, Error> {
        match self.storage {
            AnyStorage::File(storage) => Ok(storage),
            AnyStorage::Remote(_) => Err(Error::Unsupported {
                path: self.path,
                problem: "is far away; this needs a file".into(),
            }),
        }
    }
}

/// Opens the bytes of a layer, `is_top` if it is the image itself.
async fn open_storage(
    path: &Path,
    is_top: bool,
    options: &OpenOptions,
) -> Result<AnyStorage, Error> {
    let read_only = options.is_read_only() || !is_top;
    if !is_remote(path) {
        let mut file = options.file(path.to_owned(), read_only);
        if let Some(name) = options.name.as_ref().filter(|_| is_top) {
            file = file.name(name);
        }
        return file.open().map(AnyStorage::File);
    }
    let unsupported = |problem| Error::Unsupported {
        path: path.to_owned(),
        problem,
    };
    if !read_only {
        return Err(unsupported(
            "is far away, and only read: give readonly, or make an image that stands on it \
             (image create -b)"
                .into(),
        ));
    }
    let address = Address::parse(&path.to_string_lossy()).map_err(unsupported)?;
    let storage = RemoteStorage::open(path, address, options.deadline).await?;
    Ok(AnyStorage::Remote(storage))
}

/// A disk of what is in `storage`, with its data file.
async fn disk<S: Storage>(
    format: Format,
    (storage, data_file): (S, Option<S>),
    backing: Option<Rc<dyn Disk>>,
    snapshot: Option<String>,
    options: &OpenOptions,
) -> Result<Rc<dyn Disk>, Error> {
    if format != Format::Qcow2 && options.dedup_bytes.is_some() && !storage.geometry().read_only {
        return Err(Error::Unsupported {
            path: storage.path().to_owned(),
            problem: format!("{format} has no place for shared data; dedup takes a qcow2 image"),
        });
    }
    match format {
        Format::Raw => Ok(Rc::new(Raw::with_order(storage, options.order)?)),
        Format::Flat => Ok(flat(storage, backing, snapshot, options).await?),
        Format::Qcow2 => Ok(qcow2((storage, data_file), backing, snapshot, options).await?),
    }
}

async fn flat<S: Storage>(
    storage: S,
    base: Option<Rc<dyn Disk>>,
    snapshot: Option<String>,
    options: &OpenOptions,
) -> Result<Rc<Flat<S>>, Error> {
    let parts = flat::Parts {
        base,
        snapshot,
        order: options.order,
        copying: options.copying.clone(),
        grow: options
            .grow
            .clone()
            .map(|grow| Rc::new(grow) as Rc<dyn Grow>),
        clock: Some(Instant::now),
    };
    Ok(Rc::new(Flat::open(storage, parts).await?))
}

async fn qcow2<S: Storage>(
    (storage, data_file): (S, Option<S>),
    backing: Option<Rc<dyn Disk>>,
    snapshot: Option<String>,
    options: &OpenOptions,
) -> Result<Rc<Qcow2<S>>, Error> {
    let parts = Parts {
        backing,
        data_file,
        snapshot,
        l2_cache_bytes: options.l2_cache_bytes,
        order: options.order,
        dedup: dedup(&storage, options)?,
        journal_bytes: None,
        clock: Some(Instant::now),
    };
    Ok(Rc::new(Qcow2::open(storage, parts).await?))
}

/// What finds data that is alike, in an image that is written.
fn dedup<S: Storage>(storage: &S, options: &OpenOptions) -> Result<Option<DedupOptions>, Error> {
    let Some(index_bytes) = options
        .dedup_bytes
        .filter(|_| !storage.geometry().read_only)
    else {
        return Ok(None);
    };
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| Error::Unsupported {
        path: storage.path().to_owned(),
        problem: format!("dedup needs random bytes from the host: {error}"),
    })?;
    Ok(Some(DedupOptions { index_bytes, key }))
}

/// Opens the external data file of the image in `storage`, if it has one.
fn open_data_file(
    path: Option<PathBuf>,
    storage: &FileStorage,
    options: &OpenOptions,
) -> Result<Option<FileStorage>, Error> {
    let read_only = storage.geometry().read_only;
    path.map(|path| options.file(path, read_only).open())
        .transpose()
}

/// The format of a file that nobody told.
async fn guess(
    storage: &AnyStorage,
    above: Option<&Layer>,
    recognize: bool,
) -> Result<Format, Error> {
    let Some(looks_like) = looks_like(storage).await? else {
        return Ok(Format::Raw);
    };
    // What a server lends it may change as it likes.
    let may_be_believed = above.is_none() && !storage.is_remote();
    if let Some(format) = format_of(looks_like).filter(|_| recognize && may_be_believed) {
        return Ok(format);
    }
    let path = storage.path();
    Err(match above {
        None => Error::FormatNeeded {
            path: path.to_owned(),
            looks_like,
        },
        Some(above) => {
            let path = path.display();
            above.unsupported(format!(
                "does not record the format of its backing file '{path}', which looks like \
                 {looks_like}; record it (image rebase -u -b FILE -F FORMAT)"
            ))
        }
    })
}
