//! Databases, in `SQLite`.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use images::packages::Tool;

use super::Done;
use super::random::Random;

/// How a transaction is made durable: <https://sqlite.org/wal.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench::fs) enum Journal {
    /// The write-ahead log.
    Wal,
    /// The rollback journal.
    Rollback,
}

const RECORD_TRANSACTIONS: u64 = 300;
/// As large as a warehouse of TPC-C (clause 1.2.1 of its specification), by ten.
const ITEMS: u64 = 10_000;
const DISTRICTS: u64 = 10;
const CUSTOMERS: u64 = 300;
/// Rows of a transaction that loads.
const LOADED_ROWS: u64 = 500;
const ORDERS: u64 = 300;

/// Inserts a record a transaction.
pub(super) fn insert_records(directory: &Path, journal: Journal) -> Result<Done> {
    let file = directory.join("records.db");
    sqlite(
        &file,
        journal,
        "CREATE TABLE records(id INTEGER PRIMARY KEY, value BLOB);",
    )?;
    let mut script = String::new();
    for n in 0..RECORD_TRANSACTIONS {
        writeln!(script, "INSERT INTO records VALUES({n}, randomblob(1000));")?;
    }
    timed(&file, journal, &script, RECORD_TRANSACTIONS)
}

/// Loads a warehouse of a wholesale supplier, a few hundred rows a transaction.
pub(super) fn load_warehouse(directory: &Path) -> Result<Done> {
    let file = directory.join("warehouse.db");
    let rows = ITEMS + DISTRICTS * CUSTOMERS;
    timed(&file, Journal::Wal, &warehouse()?, rows)
}

/// Loads a warehouse, and takes orders and payments as TPC-C does (clauses 2.4 and 2.5).
pub(super) fn prepare_orders(directory: &Path) -> Result<()> {
    sqlite(&directory.join("warehouse.db"), Journal::Wal, &warehouse()?)
}

/// Takes orders and payments, by turns, in the warehouse that is there.
pub(super) fn take_orders(directory: &Path) -> Result<Done> {
    let mut random = Random::new(ORDERS);
    let mut script = String::new();
    for order in 0..ORDERS {
        let (district, customer) = (random.below(DISTRICTS), random.below(CUSTOMERS));
        writeln!(
            script,
            "BEGIN; UPDATE district SET next = next + 1 WHERE id = {district};
             INSERT INTO orders VALUES({order}, {district}, {customer});"
        )?;
        for line in 0..5 + random.below(11) {
            let item = random.below(ITEMS);
            writeln!(
                script,
                "SELECT price FROM item WHERE id = {item};
                 UPDATE item SET quantity = quantity - 1 WHERE id = {item};
                 INSERT INTO line VALUES({order}, {line}, {item}, randomblob(24));"
            )?;
        }
        writeln!(
            script,
            "COMMIT; BEGIN; UPDATE district SET paid = paid + 1 WHERE id = {district};
             UPDATE customer SET balance = balance - 1 WHERE district = {district} AND id = {customer};
             INSERT INTO history VALUES({district}, {customer}, randomblob(24)); COMMIT;"
        )?;
    }
    timed(
        &directory.join("warehouse.db"),
        Journal::Wal,
        &script,
        2 * ORDERS,
    )
}

fn warehouse() -> Result<String> {
    let mut script = String::from(
        "CREATE TABLE item(id INTEGER PRIMARY KEY, price, quantity, data);
         CREATE TABLE district(id INTEGER PRIMARY KEY, next, paid);
         CREATE TABLE customer(district, id, balance, data, PRIMARY KEY(district, id)) WITHOUT ROWID;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, district, customer);
         CREATE TABLE line(orders, number, item, data, PRIMARY KEY(orders, number)) WITHOUT ROWID;
         CREATE TABLE history(district, customer, data);",
    );
    let items =
        (0..ITEMS).map(|n| format!("INSERT INTO item VALUES({n}, {n}, 100, randomblob(350));"));
    let customers = (0..DISTRICTS * CUSTOMERS).map(|n| {
        let (district, customer) = (n % DISTRICTS, n / DISTRICTS);
        format!("INSERT INTO customer VALUES({district}, {customer}, 0, randomblob(600));")
    });
    for district in 0..DISTRICTS {
        writeln!(script, "INSERT INTO district VALUES({district}, 0, 0);")?;
    }
    for (n, row) in (0..).zip(items.chain(customers)) {
        if n % LOADED_ROWS == 0 {
            script.push_str(if n == 0 {
                "BEGIN;\n"
            } else {
                "COMMIT; BEGIN;\n"
            });
        }
        script.push_str(&row);
    }
    script.push_str("COMMIT;\n");
    Ok(script)
}

fn timed(file: &Path, journal: Journal, script: &str, operations: u64) -> Result<Done> {
    let start = Instant::now();
    sqlite(file, journal, script)?;
    Ok(Done {
        operations: super::count(operations),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Has a database do what a script says; what is committed is durable.
fn sqlite(file: &Path, journal: Journal, script: &str) -> Result<()> {
    let mode = match journal {
        Journal::Wal => "WAL",
        Journal::Rollback => "DELETE",
    };
    let script = format!("PRAGMA journal_mode={mode}; PRAGMA synchronous=FULL;\n{script}");
    let path = file.with_extension("sql");
    // Not in the file system that is measured.
    let path = std::env::temp_dir().join(path.file_name().context("no name")?);
    std::fs::write(&path, script)?;
    let mut command = Command::new(Tool::Sqlite.command());
    command.arg("-bail").arg(file).stdin(File::open(&path)?);
    let status = command.stdout(Stdio::null()).status();
    std::fs::remove_file(&path)?;
    let status = status.context("cannot run sqlite3")?;
    ensure!(status.success(), "sqlite3: {status}");
    Ok(())
}
