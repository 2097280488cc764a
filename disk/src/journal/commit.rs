//! Making a record durable.

use super::{Journal, Journaled, Placed, RecordBuilder};
use crate::mutant::mutant;
use crate::{Error, Storage};

impl Journal {
    /// Writes a record, durably. Where it goes is `placed` once that is certain: if this fails, it
    /// is written again to the same place.
    pub(crate) async fn make_durable(
        &self,
        image: &impl Journaled,
        record: &RecordBuilder,
        placed: &mut Option<Placed>,
    ) -> Result<(), Error> {
        let placed = match placed {
            Some(placed) => placed,
            none => none.insert(self.find_room(image, record).await?),
        };
        self.write_durably(image, placed).await
    }

    /// Finds room for a record, and makes some if there is none.
    async fn find_room(
        &self,
        image: &impl Journaled,
        record: &RecordBuilder,
    ) -> Result<Placed, Error> {
        // What was begun has its number, and no other record may get that.
        if self.unfinished_mark.borrow().is_none() {
            if let Some(placed) = self.place(record, image.flusher(), false) {
                return Ok(placed);
            }
            self.count(|statistics| statistics.checkpoints_forced += 1);
        }
        self.empty(image).await?;
        let placed = self.place(record, image.flusher(), false);
        placed.ok_or_else(|| Error::Unsupported {
            path: image.storage().path().to_owned(),
            problem: "a transaction is larger than the journal".to_owned(),
        })
    }

    /// Brings everything home that it holds, and makes all but one block of it free.
    async fn empty(&self, image: &impl Journaled) -> Result<(), Error> {
        let unfinished = self.unfinished_mark.take();
        let mark = if let Some(mark) = unfinished {
            mark
        } else {
            self.checkpoint(image).await?;
            image.flusher().flush(image.storage()).await?;
            let record = RecordBuilder::new(image.file_end());
            let mark = self.place(&record, image.flusher(), true);
            mark.expect("there is always room for a mark")
        };
        if let Err(error) = self.write_durably(image, &mark).await {
            self.unfinished_mark.replace(Some(mark));
            return Err(error);
        }
        self.marked(&mark);
        Ok(())
    }

    async fn write_durably(&self, image: &impl Journaled, placed: &Placed) -> Result<(), Error> {
        let (storage, flusher) = (image.storage(), image.flusher());
        if mutant("a sync begins before the record is written") {
            flusher.changed();
            flusher.flush(storage).await?;
            return self.write(storage, placed).await;
        }
        self.write(storage, placed).await?;
        flusher.changed();
        flusher.flush(storage).await
    }
}
