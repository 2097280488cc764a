//! `-o key=value,...`: the options of a new image, called as QEMU calls them.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use disk::flat::format::{BaseName, CHUNK_BITS_DEFAULT};
use disk::qcow2::CreateOptions;
use disk::qcow2::format::Compression;
use disk::{Disk, Format, OpenOptions, flat, is_remote};

use super::flat_base::Scan;
use crate::cli::disk::split_fields;
use crate::cli::size::parse_size;

/// How much of an image gets its space at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The tables; the data is a hole.
    Metadata,
    /// Everything, reserved by the host's file system.
    Falloc,
    /// Everything, written with zeros.
    Full,
}

/// What a new image is to be like.
#[derive(Clone, Debug)]
pub(super) struct ImageOptions {
    pub(super) format: Format,
    pub(super) size_bytes: Option<u64>,
    pub(super) backing_file: Option<String>,
    pub(super) backing_format: Option<Format>,
    /// What its server calls the backing file, in the version that was opened.
    backing_version: Option<String>,
    preallocation: Preallocation,
    pub(super) data_file: Option<String>,
    data_file_raw: bool,
    version: u32,
    cluster_bytes: Option<u64>,
    refcount_bits: u64,
    extended_l2: bool,
    lazy_refcounts: bool,
    compression: Compression,
    block_bytes: Option<u64>,
    /// The size of a chunk as a power of two, if the image is to be compact.
    chunk_bits: Option<u32>,
    /// How to look for zeros in the base; without it, as suits the base.
    pub(super) scan: Option<Scan>,
}

impl ImageOptions {
    /// Takes `options`, each a list of `key=value`.
    pub(super) fn parse(format: Format, options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            format,
            size_bytes: None,
            backing_file: None,
            backing_format: None,
            backing_version: None,
            preallocation: Preallocation::Off,
            data_file: None,
            data_file_raw: false,
            version: 3,
            cluster_bytes: None,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            block_bytes: None,
            chunk_bits: None,
            scan: None,
        };
        for field in options.iter().flat_map(|option| split_fields(option)) {
            let Some((key, value)) = field.split_once('=') else {
                let known = known(format);
                bail!("-o {field}: an option is written NAME=VALUE; {known}");
            };
            let applied = match format {
                Format::Raw => parsed.apply_to_any(key, value),
                Format::Qcow2 => parsed.apply_to_qcow2(key, value),
                Format::Flat => parsed.apply_to_flat(key, value),
            };
            applied.map_err(|error| anyhow!("-o {field}: {error}"))?;
        }
        if parsed.chunk_bits.is_some() && parsed.preallocation != Preallocation::Off {
            bail!(
                "-o preallocation: a compact image takes its space when something is written; leave \
                 out compact=on"
            );
        }
        Ok(parsed)
    }

    fn apply_to_any(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "size" => self.size_bytes = Some(parse_size(value).map_err(anyhow::Error::msg)?),
            "preallocation" => {
                self.preallocation =
                    Preallocation::from_str(value, false).map_err(anyhow::Error::msg)?;
                let has_tables = self.format == Format::Qcow2;
                if !has_tables && self.preallocation == Preallocation::Metadata {
                    let format = self.format;
                    bail!(
                        "a {format} image has no metadata to preallocate; there are off, falloc and full"
                    );
                }
            }
            _ => bail!("{}", known(self.format)),
        }
        Ok(())
    }

    fn apply_to_qcow2(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "compat" => {
                let versions = [("0.10", 2), ("1.1", 3), ("v2", 2), ("v3", 3)];
                self.version = choice(value, &versions)?;
            }
            "cluster_size" => {
                self.cluster_bytes = Some(parse_size(value).map_err(anyhow::Error::msg)?);
            }
            "lazy_refcounts" => self.lazy_refcounts = switch(value)?,
            "refcount_bits" => self.refcount_bits = number(value)?,
            "extended_l2" => self.extended_l2 = switch(value)?,
            "compression_type" => {
                let types = [("zlib", Compression::Zlib), ("zstd", Compression::Zstd)];
                self.compression = choice(value, &types)?;
            }
            "data_file" => self.data_file = Some(value.to_owned()),
            "data_file_raw" => self.data_file_raw = switch(value)?,
            _ => self.apply_to_overlay(key, value)?,
        }
        Ok(())
    }

    fn apply_to_flat(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "block_size" => {
                self.block_bytes = Some(parse_size(value).map_err(anyhow::Error::msg)?);
            }
            "compact" => self.chunk_bits = switch(value)?.then_some(CHUNK_BITS_DEFAULT),
            "scan" => {
                self.scan = Some(Scan::from_str(value, false).map_err(anyhow::Error::msg)?);
            }
            _ => self.apply_to_overlay(key, value)?,
        }
        Ok(())
    }

    /// What images have that can stand on another.
    fn apply_to_overlay(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "backing_file" => self.backing_file = Some(value.to_owned()),
            "backing_fmt" => self.backing_format = Some(value.parse()?),
            _ => self.apply_to_any(key, value)?,
        }
        Ok(())
    }

    /// Opens the backing file of an image that will be at `image`, if it is to have one.
    pub(super) async fn open_backing(&mut self, image: &Path) -> Result<Option<Rc<dyn Disk>>> {
        let Some((name, format)) = self.backing_file.as_ref().zip(self.backing_format) else {
            return Ok(None);
        };
        let options = OpenOptions::new(beside(image, name)).format(format);
        let chain = options.read_only(true).chain().await?;
        self.backing_version = chain.layers()[0].version().map(str::to_owned);
        Ok(Some(chain.into_disk().await?))
    }

    /// How to look for zeros in the base: all of one that is far away is not fetched for that.
    pub(super) fn scan(&self) -> Scan {
        let base = self.backing_file.as_deref().unwrap_or_default();
        self.scan.unwrap_or(if is_remote(Path::new(base)) {
            Scan::Holes
        } else {
            Scan::Full
        })
    }

    /// How much of the image gets its space at once.
    pub(super) fn preallocation(&self) -> Preallocation {
        match self.preallocation {
            // Else the data file would not read as the disk once something is discarded.
            Preallocation::Off if self.data_file_raw => Preallocation::Metadata,
            preallocation => preallocation,
        }
    }

    /// The same for the library, for a disk of `size_bytes` on a base of `base_bytes`.
    pub(super) fn flat(
        &self,
        size_bytes: u64,
        base_bytes: Option<u64>,
    ) -> Result<flat::CreateOptions> {
        let mut options = flat::CreateOptions::new(size_bytes);
        if let Some(bytes) = self.block_bytes {
            options.block_bits = block_bits(bytes)?;
        }
        options.chunk_bits = self.chunk_bits;
        let named = self.backing_file.clone().zip(self.backing_format);
        options.base = named
            .zip(base_bytes)
            .map(|((name, format), size_bytes)| flat::Base {
                name: BaseName {
                    name,
                    format: format.to_string(),
                    version: self.backing_version.clone(),
                },
                size_bytes,
            });
        Ok(options)
    }

    /// The same for the library, for a disk of `size_bytes`.
    pub(super) fn qcow2(&self, size_bytes: u64) -> Result<CreateOptions> {
        let mut options = CreateOptions::new(size_bytes);
        if let Some(bytes) = self.cluster_bytes {
            if !bytes.is_power_of_two() {
                bail!("-o cluster_size={bytes}: not a power of two");
            }
            options.cluster_bits = bytes.trailing_zeros();
        }
        if self.data_file_raw && self.data_file.is_none() {
            bail!("-o data_file_raw=on: needs data_file");
        }
        options.version = self.version;
        options.refcount_bits = self.refcount_bits;
        options.extended_l2 = self.extended_l2;
        options.lazy_refcounts = self.lazy_refcounts;
        options.compression = self.compression;
        options.data_file = self
            .data_file
            .clone()
            .map(|name| (name, self.data_file_raw));
        options.backing = self
            .backing_file
            .clone()
            .zip(self.backing_format.map(|format| format.to_string()));
        Ok(options)
    }
}

