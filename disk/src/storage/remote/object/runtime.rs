//! The one runtime that talks HTTP: a thread that is started when the first object is opened, and
//! stays.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

/// Runs `work` there, as long as somebody waits here.
pub(super) async fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, String> {
    let task = handle()?.spawn(work);
    let _abort = AbortOnDrop(task.abort_handle());
    let done = task.await;
    done.map_err(|error| format!("the thread for HTTP has failed: {error}"))
}

fn handle() -> Result<&'static Handle, String> {
    static RUNTIME: OnceLock<Result<Handle, String>> = OnceLock::new();
    let start = || start().map_err(|error| format!("cannot start the thread for HTTP: {error}"));
    RUNTIME.get_or_init(start).as_ref().map_err(Clone::clone)
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("remote-http".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Ends what nobody waits for any more. What is done already is not touched.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
