//! The life of a mounted file system, up to its end: somebody unmounts it, or a signal asks for
//! that.
//!
//! ```text
//!   served ──unmounted from outside──────────────────────────────────────────> ended
//!     │                                                                          ^
//!     └──signal──> unmounting ──nobody used it─────────────────────────────────> │
//!                      ├──busy──> detached: served to those who use it ──last──> │
//!                      │             └──second signal──> closed under them ────> │
//!                      └──under another mount──> left there, closed ───────────> ┘
//! ```

use std::future::{Future, pending};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use futures_util::future::{Either, select};

use super::mount::{Mount, Unmounted};
use super::session::Session;
use crate::notice::notice;
use crate::signals::SignalPipe;

/// What happens next.
enum Event {
    /// The file system is gone.
    Ended(Result<()>),
    /// The unmounting that we began is over.
    Unmounted(io::Result<Unmounted>),
    /// Somebody wants the program to end.
    Signal,
}

type Unmounting = Pin<Box<dyn Future<Output = io::Result<Unmounted>>>>;

/// Serves a file system to its end. All requests that were received are done then.
pub(crate) async fn serve(
    session: &Rc<Session>,
    mount: &Arc<Mount>,
    signals: &mut SignalPipe,
) -> Result<()> {
    let ended = serve_to_the_end(session, mount, signals).await;
    session.finish().await;
    ended
}

async fn serve_to_the_end(
    session: &Rc<Session>,
    mount: &Arc<Mount>,
    signals: &mut SignalPipe,
) -> Result<()> {
    let shown = mount.path().display();
    let mut running = pin!(session.run());
    let mut unmounting: Unmounting = Box::pin(pending());
    let mut asked_to_end = false;
    loop {
        match next(running.as_mut(), &mut unmounting, signals).await {
            Event::Ended(ended) => return ended,
            Event::Signal if asked_to_end => return Ok(()),
            Event::Signal => {
                asked_to_end = true;
                unmounting = Box::pin(unmount(Arc::clone(mount)));
            }
            Event::Unmounted(unmounted) => {
                unmounting = Box::pin(pending());
                match unmounted.with_context(|| format!("{shown}: cannot unmount")) {
                    Ok(Unmounted::Whole) => {}
                    Ok(Unmounted::Detached) => notice(&format!(
                        "microvm: {shown}: unmounted, but still in use; the image is closed \
                         with the last use, or at a second signal\n"
                    )),
                    Ok(Unmounted::Covered) => {
                        notice(&format!(
                            "microvm: {shown}: something else is mounted over it, and stays; \
                             the image is closed, and what is left beneath has to be unmounted \
                             after that\n"
                        ));
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

async fn next(
    running: Pin<&mut impl Future<Output = Result<()>>>,
    unmounting: &mut Unmounting,
    signals: &mut SignalPipe,
) -> Event {
    let events = select(running, unmounting);
    match select(events, pin!(signals.next())).await {
        Either::Left((Either::Left((ended, _)), _)) => Event::Ended(ended),
        Either::Left((Either::Right((unmounted, _)), _)) => Event::Unmounted(unmounted),
        Either::Right(_) => Event::Signal,
    }
}

/// Unmounts on a thread of its own: the kernel asks us for things before it is done with it.
async fn unmount(mount: Arc<Mount>) -> io::Result<Unmounted> {
    let (end, held) = io::pipe()?;
    let thread = thread::spawn(move || {
        let unmounted = mount.unmount();
        drop(held);
        unmounted
    });
    disk::readable(Arc::new(OwnedFd::from(end))).await?;
    let unmounted = thread.join();
    unmounted.unwrap_or_else(|_| Err(io::Error::other("the thread that does it panicked")))
}
