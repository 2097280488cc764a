//! The test programs that stand beside the crates, as arguments for `cargo test`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tests::artifacts::workspace_dir;

/// Those that start guests.
const GUESTS: [&str; 3] = ["bare_metal", "guests", "power_cut"];

/// The arguments that name test programs.
pub(super) struct Programs {
    /// Those that start guests.
    pub(super) guests: Vec<String>,
    /// All others.
    pub(super) others: Vec<String>,
}

/// Looks what there is, so that none is forgotten.
pub(super) fn find() -> Result<Programs> {
    let mut found = BTreeSet::new();
    for member in files(&workspace_dir())? {
        let directory = member.join("tests");
        if member.join("Cargo.toml").is_file() && directory.is_dir() {
            found.extend(files(&directory)?.iter().filter_map(|file| {
                let is_program = file.extension().is_some_and(|extension| extension == "rs");
                let name = file.file_stem().filter(|_| is_program)?;
                Some(name.to_string_lossy().into_owned())
            }));
        }
    }
    for name in GUESTS {
        ensure!(found.remove(name), "there is no test program {name}");
    }
    Ok(Programs {
        guests: arguments(GUESTS),
        others: arguments(found.iter().map(String::as_str)),
    })
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let problem = || format!("{}: read", directory.display());
    let entries = fs::read_dir(directory).with_context(problem)?;
    entries
        .map(|entry| Ok(entry.with_context(problem)?.path()))
        .collect()
}

fn arguments<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let test = |name: &str| ["--test".to_owned(), name.to_owned()];
    names.into_iter().flat_map(test).collect()
}
