//! The servers, and the images they serve.

use std::path::{Path, PathBuf};

use ::tests::nbd::Server;
use anyhow::Result;

use super::image::Format;
use crate::bench::nbd::{Programs, serve_qemu};

/// How much QEMU's filter sets aside at once.
const QEMU_PREALLOCATE_BYTES: u64 = 128 << 20;

/// A server, in one of its ways to keep an image.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// The name of its column.
    pub(super) name: &'static str,
    pub(super) format: Format,
    server: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With the order of metadata, where the format has any.
    Ours(Option<&'static str>),
    Qemu,
    /// As who knows QEMU well sets it up for allocating writes.
    QemuTuned,
}

/// The column that the others are compared to.
pub(super) const YARDSTICK: &str = "QEMU qcow2";

const QCOW2: Format = Format::Qcow2 {
    lazy_refcounts: false,
};
const QCOW2_LAZY: Format = Format::Qcow2 {
    lazy_refcounts: true,
};

impl Contender {
    /// All of them, in the order of the table's columns.
    pub(super) fn all(all_orders: bool) -> Vec<Self> {
        let new = |name, format, server| Self {
            name,
            format,
            server,
        };
        let ours = |name, order| new(name, QCOW2, Kind::Ours(Some(order)));
        let mut all = vec![ours("ours journal", "journal")];
        if all_orders {
            all.push(ours("ours ordered", "ordered"));
            all.push(ours("ours unsafe", "unsafe"));
        }
        all.extend([
            new("ours raw", Format::Raw, Kind::Ours(None)),
            new(YARDSTICK, QCOW2, Kind::Qemu),
            new("QEMU lazy", QCOW2_LAZY, Kind::Qemu),
            new("QEMU tuned", QCOW2_LAZY, Kind::QemuTuned),
            new("QEMU raw", Format::Raw, Kind::Qemu),
            new("QEMU filled", Format::RawFilled, Kind::Qemu),
        ]);
        all
    }

    /// Starts it on `image`. Ours writes its statistics to the path returned, at its end.
    pub(super) fn start(
        &self,
        programs: &Programs,
        image: &Path,
    ) -> Result<(Server, Option<PathBuf>)> {
        let socket = image.with_extension("socket");
        let Kind::Ours(order) = self.server else {
            let server = serve_qemu(&programs.qemu, &self.qemu_nodes(image), &socket)?;
            return Ok((server, None));
        };
        let statistics = image.with_extension("json");
        let image = ours_image(image, self.format.name(), order);
        let words = ["--stats", &statistics.display().to_string(), &image];
        let server = Server::microvm(&programs.ours, &socket, &words)?;
        Ok((server, Some(statistics)))
    }

    fn qemu_nodes(&self, image: &Path) -> Vec<String> {
        let tuned = self.server == Kind::QemuTuned;
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

/// What `microvm image serve` is told of an image.
fn ours_image(image: &Path, format: &str, order: Option<&str>) -> String {
    let order = order.map_or(String::new(), |order| format!(",order={order}"));
    format!("{},format={format}{order}", image.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yardstick_is_one_column() {
        for (all_orders, count) in [(false, 7), (true, 9)] {
            let all = Contender::all(all_orders);
            assert_eq!(all.len(), count);
            let yardsticks = all.iter().filter(|one| one.name == YARDSTICK);
            assert_eq!(yardsticks.count(), 1);
        }
    }
}
