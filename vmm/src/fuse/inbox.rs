//! Memory that requests are received into.

use disk::Buffers;

use super::TRANSFER_MAX_BYTES;
use super::abi::{InHeader, MESSAGE_MIN_BYTES, WriteIn};

/// What comes before the data of a write.
pub(super) const DATA_START: usize = size_of::<InHeader>() + size_of::<WriteIn>();
/// Where the data of a write lies in the memory: aligned, for a file without page cache.
const DATA_OFFSET: usize = 4096;
const MEMORY_BYTES: usize = DATA_OFFSET + TRANSFER_MAX_BYTES as usize;
/// The kernel gives nothing to a reader with less room than its largest request may need.
const _: () = assert!(MEMORY_BYTES - DATA_OFFSET + DATA_START >= MESSAGE_MIN_BYTES);

/// Holds on to memory that it has given out, as much as there were requests at a time. What no
/// request uses any more is used again.
#[derive(Default)]
pub(super) struct Inbox {
    kept: Vec<Buffers>,
}

impl Inbox {
    /// Memory for the largest request, of which nobody else holds a part.
    pub(super) fn memory(&mut self) -> Buffers {
        let message = DATA_OFFSET - DATA_START..MEMORY_BYTES;
        if let Some(free) = self.kept.iter().find(|memory| memory.is_unique()) {
            return free.slice(message);
        }
        let memory = Buffers::zeroed(MEMORY_BYTES);
        self.kept.push(memory.clone());
        memory.slice(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_no_request_holds_a_part_of_it() {
        let mut inbox = Inbox::default();
        let first = inbox.memory();
        let data = first.slice(DATA_START..first.len());
        drop(first);
        let second = inbox.memory();
        assert_eq!(inbox.kept.len(), 2);
        drop((data, second));
        drop((inbox.memory(), inbox.memory()));
        assert_eq!(inbox.kept.len(), 2);
    }

    #[test]
    fn data_is_aligned() {
        let message = Inbox::default().memory();
        let data = message.slice(DATA_START..message.len());
        assert_eq!(data.len(), TRANSFER_MAX_BYTES as usize);
        let address = data.segments().next().unwrap().iov_base.addr();
        assert!(address.is_multiple_of(4096));
    }
}
