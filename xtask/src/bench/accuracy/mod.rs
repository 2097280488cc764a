//! `cargo xtask bench accuracy`: how often what the hooks on system calls say of blocks is right.
//!
//! ```text
//!  lab    guest-syscalls judge ── image, cache list ── microvm: a disk and a cache a way
//!  guest        guest-syscalls generate ══ ext4, XFS or btrfs a disk
//! ```
//!
//! Blocks of files say themselves what they are, so whoever finds one on a disk, whatever the file
//! system, can tell whether the cache has it as what it is.

mod verdict;
mod way;

use ::tests::{Guest, Host, Parts, Vm};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use images::packages::{Tool, require};

use super::file_system::Kind;
use super::interrupt::Interrupt;
use super::report::{Report, Section};
use verdict::{Verdict, table};
use way::{Way, mount};

/// The file systems that it may be.
const KINDS: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];
/// What the guest has for the file systems of all ways at once.
const GUEST_MEMORY: &str = "2G";
/// What the program that judges is called in the lab.
const JUDGE: &str = "guest-syscalls";

/// The options of `bench accuracy`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The file systems of the guest
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = KINDS)]
    only: Vec<Kind>,
    /// How many small files are made in the row that has many
    #[arg(long, default_value_t = 10_000)]
    small_files: u32,
}

/// A disk of the guest, for one way.
struct Case {
    way: Way,
    image: String,
    /// Of the cache in front of it, in bytes.
    cache_bytes: u64,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    require(&[Tool::Mke2fs, Tool::MkfsXfs, Tool::MkfsBtrfs])?;
    let interrupt = Interrupt::install()?;
    let judge = Parts::judge()?;
    let parts = Parts::get()?.with_file_systems()?;
    let host = Host::emulated_with(parts, |share| {
        share.static_program(&judge, JUDGE)?;
        let mut programs = KINDS.iter().map(|kind| kind.mkfs().0);
        programs.try_for_each(|name| share.program(name))
    })?;
    let mut rows = Vec::new();
    for kind in &arguments.only {
        let cases = cases(&host, *kind, arguments.small_files)?;
        prepare(&host, *kind, &cases);
        let verdicts = measure(&host, *kind, &cases, arguments.small_files, &interrupt)?;
        for (case, verdict) in cases.iter().zip(verdicts) {
            let way = case.way.name(arguments.small_files);
            rows.push((kind.name().to_owned(), way, verdict));
        }
    }
    report.add(Section {
        title: "What the hooks say of blocks of 4 KiB in the cache, beside what they are"
            .to_owned(),
        tables: table(&rows),
        charts: Vec::new(),
    });
    Ok(())
}

/// A fresh file system for each way.
fn cases(host: &Host, kind: Kind, small_files: u32) -> Result<Vec<Case>> {
    let (program, options) = kind.mkfs();
    let make = |way: &Way| {
        let (disk_bytes, cache_bytes) = way.sizes(small_files);
        let image = host.blank_disk(&disk_bytes.to_string());
        host.run(&format!("{program} {} '{image}'", options.join(" ")))?;
        Ok(Case {
            way: *way,
            image,
            cache_bytes,
        })
    };
    Way::all().iter().map(make).collect()
}

/// Has a guest that nobody watches do what is to be there before.
fn prepare(host: &Host, kind: Kind, cases: &[Case]) {
    let works = |case: &&Case| case.way.preparation("").is_some();
    let cases: Vec<_> = cases.iter().filter(works).collect();
    let mut guest = Guest::on(host);
    for case in &cases {
        guest = guest.disk(&case.image);
    }
    let mut vm = guest.boot();
    for (number, case) in cases.iter().enumerate() {
        let place = format!("/mnt/{number}");
        vm.shell(&mount(kind, number, &place)).assert_success();
        if let Some(work) = case.way.preparation(&place) {
            vm.shell(&work).assert_success();
        }
        vm.shell(&format!("umount {place}")).assert_success();
    }
    vm.power_off().assert_status(0);
}

/// Has a guest that is watched do all work, and judges after each.
fn measure(
    host: &Host,
    kind: Kind,
    cases: &[Case],
    small_files: u32,
    interrupt: &Interrupt,
) -> Result<Vec<Verdict>> {
    let socket = host.fresh_path("control").display().to_string();
    let mut vm = watched(host, &socket, cases);
    let mut verdicts = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        interrupt.check()?;
        let place = format!("/mnt/{number}");
        must(&mut vm, &mount(kind, number, &place))?;
        let said = must(&mut vm, &case.way.work(&place, small_files, number))?;
        let way = case.way.name(small_files);
        eprintln!("xtask: {}, {way}: {said}", kind.name());
        let line = judged(host, &socket, number, case)?;
        verdicts.push(Verdict::parse(&line, zeros(case.way, &said)?)?);
    }
    vm.power_off().assert_status(0);
    Ok(verdicts)
}

/// A guest with hooks on its system calls, and all disks.
fn watched(host: &Host, socket: &str, cases: &[Case]) -> Vm {
    let mut guest =
        Guest::on(host)
            .mem(GUEST_MEMORY)
            .with(&["--insight", "on", "--control", socket]);
    for case in cases {
        let cache_mib = case.cache_bytes >> 20;
        guest = guest.disk(&format!("{},cache={cache_mib}M", case.image));
    }
    guest.boot()
}

/// Has the guest's shell do something; what it says.
fn must(vm: &mut Vm, command: &str) -> Result<String> {
    let shell = vm.shell(command);
    ensure!(shell.status == 0, "the guest: {command}: {}", shell.text);
    Ok(shell.text)
}

/// What the judge says of what the cache of disk number `number` says.
fn judged(host: &Host, socket: &str, number: usize, case: &Case) -> Result<String> {
    let list = host.fresh_path("list").display().to_string();
    let microvm = host.microvm();
    host.run(&format!(
        "{microvm} control '{socket}' cache list blk{number} > '{list}'"
    ))?;
    host.run(&format!("{JUDGE} judge '{}' '{list}'", case.image))
}

/// How many blocks of zeros files have, by what `guest-syscalls` said of them.
fn zeros(way: Way, said: &str) -> Result<u64> {
    if way != Way::Zeros {
        return Ok(0);
    }
    let mut words = said.split_whitespace();
    let blocks = words.find_map(|word| word.strip_prefix("blocks=")?.parse().ok());
    blocks.with_context(|| format!("guest-syscalls: no blocks in '{said}'"))
}
