//! Who is measured: a program, with an image in one of its formats.

use std::path::Path;

/// How much QEMU's filter sets aside at once.
const QEMU_PREALLOCATE_BYTES: u64 = 128 << 20;

/// How an image is made and opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Qcow2 {
        lazy_refcounts: bool,
    },
    /// With holes where nothing was written.
    Raw,
    /// All of it written before.
    RawFilled,
    /// With holes where nothing was written, and a bitmap of what hides a base.
    Flat,
    /// With places only for chunks that were written.
    FlatCompact,
}

impl Format {
    /// What programs call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 { .. } => "qcow2",
            Self::Raw | Self::RawFilled => "raw",
            Self::Flat | Self::FlatCompact => "flat",
        }
    }
}

/// A program, in one of its ways to keep an image.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// The name of its column.
    pub(super) name: &'static str,
    pub(super) format: Format,
    /// Whether its images stand on another, whatever the load is.
    pub(super) on_base: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With the order of metadata, where it is not left to the program.
    Ours(Option<&'static str>),
    Qemu,
    /// As who knows QEMU well sets it up for allocating writes.
    QemuTuned,
}

/// The column that the others are compared to.
pub(super) const YARDSTICK: &str = "QEMU qcow2";

/// The column that the formats are compared to, among [`Contender::formats`].
pub(super) const RAW: &str = "ours raw";

/// As it is without options.
const OURS: Kind = Kind::Ours(None);
const QCOW2: Format = Format::Qcow2 {
    lazy_refcounts: false,
};
const QCOW2_LAZY: Format = Format::Qcow2 {
    lazy_refcounts: true,
};

impl Contender {
    /// All of them, in the order of the table's columns.
    pub(super) fn all(all_orders: bool) -> Vec<Self> {
        let ours = |name, order| Self::new(name, QCOW2, Kind::Ours(Some(order)));
        let mut all = vec![ours("ours journal", "journal")];
        if all_orders {
            all.push(ours("ours ordered", "ordered"));
            all.push(ours("ours unsafe", "unsafe"));
        }
        all.extend([
            Self::new("ours flat", Format::Flat, OURS),
            Self::new("ours raw", Format::Raw, OURS),
            Self::new(YARDSTICK, QCOW2, Kind::Qemu),
            Self::new("QEMU lazy", QCOW2_LAZY, Kind::Qemu),
            Self::new("QEMU tuned", QCOW2_LAZY, Kind::QemuTuned),
            Self::new("QEMU raw", Format::Raw, Kind::Qemu),
            Self::new("QEMU filled", Format::RawFilled, Kind::Qemu),
        ]);
        all
    }

    /// The formats beside a raw image, each alone and on a base.
    pub(super) fn formats() -> Vec<Self> {
        vec![
            Self::new(RAW, Format::Raw, OURS),
            Self::new("flat", Format::Flat, OURS),
            Self::new("flat + base", Format::Flat, OURS).on_base(),
            Self::new("flat compact", Format::FlatCompact, OURS),
            Self::new("qcow2", QCOW2, OURS),
            Self::new("qcow2 + base", QCOW2, OURS).on_base(),
            Self::new("QEMU qcow2", QCOW2, Kind::Qemu),
            Self::new("QEMU + base", QCOW2, Kind::Qemu).on_base(),
        ]
    }

    fn new(name: &'static str, format: Format, kind: Kind) -> Self {
        Self {
            name,
            format,
            on_base: false,
            kind,
        }
    }

    fn on_base(self) -> Self {
        Self {
            on_base: true,
            ..self
        }
    }

    /// What our program is told of `image`; absent if it is QEMU's.
    pub(super) fn ours(&self, image: &Path) -> Option<String> {
        let Kind::Ours(order) = self.kind else {
            return None;
        };
        let order = order.map_or(String::new(), |order| format!(",order={order}"));
        let format = self.format.name();
        Some(format!("{},format={format}{order}", image.display()))
    }

    /// What QEMU is told of `image`: values of `--blockdev`, lowest first, of which the last is
    /// called `disk`.
    pub(super) fn qemu_nodes(&self, image: &Path) -> Vec<String> {
        let tuned = self.kind == Kind::QemuTuned;
        let file = image.display();
        let mut nodes = vec![format!(
            "driver=file,node-name=file,filename={file},discard=unmap"
        )];
        if tuned {
            nodes.push(format!(
                "driver=preallocate,node-name=ahead,file=file,prealloc-size={QEMU_PREALLOCATE_BYTES}"
            ));
        }
        let below = if tuned { "ahead" } else { "file" };
        let format = self.format.name();
        let options = if tuned {
            ",l2-cache-entry-size=4096"
        } else {
            ""
        };
        nodes.push(format!(
            "driver={format},node-name=disk,file={below},discard=unmap{options}"
        ));
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yardstick_is_one_column() {
        for (all_orders, count) in [(false, 8), (true, 10)] {
            let all = Contender::all(all_orders);
            assert_eq!(all.len(), count);
            let yardsticks = all.iter().filter(|one| one.name == YARDSTICK);
            assert_eq!(yardsticks.count(), 1);
        }
    }
}
