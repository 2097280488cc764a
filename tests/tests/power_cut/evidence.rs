//! What is kept of a round that failed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use tests::Host;
use tests::artifacts::target_dir;

use crate::image::Image;

/// Copies the image from the host before that is gone: as the last power cut left it, as it is
/// now, and its backing file. Says where they are, or what is missing.
pub(crate) fn save(host: &Host, image: &Image, seed: u64) {
    let directory = target_dir().join("power-cut").join(format!("seed-{seed}"));
    let copies = [
        (image.as_cut(), "image-as-cut"),
        (image.path.clone(), "image"),
        (image.base.clone(), "backing.img"),
    ];
    for (path, name) in copies {
        match copy(host, &path, &directory.join(name)) {
            Ok(()) => eprintln!("kept: {}", directory.join(name).display()),
            Err(error) => eprintln!("not kept: {error:#}"),
        }
    }
}

fn copy(host: &Host, path: &str, to: &Path) -> Result<()> {
    let bytes = host.read(path)?;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(to, bytes).with_context(|| format!("{}: write", to.display()))
}
