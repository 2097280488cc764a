//! `cargo xtask bench boot`: what the start of a guest costs, beside other VMMs.
//!
//! Time is counted in emulated instructions, so that runs compare to a percent whatever else the
//! machine does. A switch between guest and host counts as one instruction there, so the exits
//! tell the rest. All VMMs run in the same emulated host, in turns.

mod contender;
mod table;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use images::initramfs::FIRST_LINE;
use tests::Parts;
use tests::agent::measure::Start;
use tests::agent::protocol::{Exit, Spec};
use tests::artifacts::{self, Profile};
use tests::lab::share::{PARTS_DIR, Share};
use tests::lab::{Clock, Config, Lab, make_disk, scratch};
use tests::process::Process;

use super::report::{Report, Section};
use contender::Contender;
use table::Row;

/// A guest's start takes two emulated seconds, each some of ours.
const PATIENCE: Duration = Duration::from_secs(20);
const NUDGES_MAX: u32 = 15;
const LAB: Config = Config {
    memory_mib: 4 << 10,
    cpus: 1,
    clock: Clock::Instructions,
};
/// Where programs may keep what speeds up their next start: the round that does not count fills it.
const CACHE_HOME: &str = "/tmp";
const LAB_DISK_BYTES: u64 = 1 << 30;
/// The forms of the stock kernel, by their names in the lab.
const KERNELS: [(&str, &str); 2] = [("bzImage", "vmlinuz"), ("ELF", "vmlinux")];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Measure another VMM too; {kernel}, {initrd} and {cmdline} in COMMAND are filled in
    #[arg(long, value_name = "NAME=COMMAND")]
    peer: Vec<Contender>,
    /// How often each VMM boots each kernel; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let program = artifacts::static_program("microvm", "microvm", Profile::Release)?;
    let parts = Parts::with(program)?;
    let contenders: Vec<_> = [Contender::microvm(), Contender::qemu()]
        .into_iter()
        .chain(arguments.peer.clone())
        .collect();
    let directory = scratch()?.join("bench");
    fs::create_dir_all(&directory)?;
    let share = share(&parts, &contenders, &directory)?;
    let disk = directory.join("disk.img");
    make_disk(&disk, LAB_DISK_BYTES)?;
    let lab = Lab::start(LAB, &parts.kernel, &share, &disk, &directory)?;

    let mut rows = Vec::new();
    for (form, kernel) in KERNELS {
        let mut starts = vec![Vec::new(); contenders.len()];
        // The first round brings the files into the host's page cache and does not count.
        for run in 0..=arguments.runs.max(1) {
            eprintln!("xtask: {form}, run {run} of {}", arguments.runs.max(1));
            for (contender, starts) in contenders.iter().zip(&mut starts) {
                let start = measure(&lab, contender, kernel)
                    .with_context(|| format!("{}, {form}, run {run}", contender.name()))?;
                if run > 0 {
                    starts.push(start);
                }
            }
        }
        rows.extend(
            contenders
                .iter()
                .zip(starts)
                .map(|(contender, starts)| Row {
                    form,
                    name: contender.name().to_owned(),
                    starts,
                }),
        );
    }
    report.add(Section {
        title: format!(
            "Boot of kernel {} ({}), in the lab",
            parts.kernel.release(),
            parts.kernel.version()
        ),
        tables: table::render(&rows),
        charts: vec![table::chart(&rows)],
    });
    Ok(())
}

fn share(parts: &Parts, contenders: &[Contender], directory: &Path) -> Result<Share> {
    let mut share = Share::new(directory, &parts.busybox)?;
    share.static_program(&parts.microvm, "microvm")?;
    share.static_program(&tests::lab::agent()?, "lab-agent")?;
    for (file, name) in parts.files() {
        share.file(&file, &Path::new(PARTS_DIR).join(name))?;
    }
    for contender in contenders {
        contender.bring(&mut share)?;
    }
    Ok(share)
}

fn measure(lab: &Lab, contender: &Contender, kernel: &str) -> Result<Start> {
    let [kernel, initrd] = [kernel, "initramfs.cpio"].map(|name| format!("{PARTS_DIR}/{name}"));
    let mut argv = vec![
        "lab-agent".to_owned(),
        "measure".to_owned(),
        FIRST_LINE.to_owned(),
    ];
    argv.extend(contender.argv(&kernel, &initrd));
    let spec = Spec {
        argv,
        env: vec![("XDG_CACHE_HOME".to_owned(), CACHE_HOME.to_owned())],
        cwd: "/tmp".to_owned(),
        terminal: None,
    };
    let mut nudges = 0;
    // The emulator sometimes stops executing in this mode until something comes in from outside.
    // Its clock stands still meanwhile, so what is measured stays right.
    let output = Process::start(lab.ports(), spec)?.output_nudged(PATIENCE, |requests| {
        nudges += 1;
        ensure!(nudges <= NUDGES_MAX, "no end in sight");
        requests.write(b"\n")
    })?;
    if output.exit != Exit::Status(0) {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the measurement cannot be read")
}
