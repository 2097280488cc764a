//! A mail server: Filebench's varmail.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::Done;
use super::random::Random;

/// As many as in `varmail.f`.
const THREADS: u64 = 16;
const MAILS: u64 = 1000;
/// What is appended at most at once, 16 KiB on average of a file.
const APPENDED_BYTES: u64 = 16 << 10;
/// How many mails each thread sees come and go.
const LIVES: u64 = 50;

/// A directory of mails.
pub(super) struct Mail {
    directory: PathBuf,
    /// The number of the next mail; those below may be gone.
    next: AtomicU64,
}

impl Mail {
    /// Puts mails there, as durable as any.
    pub(super) fn prepare(directory: &Path) -> Result<Self> {
        let mail = Self {
            directory: directory.to_owned(),
            next: AtomicU64::new(0),
        };
        let mut random = Random::new(MAILS);
        for _ in 0..MAILS {
            let mut file = File::create(mail.path(mail.next.fetch_add(1, Ordering::Relaxed)))?;
            file.write_all(&random.text(APPENDED_BYTES))?;
        }
        Ok(mail)
    }

    /// The loop of `varmail.f` in every thread: delete a mail; create one, append to it, `fsync`;
    /// open one, read it, append, `fsync`; open one and read it.
    pub(super) fn run(&self) -> Result<Done> {
        let start = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|n| scope.spawn(move || self.live(&mut Random::new(n))))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                let lived = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
                lived.map_err(anyhow::Error::from)
            })
        })?;
        Ok(Done {
            operations: super::count(THREADS * LIVES),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn live(&self, random: &mut Random) -> io::Result<()> {
        for _ in 0..LIVES {
            if let Some((number, _)) = self.find(random, OpenOptions::new().read(true))? {
                not_gone(fs::remove_file(self.path(number)))?;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            append(File::create(self.path(number))?, random)?;
            if let Some((_, mut file)) =
                self.find(random, OpenOptions::new().read(true).append(true))?
            {
                file.read_to_end(&mut Vec::new())?;
                append(file, random)?;
            }
            if let Some((_, mut file)) = self.find(random, OpenOptions::new().read(true))? {
                file.read_to_end(&mut Vec::new())?;
            }
        }
        Ok(())
    }

    /// Opens a mail that is there.
    fn find(&self, random: &mut Random, options: &OpenOptions) -> io::Result<Option<(u64, File)>> {
        let mut tried = BTreeSet::new();
        let end = self.next.load(Ordering::Relaxed);
        while tried.len() < 64 {
            let number = random.below(end);
            tried.insert(number);
            if let Some(file) = not_gone(options.open(self.path(number)))? {
                return Ok(Some((number, file)));
            }
        }
        Ok(None)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("mail-{number}"))
    }
}

fn append(mut file: File, random: &mut Random) -> io::Result<()> {
    let len = 1 + random.below(APPENDED_BYTES);
    file.write_all(&random.text(len))?;
    file.sync_all()
}

/// Another thread may have deleted a mail.
fn not_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
