//! How far a long command has got, on standard error.

use std::cell::{Cell, OnceCell};
use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::ProgressArguments;
use crate::notice::notice;

/// What is done within this needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows a part of a number of bytes: as a bar on a terminal, as lines elsewhere.
pub(super) struct Progress {
    total_bytes: u64,
    done_bytes: Cell<u64>,
    start: Instant,
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(OnceCell<ProgressBar>),
    /// The last percentage that was printed.
    Lines(Cell<u64>),
}

impl Progress {
    pub(super) fn new(arguments: ProgressArguments, total_bytes: u64) -> Self {
        let shown = match () {
            () if arguments.quiet => Shown::Nothing,
            () if stderr().is_terminal() => Shown::Bar(OnceCell::new()),
            () if arguments.progress => Shown::Lines(Cell::new(0)),
            () => Shown::Nothing,
        };
        Self {
            total_bytes,
            done_bytes: Cell::new(0),
            start: Instant::now(),
            shown,
        }
    }

    /// Begins again with nothing done.
    pub(super) fn restart(&self) {
        self.done_bytes.set(0);
        if let Shown::Lines(last) = &self.shown {
            last.set(0);
        }
    }

    /// Another `bytes` are done.
    pub(super) fn add(&self, bytes: u64) {
        let done = self.done_bytes.get() + bytes;
        self.done_bytes.set(done);
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                if bar.get().is_some() || self.start.elapsed() > PATIENCE {
                    bar.get_or_init(|| new_bar(self.total_bytes))
                        .set_position(done);
                }
            }
            Shown::Lines(last) => {
                let percent = percent(done, self.total_bytes);
                if percent >= last.get() + 10 {
                    last.set(percent);
                    notice(&format!("{percent}%\n"));
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown
            && let Some(bar) = bar.get()
        {
            bar.finish_and_clear();
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    u64::try_from(u128::from(done) * 100 / u128::from(total.max(1))).unwrap_or(100)
}

fn new_bar(total_bytes: u64) -> ProgressBar {
    const TEMPLATE: &str =
        "{bar:40} {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style)
}
