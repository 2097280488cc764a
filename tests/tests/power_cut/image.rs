//! The image that a round is about.

use tests::Host;

/// The size of the guest's disk.
const SIZE: &str = "64M";

/// What has a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Qcow2,
    Flat,
}

/// How the image is made.
#[derive(Debug)]
pub(crate) struct Kind {
    format: Format,
    /// On a raw backing file that holds the file system, or alone.
    has_backing: bool,
    /// What `image create -o` gets.
    options: &'static str,
}

impl Kind {
    /// The first two seeds have one of each format, on a backing file, and twelve in a row have all
    /// there is.
    pub(crate) fn of(seed: u64) -> Self {
        let format = if seed.is_multiple_of(2) {
            Format::Qcow2
        } else {
            Format::Flat
        };
        let options = match (format, seed / 4 % 3) {
            (Format::Qcow2, 0) => "cluster_size=64k",
            (Format::Qcow2, 1) => "cluster_size=4k",
            (Format::Qcow2, _) => "extended_l2=on,cluster_size=32k",
            (Format::Flat, 0) => "block_size=64k",
            (Format::Flat, 1) => "compact=on,block_size=4k",
            (Format::Flat, _) => "compact=on",
        };
        Self {
            format,
            has_backing: (seed / 2).is_multiple_of(2),
            options,
        }
    }

    /// Makes the image, with an ext4 file system on it; it outlives a power cut.
    pub(crate) fn make(&self, host: &Host) -> Image {
        let base = host.ext4_disk(SIZE);
        let path = host.fresh_path("image").display().to_string();
        let (microvm, format, options) = (host.microvm(), self.format, self.options);
        let make = if self.has_backing {
            format!("create -q -f {format} -o {options} -b '{base}' -F raw '{path}'")
        } else {
            format!("convert -q -f raw -O {format} -o {options} '{base}' '{path}'")
        };
        host.must_run(&format!("{microvm} image {make} && sync"));
        Image { format, base, path }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let backing = if self.has_backing { "a" } else { "no" };
        let format = self.format;
        write!(f, "{format} with {backing} backing file, {}", self.options)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Flat => "flat",
        })
    }
}

/// An image on the host, and what goes with it.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) format: Format,
    /// The raw file that it stands on, or was made from.
    pub(crate) base: String,
    /// The image itself.
    pub(crate) path: String,
}

impl Image {
    /// What `--disk` gets.
    pub(crate) fn disk(&self) -> String {
        format!("{},format={}", self.path, self.format)
    }

    /// Where a copy of the image is that nobody has opened since the last power cut.
    pub(crate) fn as_cut(&self) -> String {
        format!("{}.cut", self.path)
    }

    /// Copies the image before anybody opens it.
    pub(crate) fn keep_as_cut(&self, host: &Host) {
        let copy = self.as_cut();
        host.must_run(&format!("cp --sparse=always '{}' '{copy}'", self.path));
    }

    /// Deletes all files.
    pub(crate) fn remove(self, host: &Host) {
        let copy = self.as_cut();
        host.must_run(&format!("rm -f '{}' '{copy}' '{}'", self.base, self.path));
    }
}
