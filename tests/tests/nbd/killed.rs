//! A server that is killed while clients write, again and again, and the image that it leaves.

use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rustix::process::Signal;
use tests::killed::{BLOCK_BYTES, Ledger, Load, Verdict};
use tests::nbd::Server;
use tests::records::Numbers;
use tests::seeds;

use crate::killed_image::{BLOCKS, Image, Kind};
use crate::raw_client::Client;
use crate::setting::Setting;

/// The rounds of a test run, unless the environment says otherwise: each order
/// with each kind of cluster.
const ROUNDS: u64 = 6;
const WRITERS: usize = 4;
/// The most times that an image is served, and the server killed.
const LIVES_MAX: u64 = 2;
/// The most promises before a kill: enough for the writers to have been everywhere.
const PROMISES_MAX: u64 = 200;
/// The most answers from there to the kill.
const ANSWERS_MAX: u64 = 20;

/// What is done to an image, all drawn from a seed.
#[derive(Debug)]
struct Round {
    kind: Kind,
    lives: Vec<Life>,
}

/// A server from its start until it is killed, and what comes after it.
#[derive(Debug)]
struct Life {
    load: Load,
    /// The image is recovered by a repair, or else by the next server.
    is_repaired: bool,
}

impl Round {
    fn draw(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let lives = 1 + numbers.below(LIVES_MAX);
        Self {
            kind: Kind::of(seed),
            lives: (0..lives).map(|_| Life::draw(&mut numbers)).collect(),
        }
    }

    fn run(&self, image: &Image) {
        let ledger = Ledger::new(BLOCKS, self.kind.has_backing);
        for life in &self.lives {
            let verdict = life.run(image, &ledger);
            println!("  {life:?}: {verdict:?}");
        }
    }
}

impl Life {
    fn draw(numbers: &mut Numbers) -> Self {
        let load = Load {
            seed: numbers.draw(),
            promises: 1 + numbers.below(PROMISES_MAX),
            answers: numbers.below(ANSWERS_MAX),
        };
        Self {
            load,
            is_repaired: numbers.below(2) == 0,
        }
    }

    fn run(&self, image: &Image, ledger: &Ledger) -> Verdict {
        kill_under(self.load, image.serve(), ledger);
        image.look_as_killed();
        if self.is_repaired {
            image.repair();
            return ledger.verify(&image.look_as_closed()).unwrap();
        }
        let server = image.serve();
        let mut client = connect(&server);
        let len = u32::try_from(BLOCKS * BLOCK_BYTES).unwrap();
        let verdict = ledger.verify(&client.read(0, len)).unwrap();
        let ended = server.stop().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        // All that the server found is in the image for others.
        ledger.verify(&image.look_as_closed()).unwrap();
        verdict
    }
}

/// Has clients at work on a server until it is killed.
fn kill_under(load: Load, server: Server, ledger: &Ledger) {
    let mut clients: Vec<_> = (0..WRITERS).map(|_| connect(&server)).collect();
    load.run(ledger, &mut clients, &|| {
        server.signal(Signal::KILL).unwrap();
    });
    let ended = server.wait().unwrap();
    assert_eq!(ended.status.signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(ended.stderr, "");
}

fn connect(server: &Server) -> Client {
    let mut client = Client::connect(server);
    client.go("vm");
    client
}

/// `MICROVM_SEED` is the only seed to run; with `MICROVM_SEEDS` the first, and `MICROVM_SEEDS` is
/// how many.
#[test]
fn what_was_flushed_is_there_after_a_kill() {
    let seeds = seeds::chosen(ROUNDS);
    let (first, count) = (seeds.start, seeds.end - seeds.start);
    seeds.for_each(one);
    println!("{count} rounds from seed {first}");
}

/// One round. If it fails, what it did to the image is kept, and how to ask for the same is said.
fn one(seed: u64) {
    let round = Round::draw(seed);
    println!("seed {seed}: {:?}", round.kind);
    let image = round.kind.make(Setting::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| round.run(&image)));
    if let Err(panic) = outcome {
        eprintln!("failed: {round:#?}");
        image.keep(seed);
        eprintln!(
            "to replay: MICROVM_SEED={seed} cargo test -p tests --test nbd -- after_a_kill --nocapture"
        );
        eprintln!("That asks for the same image and load. How the clients interleave differs.");
        resume_unwind(panic)
    }
}
