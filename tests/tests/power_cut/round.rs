//! One round: an image, a guest that writes records, power cuts, and a look at what is left.

use std::time::Duration;

use tests::records::{Numbers, WRITERS};
use tests::{Guest, Host, Vm};

use crate::checks;
use crate::image::{Image, Kind};

/// The most records that are awaited before a cut.
const RECORDS_MAX: u64 = 400;
/// The most time from there to the cut. An fsync takes some milliseconds.
const LEFT_MS_MAX: u64 = 150;
/// The most time from the start of a guest to a cut that hits it while it starts: about as long as
/// it takes to mount its disk.
const START_MS_MAX: u64 = 6000;

/// What a report begins with: `record WRITER NUMBER`.
const REPORT: &str = "record ";

/// What is done in a round, all drawn from its seed.
#[derive(Debug)]
pub(crate) struct Round {
    seed: u64,
    kind: Kind,
    cuts: Vec<Cut>,
}

/// When the power goes.
#[derive(Debug)]
struct Cut {
    /// After so many reports of this guest,
    records: u64,
    /// and so long.
    left: Duration,
    /// And again so long after the start of the next guest.
    again: Option<Duration>,
}

/// What was reported before a cut.
#[derive(Debug)]
struct Reported {
    /// The seed of the records, and the directory of the guest's that they are in.
    seed: u64,
    directory: String,
    /// The last number of each writer.
    last: [u64; WRITERS],
}

impl Round {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let cuts = 1 + numbers.below(2);
        let cuts = (0..cuts).map(|_| Cut::draw(&mut numbers)).collect();
        Self {
            seed,
            kind: Kind::of(seed),
            cuts,
        }
    }

    /// Makes the image of the round.
    pub(crate) fn image(&self, host: &Host) -> Image {
        println!("seed {}: {}", self.seed, self.kind);
        self.kind.make(host)
    }

    /// Cuts the power, and looks what is left; returns how many power cuts there were.
    pub(crate) fn run(&self, host: &mut Host, image: &Image) -> u64 {
        let mut past = Vec::new();
        let mut power_cuts = 0;
        for (number, cut) in self.cuts.iter().enumerate() {
            let mut vm = guest(host, image).boot();
            verify(&mut vm, &mut past);
            past.push(self.write_until(cut, host, vm, number));
            let status = checks::as_cut(host, image);
            println!("  cut after {cut}: the check's status is {status}");
            power_cuts += 1;
            if let Some(left) = cut.again {
                let mut vm = guest(host, image).start();
                vm.go_on_for(left);
                host.power_cut().unwrap();
                let status = checks::as_cut(host, image);
                println!("  again {left:?} after the next start: the check's status is {status}");
                power_cuts += 1;
            }
        }
        let mut vm = guest(host, image).boot();
        verify(&mut vm, &mut past);
        vm.power_off().assert_status(0);
        let status = checks::recovered(host, image);
        println!("  in the end, the check's status is {status}");
        power_cuts
    }

    /// Has the guest write until its host loses power.
    fn write_until(&self, cut: &Cut, host: &mut Host, mut vm: Vm, number: usize) -> Reported {
        // Records of one round must not pass for those of another.
        let seed = self.seed.wrapping_mul(16) + number as u64;
        let directory = format!("/disk/{number}");
        // A writer that fails ends the guest: nobody waits for records that do not come.
        vm.write(&format!(
            "guest-records write {directory} {seed} || exit 1\n"
        ));
        for _ in 0..cut.records {
            vm.expect(REPORT);
        }
        vm.go_on_for(cut.left);
        host.power_cut().unwrap();
        Reported {
            seed,
            directory,
            last: last_reported(&vm.last_words()),
        }
    }
}

impl Cut {
    fn draw(numbers: &mut Numbers) -> Self {
        let records = 1 + numbers.below(RECORDS_MAX);
        let left = Duration::from_micros(numbers.below(LEFT_MS_MAX * 1000));
        let again = Duration::from_millis(numbers.below(START_MS_MAX));
        Self {
            records,
            left,
            again: (numbers.below(3) == 0).then_some(again),
        }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} reports and {:?}", self.records, self.left)
    }
}

/// A guest with the image. A lab on a busy machine may look slower than it is, and a round that
/// fails must tell of the disk.
fn guest<'a>(host: &'a Host, image: &Image) -> Guest<'a> {
    Guest::on(host).disk(&image.disk()).with(&["--force"])
}

/// The last number of each writer on a console. Each number was reported, and once.
fn last_reported(console: &str) -> [u64; WRITERS] {
    let mut last = [0; WRITERS];
    // What comes after the last end of a line may be a part of a number.
    let lines = console.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for (_, report) in lines.lines().filter_map(|line| line.split_once(REPORT)) {
        let (writer, number) = report.split_once(' ').unwrap();
        let writer: usize = writer.parse().unwrap();
        last[writer] += 1;
        assert_eq!(number.parse(), Ok(last[writer]), "{console}");
    }
    last
}

/// Looks in the guest for all that was reported before the cuts. What was found then must be
/// there at the next look too: it came from the host's disk.
fn verify(vm: &mut Vm, past: &mut [Reported]) {
    for reported in past {
        let Reported {
            seed,
            directory,
            last,
        } = reported;
        let numbers = last.map(|number| number.to_string()).join(" ");
        let look = vm.shell(&format!(
            "guest-records verify {directory} {seed} {numbers}"
        ));
        look.assert_success();
        let found: Vec<u64> = look
            .text
            .lines()
            .map(|line| line.split_once(' ').unwrap().1.parse().unwrap())
            .collect();
        println!("  {directory}: reported {last:?}, found {found:?}");
        last.copy_from_slice(&found);
    }
}
