//! What several tests need.

pub(crate) mod content;
pub(crate) mod history;
pub(crate) mod power_cuts;
mod seeded;
mod skip;
mod witness;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use crate::rng::Rng;
use crate::{Backend, Buffers, Executor};
pub(crate) use seeded::{program_steps, seeded};
pub(crate) use skip::skip;
pub(crate) use witness::Witness;

/// The backends that do real I/O on this host.
pub(crate) fn real_backends() -> Vec<Backend> {
    match Executor::with_backend(Backend::IoUring) {
        Ok(_) => vec![Backend::IoUring, Backend::Threads],
        Err(error) => {
            println!("without io_uring: {error}");
            vec![Backend::Threads]
        }
    }
}

/// Polls all of them until all are done.
pub(crate) async fn join_all<F: Future<Output = ()>>(futures: impl IntoIterator<Item = F>) {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Buffers in several segments of odd lengths at odd addresses.
pub(crate) fn scattered(bytes: &[u8], rng: &mut Rng) -> Buffers {
    const GAP: usize = 24;
    let mut cuts: Vec<usize> = (0..rng.index(4))
        .map(|_| rng.index(bytes.len() + 1))
        .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let memory = Buffers::zeroed(bytes.len() + GAP * cuts.len());
    let pieces: Vec<Buffers> = cuts
        .windows(2)
        .enumerate()
        .map(|(n, cut)| {
            let gap = GAP * n + rng.index(GAP);
            let piece = memory.slice(cut[0] + gap..cut[1] + gap);
            piece.copy_from(&bytes[cut[0]..cut[1]]);
            piece
        })
        .collect();
    let segments: Vec<_> = pieces.iter().flat_map(Buffers::segments).collect();
    // SAFETY: the segments lie in `memory`, which is the owner.
    unsafe { Buffers::from_raw(segments, std::sync::Arc::new(memory)) }
}
