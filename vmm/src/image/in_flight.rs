//! Many pieces of work at once.

use std::future::{Future, pending};
use std::pin::pin;

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

use super::interrupt::Interrupt;

/// Does `work` with each piece that `next` gives, `depth` of them at a time, in any order. Ends
/// with the first error, or when somebody wants the program to end.
pub(super) async fn for_each<P, F>(
    depth: usize,
    interrupt: &Interrupt,
    mut next: impl AsyncFnMut() -> Result<Option<P>>,
    work: impl Fn(P) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut running = FuturesUnordered::new();
    let mut ended = false;
    while !ended {
        let mut coming = pin!(next());
        let piece = loop {
            // What is running goes on while the next piece is looked for.
            match select(coming.as_mut(), pin!(finished(&mut running))).await {
                Either::Left((piece, _)) => break piece?,
                Either::Right((done, _)) => done?,
            }
        };
        interrupt.check()?;
        match piece {
            Some(piece) => running.push(work(piece)),
            None => ended = true,
        }
        while running.len() >= depth
            && let Some(done) = running.next().await
        {
            done?;
        }
    }
    while let Some(done) = running.next().await {
        done?;
        interrupt.check()?;
    }
    Ok(())
}

/// Waits for the next of `running` to be done, for ever if there is none.
async fn finished<F: Future>(running: &mut FuturesUnordered<F>) -> F::Output {
    match running.next().await {
        Some(done) => done,
        None => pending().await,
    }
}
