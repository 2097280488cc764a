//! The image that a round is about.

use tests::Host;

/// The size of the guest's disk.
const SIZE: &str = "64M";

/// How the image is made.
#[derive(Debug)]
pub(crate) struct Kind {
    /// On a raw backing file that holds the file system, or alone.
    has_backing: bool,
    /// What `image create -o` gets.
    options: &'static str,
}

impl Kind {
    /// The first two seeds have the usual clusters, and six in a row have all there is.
    pub(crate) fn of(seed: u64) -> Self {
        let options = match seed / 2 % 3 {
            0 => "cluster_size=64k",
            1 => "cluster_size=4k",
            _ => "extended_l2=on,cluster_size=32k",
        };
        Self {
            has_backing: seed.is_multiple_of(2),
            options,
        }
    }

    /// Makes the image, with an ext4 file system on it; it outlives a power cut.
    pub(crate) fn make(&self, host: &Host) -> Image {
        let base = host.ext4_disk(SIZE);
        let path = host.fresh_path("image.qcow2").display().to_string();
        let (microvm, options) = (host.microvm(), self.options);
        let make = if self.has_backing {
            format!("create -q -f qcow2 -o {options} -b '{base}' -F raw '{path}'")
        } else {
            format!("convert -q -f raw -O qcow2 -o {options} '{base}' '{path}'")
        };
        host.must_run(&format!("{microvm} image {make} && sync"));
        Image { base, path }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let backing = if self.has_backing { "a" } else { "no" };
        write!(f, "qcow2 with {backing} backing file, {}", self.options)
    }
}

/// An image on the host, and what goes with it.
#[derive(Debug)]
pub(crate) struct Image {
    /// The raw file that it stands on, or was made from.
    pub(crate) base: String,
    /// The image itself.
    pub(crate) path: String,
}

impl Image {
    /// What `--disk` gets.
    pub(crate) fn disk(&self) -> String {
        format!("{},format=qcow2", self.path)
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
