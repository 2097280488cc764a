//! How long a server takes to open an image of 1 TiB, and how much memory, beside a small one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ::disk::flat::format::{BaseName, CHUNK_BITS_DEFAULT, Header};
use ::disk::flat::{Base, CreateOptions, create};
use ::disk::{Executor, FileOptions, Storage as _};
use anyhow::{Context as _, Result};
use images::packages::Tool;

use crate::bench::contender::{Contender, Format};
use crate::bench::figures::{median, spread_percent};
use crate::bench::file_system::succeed;
use crate::bench::grid::Grid;
use crate::bench::nbd::connect;
use crate::bench::sync::{Setup, serve};

const LARGE_BYTES: u64 = 1 << 40;
const SMALL_BYTES: u64 = 64 << 20;
/// Of a bitmap where every other block is local.
const HALF: u8 = 0x55;
/// What a large flat image should take at most, more than a small one.
const MARK_MS: f64 = 20.0;
const MARK_MIB: f64 = 8.0;

/// What was measured of a server.
#[derive(Default)]
struct Opened {
    /// From its start until a client is connected.
    ms: Vec<f64>,
    /// The most that it had then.
    memory_mib: Vec<f64>,
}

/// Measures flat images, where half of the blocks are local, one of them compact and with every other
/// chunk in a place, and qcow2 that has all its tables, and
/// returns tables.
pub(super) fn measure(setup: &Setup<'_>, directory: &Path) -> Result<String> {
    let takes_part = |one: &&Contender| match one.format {
        Format::Flat => one.on_base,
        Format::FlatCompact => true,
        Format::Qcow2 { .. } => !one.on_base,
        Format::Raw | Format::RawFilled => false,
    };
    let contenders: Vec<&Contender> = setup.contenders.iter().filter(takes_part).collect();
    let large = of_size(setup, &contenders, directory, LARGE_BYTES)?;
    let small = of_size(setup, &contenders, directory, SMALL_BYTES)?;
    let names: Vec<&str> = contenders.iter().map(|one| one.name).collect();
    Ok(render(&names, &large, &small))
}

/// Has each server open its image of a size, in turns.
fn of_size(
    setup: &Setup<'_>,
    contenders: &[&Contender],
    directory: &Path,
    size_bytes: u64,
) -> Result<Vec<Opened>> {
    let images = contenders.iter().map(|contender| {
        let path = directory.join(format!("{}-{size_bytes}", contender.name.replace(' ', "-")));
        match contender.format {
            Format::Flat => make_flat(&path, size_bytes),
            Format::FlatCompact => make_compact(&path, size_bytes),
            _ => make_qcow2(&path, size_bytes),
        }
        .with_context(|| path.display().to_string())?;
        Ok(path)
    });
    let images: Vec<PathBuf> = images.collect::<Result<_>>()?;
    let mut opened: Vec<Opened> = contenders.iter().map(|_| Opened::default()).collect();
    // The first round warms up and does not count.
    for round in 0..=setup.runs {
        for ((contender, image), opened) in contenders.iter().zip(&images).zip(&mut opened) {
            setup.interrupt.check()?;
            let start = Instant::now();
            let (server, _) = serve(contender, setup.programs, image)?;
            let client = connect(server.socket())?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            if round > 0 {
                opened.ms.push(ms);
                opened.memory_mib.push(mib(server.memory_peak_kib()?));
            }
            drop(client);
            server.stop()?;
        }
    }
    Ok(opened)
}

#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// On a base that is a hole as large, with every other block local.
fn make_flat(path: &Path, size_bytes: u64) -> Result<()> {
    let base = path.with_extension("base");
    File::create(&base)?.set_len(size_bytes)?;
    File::create(path)?;
    let name = base.file_name().and_then(|name| name.to_str());
    let options = CreateOptions {
        base: Some(Base {
            name: BaseName {
                name: name.context("no name")?.to_owned(),
                format: "raw".to_owned(),
                version: None,
            },
            size_bytes,
        }),
        ..CreateOptions::new(size_bytes)
    };
    let header = new_flat(path, &options)?;
    let bitmap = vec![HALF; usize::try_from(header.covered_blocks() / 8)?];
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&bitmap, header.bitmap.start)?;
    Ok(file.sync_all()?)
}

