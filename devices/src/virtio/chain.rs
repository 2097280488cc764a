//! A descriptor chain, checked: where in guest memory a request's bytes lie.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// More descriptors than this in one chain are refused. A driver may not use more than the queue
/// has (virtio 1.2 section 2.7.5.3.1), and no device here has larger queues.
pub(crate) const DESCRIPTORS_MAX: usize = 1024;

/// What a driver can do to a queue that leaves no way to answer it. The device then needs a reset
/// (virtio 1.2 section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// The chain has no end: it loops, leaves its table, or its table cannot be read.
    #[error("a descriptor chain without an end")]
    Unending,
    /// The chain has more descriptors than any queue.
    #[error("a descriptor chain of more than {DESCRIPTORS_MAX} descriptors")]
    TooLong,
    /// A descriptor points outside guest memory.
    #[error("a descriptor that points outside memory")]
    OutsideMemory,
    /// A descriptor for reading follows one for writing.
    #[error("a readable descriptor after a writable one")]
    WrongOrder,
    /// There is no room for an answer.
    #[error("a request without room for its answer")]
    NoAnswer,
    /// More requests are in flight than the queue has descriptors, or its index jumped.
    #[error("more requests than the queue holds")]
    Overcommitted,
    /// The rings do not lie in memory.
    #[error("rings that cannot be accessed")]
    Rings,
}

/// A run of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) address: GuestAddress,
    pub(crate) len_bytes: usize,
}

/// Bytes in guest memory, in order; no piece is empty, and all lie in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    list: Vec<Piece>,
    len_bytes: u64,
}

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// The descriptor that names the chain in the used ring.
    pub(crate) head: u16,
    /// What the device reads.
    pub(crate) readable: Pieces,
    /// What the device writes.
    pub(crate) writable: Pieces,
}

impl Chain {
    /// Walks the descriptors of `chain`, which ends by itself on a table that does not.
    pub(crate) fn read(
        mut chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> Result<Self, Violation> {
        let mut read = Self {
            head: chain.head_index(),
            readable: Pieces::default(),
            writable: Pieces::default(),
        };
        let mut descriptors = 0;
        let mut ended = false;
        for descriptor in chain.by_ref() {
            descriptors += 1;
            if descriptors > DESCRIPTORS_MAX {
                return Err(Violation::TooLong);
            }
            ended = !descriptor.has_next();
            let len_bytes = usize::try_from(descriptor.len()).unwrap_or(usize::MAX);
            if len_bytes == 0 {
                continue;
            }
            let piece = Piece {
                address: descriptor.addr(),
                len_bytes,
            };
            if !GuestMemoryBackend::check_range(memory, piece.address, len_bytes) {
                return Err(Violation::OutsideMemory);
            }
            if descriptor.is_write_only() {
                read.writable.push(piece);
            } else if read.writable.is_empty() {
                read.readable.push(piece);
            } else {
                return Err(Violation::WrongOrder);
            }
        }
        // An iterator that met something broken stops after a descriptor that has a next one, or
        // before the first.
        if ended {
            Ok(read)
        } else {
            Err(Violation::Unending)
        }
    }
}

impl Pieces {
    fn push(&mut self, piece: Piece) {
        self.len_bytes += piece.len_bytes as u64;
        self.list.push(piece);
    }

    /// Bytes in all.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Piece> + '_ {
        self.list.iter().copied()
    }

    /// Takes as many bytes as `target` has off the front, or says that there are too few.
    /// A driver may cut its structures into pieces as it likes (virtio 1.2 section 2.7.4.1).
    pub(crate) fn take_front(
        &mut self,
        memory: &GuestMemoryMmap,
        target: &mut [u8],
    ) -> Result<(), TooShort> {
        if self.len_bytes < target.len() as u64 {
            return Err(TooShort);
        }
        self.len_bytes -= target.len() as u64;
        let mut rest = target;
        let mut emptied = 0;
        for piece in &mut self.list {
            if rest.is_empty() {
                break;
            }
            let taken = piece.len_bytes.min(rest.len());
            let (part, later) = rest.split_at_mut(taken);
            memory
                .read_slice(part, piece.address)
                .map_err(|_| TooShort)?;
            rest = later;
            // Within the piece, which lies in memory, so it cannot overflow.
            piece.address.0 += taken as u64;
            piece.len_bytes -= taken;
            emptied += usize::from(piece.len_bytes == 0);
        }
        self.list.drain(..emptied);
        Ok(())
    }

    /// Takes the last byte off, and says where it is.
    pub(crate) fn take_last(&mut self) -> Option<GuestAddress> {
        let last = self.list.last_mut()?;
        last.len_bytes -= 1;
        self.len_bytes -= 1;
        let address = GuestAddress(last.address.0 + last.len_bytes as u64);
        if last.len_bytes == 0 {
            self.list.pop();
        }
        Some(address)
    }

    /// Writes as much of `source` as fits, from the front, and says how much.
    pub(crate) fn fill(&self, memory: &GuestMemoryMmap, source: &[u8]) -> usize {
        let mut rest = source;
        for piece in &self.list {
            let (part, later) = rest.split_at(piece.len_bytes.min(rest.len()));
            if part.is_empty() || memory.write_slice(part, piece.address).is_err() {
                break;
            }
            rest = later;
        }
        source.len() - rest.len()
    }
}

/// There are fewer bytes than a structure has.
#[derive(Debug)]
pub(crate) struct TooShort;
