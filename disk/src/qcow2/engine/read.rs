//! Reading.

use futures_util::future::join_all;

use super::image::Image;
use super::mapping::{Run, Source};
use crate::journal::{Journaled as _, lay_over};
use crate::{Buffers, Error, Request, Storage};

impl<S: Storage> Image<S> {
    /// Reads at `offset` of the disk. The caller holds the clusters.
    pub(super) async fn read(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        let run = self.next_run(offset, len).await?;
        if run.len == len {
            return self.read_run(offset, run, buffers.clone()).await;
        }
        let mut reads = Vec::new();
        let (mut run, mut done) = (run, 0);
        loop {
            let part = slice(buffers, done, run.len);
            reads.push(self.read_run(offset + done, run, part));
            done += run.len;
            if done == len {
                break;
            }
            run = self.next_run(offset + done, len - done).await?;
        }
        join_all(reads).await.into_iter().collect()
    }

    async fn read_run(&self, offset: u64, run: Run, buffers: Buffers) -> Result<(), Error> {
        match run.source {
            Source::Host { offset: host, .. } => self.read_host(host, buffers).await,
            Source::Zero { .. } => {
                buffers.fill(0);
                Ok(())
            }
            Source::Backing => self.read_backing(offset, buffers).await,
            Source::Compressed { offset: at, len } => {
                let content = self.decompressed_cluster(at, len).await?;
                let start = usize::try_from(self.layout().in_cluster(offset)).expect("small");
                buffers.copy_from(&content[start..start + buffers.len()]);
                Ok(())
            }
        }
    }

    /// Reads guest data, from the file and from what is not there yet.
    pub(super) async fn read_host(&self, host: u64, buffers: Buffers) -> Result<(), Error> {
        let waiting = match self.journal() {
            Some(journal) => journal.shadows.copy(&(host..host + buffers.len() as u64)),
            None => Vec::new(),
        };
        self.read_file(host, buffers.clone()).await?;
        lay_over(waiting, host, &buffers);
        Ok(())
    }

    /// Reads guest data from the file; what is past its end was never written, and is zeros.
    async fn read_file(&self, host: u64, buffers: Buffers) -> Result<(), Error> {
        let storage = self.data_storage();
        let len = buffers.len() as u64;
        let within = storage.size_bytes().saturating_sub(host).min(len);
        if within == len {
            return storage.read_at(host, buffers).await;
        }
        slice(&buffers, within, len - within).fill(0);
        if within > 0 {
            storage.read_at(host, slice(&buffers, 0, within)).await?;
        }
        Ok(())
    }

    async fn read_backing(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let Some(backing) = &self.backing else {
            buffers.fill(0);
            return Ok(());
        };
        let len = buffers.len() as u64;
        let size_bytes = backing.properties().size_bytes;
        let within = size_bytes.saturating_sub(offset).min(len);
        slice(&buffers, within, len - within).fill(0);
        if within > 0 {
            let request = Request::read(offset, slice(&buffers, 0, within));
            backing.submit(request).await?;
        }
        Ok(())
    }

    /// Whether all of a range reads as zeros, as far as the tables say.
    pub(super) async fn reads_as_zeros(&self, offset: u64, len: u64) -> Result<bool, Error> {
        let mut done = 0;
        while done < len {
            let run = self.next_run(offset + done, len - done).await?;
            let at = offset + done;
            let is_zero = match (&self.backing, run.source) {
                (_, Source::Zero { .. }) | (None, Source::Backing) => true,
                (Some(backing), Source::Backing) => backing.properties().size_bytes <= at,
                (_, Source::Host { .. } | Source::Compressed { .. }) => false,
            };
            if !is_zero {
                return Ok(false);
            }
            done += run.len;
        }
        Ok(true)
    }
}

/// A part of a request's memory.
pub(super) fn slice(buffers: &Buffers, start: u64, len: u64) -> Buffers {
    let index = |n: u64| usize::try_from(n).expect("within the memory");
    buffers.slice(index(start)..index(start + len))
}