/// With every other chunk in a place, and every other block of the disk written.
fn make_compact(path: &Path, size_bytes: u64) -> Result<()> {
    File::create(path)?;
    let options = CreateOptions {
        chunk_bits: Some(CHUNK_BITS_DEFAULT),
        ..CreateOptions::new(size_bytes)
    };
    let header = new_flat(path, &options)?;
    let chunks = header.chunks.as_ref().context("it is compact")?;
    let count = u32::try_from(size_bytes / chunks.bytes())?;
    let entries = (0..count).map(|chunk| if chunk % 2 == 0 { chunk / 2 + 1 } else { 0 });
    let table: Vec<u8> = entries.flat_map(u32::to_le_bytes).collect();
    let bitmap = vec![HALF; usize::try_from(size_bytes / header.block_bytes() / 8)?];
    let file = File::options().write(true).open(path)?;
    file.set_len(header.data_offset + u64::from(count.div_ceil(2)) * chunks.bytes())?;
    file.write_all_at(&bitmap, header.bitmap.start)?;
    file.write_all_at(&table, chunks.table.start)?;
    let metadata_bytes =
        header.bitmap.end - header.bitmap.start + chunks.table.end - chunks.table.start;
    eprintln!("xtask: {size_bytes} bytes, compact: {metadata_bytes} bytes of metadata");
    Ok(file.sync_all()?)
}

/// Makes an image in a file that is empty.
fn new_flat(path: &Path, options: &CreateOptions) -> Result<Header> {
    let storage = FileOptions::new(path).open()?;
    let header = Executor::new()?.run(create(&storage, options, None))?;
    storage.close();
    Ok(header)
}

fn make_qcow2(path: &Path, size_bytes: u64) -> Result<()> {
    let mut create = Command::new(Tool::QemuImg.command());
    create.args(["create", "-f", "qcow2", "-o", "preallocation=metadata"]);
    succeed(create.arg(path).arg(size_bytes.to_string())).map(drop)
}

/// Both sizes, what the large one takes more, and whether that is what it should be.
fn render(names: &[&str], large: &[Opened], small: &[Opened]) -> String {
    let grid = Grid {
        names,
        rows: vec![("1 TiB".to_owned(), large), ("64 MiB".to_owned(), small)],
    };
    let cell = |values: &[f64]| {
        let (middle, spread) = (median(values.to_vec()), spread_percent(values));
        Some(format!("{middle:.1} ±{spread:>2.0}%"))
    };
    let tables = [
        grid.table("ms until connected", |_, one| cell(&one.ms)),
        grid.table("MiB of memory at most", |_, one| cell(&one.memory_mib)),
    ];
    let tables: Vec<String> = tables.into_iter().flatten().collect();
    let more = |of: fn(&Opened) -> &Vec<f64>, n: usize| {
        median(of(&large[n]).clone()) - median(of(&small[n]).clone())
    };
    let lines = names.iter().enumerate().map(|(n, name)| {
        let (ms, mib) = (more(|one| &one.ms, n), more(|one| &one.memory_mib, n));
        format!("{name}: {ms:.1} ms and {mib:.1} MiB more for 1 TiB\n")
    });
    let lines: String = lines.collect();
    let mark = format!("a flat image should take at most {MARK_MS} ms and {MARK_MIB} MiB more\n");
    format!("{}\n{lines}{mark}", tables.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_has_half_of_its_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flat");
        make_flat(&path, SMALL_BYTES).unwrap();
        let executor = Executor::new().unwrap();
        let options = ::disk::OpenOptions::new(&path).format(::disk::Format::Flat);
        let flat = executor.run(options.open_flat()).unwrap();
        assert_eq!(flat.missing_blocks(), SMALL_BYTES / (64 << 10) / 2);
    }

    #[test]
    fn a_compact_image_has_half_of_its_chunks_and_little_metadata() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compact");
        make_compact(&path, LARGE_BYTES).unwrap();
        let executor = Executor::new().unwrap();
        let options = ::disk::OpenOptions::new(&path).format(::disk::Format::Flat);
        let flat = executor.run(options.open_flat()).unwrap();
        let header = flat.header();
        let table = header.chunks.as_ref().unwrap().table.clone();
        let metadata_bytes = header.bitmap.end - header.bitmap.start + table.end - table.start;
        assert!(metadata_bytes <= 6 << 20, "{metadata_bytes}");
        let placed = executor.run(::disk::flat::placed_chunks(flat.storage(), &header));
        assert_eq!(placed.unwrap(), LARGE_BYTES / (1 << 20) / 2);
    }

    #[test]
    fn what_a_large_image_takes_more_is_told() {
        let opened = |ms: f64, mib: f64| Opened {
            ms: vec![ms],
            memory_mib: vec![mib],
        };
        let text = render(&["flat"], &[opened(9.0, 12.0)], &[opened(7.5, 10.0)]);
        assert!(text.contains("flat: 1.5 ms and 2.0 MiB more for 1 TiB\n"));
    }
}