/// The size of a block as a power of two.
fn block_bits(bytes: u64) -> Result<u32> {
    let bits = bytes.trailing_zeros();
    if !bytes.is_power_of_two() || !flat::format::BLOCK_BITS.contains(&bits) {
        bail!("-o block_size={bytes}: blocks have a power of two from 4K to 1M");
    }
    Ok(bits)
}

/// What options there are.
fn known(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw images have the options size and preallocation",
        Format::Qcow2 => {
            "qcow2 images have the options size, compat, backing_file, backing_fmt, cluster_size, \
             preallocation, lazy_refcounts, refcount_bits, extended_l2, compression_type, \
             data_file and data_file_raw"
        }
        Format::Flat => {
            "flat images have the options size, backing_file, backing_fmt, block_size, scan, \
             compact and preallocation"
        }
    }
}

/// The path of a file that an image at `image` names, or the URL.
pub(super) fn beside(image: &Path, name: &str) -> PathBuf {
    if is_remote(Path::new(name)) {
        return name.into();
    }
    image.parent().unwrap_or(Path::new("")).join(name)
}

fn choice<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T> {
    let found = choices.iter().find(|(name, _)| *name == value);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        anyhow!("there are {}", names.join(", "))
    })
}

fn switch(value: &str) -> Result<bool> {
    choice(
        value,
        &[
            ("on", true),
            ("off", false),
            ("true", true),
            ("false", false),
        ],
    )
}

fn number<T: FromStr<Err: Display>>(value: &str) -> Result<T> {
    value.parse().map_err(|error| anyhow!("{error}"))
}
