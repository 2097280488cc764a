//! `microvm run`: from the command line to the program's exit status.

use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::Result;
use disk::Executor;
use kvm_ioctls::Kvm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::RunArguments;
use crate::console::Console;
use crate::control::{self, Disks};
use crate::insight::Board;
use crate::kvm;
use crate::machine::{Config, Ending, Machine, Session};
use crate::memory::GuestRam;
use crate::notice::notice;
use crate::signals::Signals;
use crate::statistics::{Statistics, StatisticsFile};
use crate::vcpu;

/// How often the end looks whether the console's reader has taken everything.
const DRAIN_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Boots a guest and serves it until it ends; returns the exit status.
pub(crate) fn run(arguments: &RunArguments) -> Result<u8> {
    let kvm = kvm::open()?;
    let config = Config::new(arguments, &kvm)?;
    let ram = GuestRam::new(config.mem_bytes)?;
    let mut signals = Signals::install()?;
    vcpu::install_handler()?;

    let stats = match arguments.stats.as_deref() {
        Some(path) => {
            let opening = StatisticsFile::open(path, config.disks.iter());
            Some(Executor::new()?.run(opening)?)
        }
        None => None,
    };
    let disks = Arc::new(Disks::new(
        config.disks.clone(),
        arguments.control.is_some(),
    ));
    let dedups = config.disks.iter().any(|disk| disk.dedup_bytes.is_some());
    let hooks = Arc::new(Board::new(arguments.insight.clone(), dedups)?);
    let control = arguments.control.as_deref();
    let _control = control
        .map(|path| control::Server::start(path, Arc::clone(&disks), Arc::clone(&hooks)))
        .transpose()?;
    let mut console = Console::open(&arguments.console)?;
    let mut statistics = Statistics::default();
    let lasting = Lasting {
        kvm: &kvm,
        ram: &ram,
        config: &config,
        disks: &disks,
        hooks: &hooks,
    };
    let ending = loop {
        let ending = boot(&lasting, console.as_mut(), &mut signals, &mut statistics);
        if !matches!(ending, Ok(Ending::Reset)) || arguments.no_reboot {
            break ending;
        }
        ram.clear()?;
    };
    if let Some(console) = console {
        let patient = !matches!(ending, Ok(Ending::Terminated));
        finish_output(&console, &signals, patient);
    }
    // How the run ended comes first, and is said even if the statistics cannot be written.
    let ending = ending?;
    if let Some(message) = ending.message() {
        notice(&format!("microvm: {message}\n"));
    }
    if let Some(file) = stats {
        file.write(&statistics)?;
    }
    Ok(ending.status())
}

/// What all boots of a run share.
struct Lasting<'a> {
    kvm: &'a Kvm,
    ram: &'a GuestRam,
    config: &'a Config,
    disks: &'a Arc<Disks>,
    hooks: &'a Board,
}

/// One boot: builds a machine, runs it to its ending, and closes its disks whatever happened.
fn boot(
    lasting: &Lasting<'_>,
    mut console: Option<&mut Console>,
    signals: &mut Signals,
    statistics: &mut Statistics,
) -> Result<Ending> {
    let Lasting {
        kvm,
        ram,
        config,
        disks,
        hooks,
    } = *lasting;
    let mut machine = Machine::build(kvm, ram, config, disks, hooks, console.as_deref())?;
    if let Some(console) = console.as_deref_mut() {
        console.begin()?;
    }
    let session = Session::start(&mut machine, console.as_deref_mut(), signals)?;
    let run = session.run();
    let closed = machine.close(statistics);
    let (ending, exits) = run?;
    statistics.boots += 1;
    statistics.exits += exits;
    if let Some(counts) = hooks.take_counts() {
        *statistics.insight.get_or_insert_default() += counts;
    }
    closed?;
    let panic = console.and_then(|console| console.output().take_panic());
    Ok(ending.with_panic(panic))
}

/// Waits until the console's reader has everything, or a signal says not to. Without patience, a
/// reader who takes nothing for an interval is waited for no more.
fn finish_output(console: &Console, signals: &Signals, patient: bool) {
    while !console.output().is_drained() {
        let mut fds = [PollFd::from_borrowed_fd(signals.end.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&DRAIN_INTERVAL)).is_ok_and(|ready| ready > 0) || !patient {
            console.output().abandon();
        }
    }
}
