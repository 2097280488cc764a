//! Many pieces of work at once.

use std::future::Future;

use anyhow::Result;
use futures_util::StreamExt as _;
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
    loop {
        while running.len() < depth
            && let Some(piece) = next().await?
        {
            running.push(work(piece));
        }
        interrupt.check()?;
        match running.next().await {
            Some(done) => done?,
            None => return Ok(()),
        }
    }
}
