//! Writing what durable records say to its places.

use std::ptr;

use futures_util::future::join_all;

use super::{Journal, Journaled};
use crate::{Buffers, Error, Storage};

impl Journal {
    /// Writes what durable records say to its places, with no sync: that of a later flush will do.
    /// If the host is full, what could be given back is first.
    pub(crate) async fn checkpoint(&self, image: &impl Journaled) -> Result<(), Error> {
        match self.write_home(image).await {
            Err(error) if error.is_no_space() && image.give_back_spare().await? => {
                self.write_home(image).await
            }
            written => written,
        }
    }

    async fn write_home(&self, image: &impl Journaled) -> Result<(), Error> {
        let (_turn, batch) = self.begin_checkpoint().await;
        if !image
            .journal()
            .is_some_and(|current| ptr::eq(&raw const *current, self))
        {
            return Ok(());
        }
        image.check_writable("checkpoint")?;
        let (metadata, data) = (batch.metadata(), batch.data());
        for (at, bytes) in &data {
            self.detour.note_written(&(*at..at + bytes.len() as u64));
        }
        let (metadata_bytes, data_bytes) = (sum(&metadata), sum(&data));
        let storage = image.storage();
        let writes = metadata.into_iter().chain(data);
        let writes = writes.map(|(at, bytes)| storage.write_at(at, Buffers::from_vec(bytes)));
        let results: Vec<_> = join_all(writes).await;
        image.flusher().changed();
        if let Err(error) = results.into_iter().collect::<Result<(), _>>() {
            self.checkpoint_failed(batch);
            return Err(error);
        }
        self.count(|statistics| statistics.checkpoint_bytes += metadata_bytes + data_bytes);
        let upto = self.checkpoint_written(&batch, image.flusher().mark());
        image.written_home(upto, metadata_bytes);
        Ok(())
    }

    /// Makes data free to be overwritten that the last transaction vouches for. If that is not
    /// enough, brings home what waits, so that it is free as well.
    pub(crate) async fn lift_guard(
        &self,
        image: &impl Journaled,
        thoroughly: bool,
    ) -> Result<(), Error> {
        image.commit_mark().await?;
        if thoroughly {
            self.checkpoint(image).await?;
            image.flusher().flush(image.storage()).await?;
            image.commit_mark().await?;
        }
        Ok(())
    }
}

fn sum(writes: &[(u64, Vec<u8>)]) -> u64 {
    writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}
