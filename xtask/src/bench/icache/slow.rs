//! Slow storage of the lab, and disks for guests on it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ::tests::Host;
use ::tests::lab::Drive;
use ::tests::loads::Load;
use anyhow::{Context as _, Result};

use super::counts::Counts;
use super::hdd::Hdd;
use super::image;
use crate::bench::link::{Link, Nbd, Reads};

/// The serial number of the disk with heads.
const HDD_SERIAL: &str = "heads";

/// What is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// A disk with heads
    Hdd,
    /// A base behind a link
    Link,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Hdd, Self::Link];

    pub(super) fn title(self, link: &Link) -> String {
        match self {
            Self::Hdd => "a disk with heads".to_owned(),
            Self::Link => format!(
                "a base behind a link of {} ms and {} MB/s",
                link.delay_ms,
                link.rate_bytes / 1e6
            ),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hdd => "hdd",
            Self::Link => "link",
        })
    }
}

/// Both, with all images.
pub(super) struct Storages {
    hdd: Hdd,
    images: HashMap<&'static str, PathBuf>,
    pub(super) link: Link,
}

impl Storages {
    /// Makes them in `directory`.
    pub(super) fn make(loads: &[Load], link: Link, directory: &Path) -> Result<Self> {
        let mut images = HashMap::new();
        for load in loads {
            images.insert(load.name(), image::make(*load, directory)?);
        }
        let hdd = Hdd::start(&socket(directory), image::BYTES)?;
        Ok(Self { hdd, images, link })
    }

    /// What the lab has of them.
    pub(super) fn drives(&self, directory: &Path) -> Vec<Drive> {
        let images = self.images.iter();
        let images = images.map(|(name, path)| Drive::image(name, path));
        let hdd = Drive::nbd(HDD_SERIAL, &socket(directory));
        std::iter::once(hdd).chain(images).collect()
    }

    /// A disk with the files of a load, as they were made.
    pub(super) fn disk<'a>(&'a self, host: &'a Host, kind: Kind, load: Load) -> Result<Slow<'a>> {
        match kind {
            Kind::Hdd => {
                let image = self.images.get(load.name()).context("no image")?;
                self.hdd.hold(image)?;
                let device = host.drive(HDD_SERIAL)?;
                Ok(Slow::Hdd(&self.hdd, device))
            }
            Kind::Link => {
                let nbd = Nbd::start(host, &host.drive(load.name())?, &self.link)?;
                let overlay = host.fresh_path("overlay.flat").display().to_string();
                host.run(&format!(
                    "{} image create -q -f flat -b '{}' -F raw '{overlay}'",
                    host.microvm(),
                    nbd.url()
                ))?;
                Ok(Slow::Link {
                    host,
                    nbd,
                    link: self.link,
                    overlay,
                })
            }
        }
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("heads.socket")
}

/// A disk on slow storage, for one guest.
pub(super) enum Slow<'a> {
    Hdd(&'a Hdd, String),
    Link {
        host: &'a Host,
        nbd: Nbd,
        link: Link,
        overlay: String,
    },
}

impl Slow<'_> {
    /// What microvm calls it, without a cache.
    pub(super) fn argument(&self) -> String {
        match self {
            Self::Hdd(_, device) => format!("{device},direct=on"),
            Self::Link { overlay, .. } => format!("{overlay},format=flat"),
        }
    }

    /// What the slow storage was asked for so far.
    pub(super) fn counts(&self) -> Result<Counts> {
        match self {
            Self::Hdd(hdd, _) => Ok(hdd.counts()),
            Self::Link {
                host, nbd, link, ..
            } => {
                let reads = nbd.reads(host)?;
                Ok(Counts {
                    busy_ns: busy_ns(link, reads),
                    reads: reads.requests,
                    read_bytes: reads.bytes,
                    ..Counts::default()
                })
            }
        }
    }

    /// Is needed no more.
    pub(super) fn end(self) -> Result<()> {
        if let Self::Link {
            host, nbd, overlay, ..
        } = self
        {
            nbd.end()?;
            host.run(&format!("rm '{overlay}'"))?;
        }
        Ok(())
    }
}

/// How long a link would take for all of it, one after the other.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a model"
)]
fn busy_ns(link: &Link, reads: Reads) -> u64 {
    let transfer_s = reads.bytes as f64 / link.rate_bytes;
    let delay_s = reads.requests as f64 * link.delay_ms / 1e3;
    ((delay_s + transfer_s) * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_its_delay_for_each_request_and_its_rate_for_all_bytes() {
        let link = Link {
            delay_ms: 5.0,
            rate_bytes: 50e6,
        };
        let reads = Reads {
            requests: 3,
            bytes: 5_000_000,
        };
        assert_eq!(busy_ns(&link, reads), 115_000_000);
    }
}
