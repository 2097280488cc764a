//! Checking an image that nobody uses, and repairing it.

mod chunks;
mod snapshots;

use super::bitmap::Bitmap;
use super::format::Header;
use super::header_file::read_header;
use super::journal::{inspect, recover};
use crate::{CheckReport, Error, Repair, Storage};

const FILE_GOES_ON: &str = "the file goes on behind the end of its disk";

/// Checks the image on `storage`, and repairs what `repair` allows. An error means that the check
/// could not be done at all. A flat image has little that could be wrong: beside the header, there
/// may be data of blocks that come from the base, which a power cut has left and nobody reads, and
/// bytes behind the end of the disk. Both count as leaks, in blocks. A compact image has a table
/// too, which may lead two chunks to one place, or to where there is none, and places of which
/// nobody reads anything, which are leaks. It may have snapshots, of which places are counted.
pub async fn check(storage: &impl Storage, repair: Repair) -> Result<CheckReport, Error> {
    if repair != Repair::None {
        recover(storage).await?;
    }
    let header = read_header(storage).await?;
    let mut report = CheckReport {
        total_clusters: header.size_bytes.div_ceil(header.block_bytes()),
        image_end_offset: header.file_end(),
        ..CheckReport::default()
    };
    if let Some(found) = inspect(storage, &header).await? {
        report.unchecked(header.journal.start, found.waiting());
        return Ok(report);
    }
    let bitmap = Bitmap::read(storage, &header).await?;
    if let Some(chunks) = &header.chunks {
        return chunks::check(storage, &header, chunks, &bitmap, repair, report).await;
    }
    report.allocated_clusters = report.total_clusters - bitmap.missing();
    find_leaks(storage, &header, &bitmap, repair, &mut report).await?;
    if storage.can_resize() && storage.size_bytes() > header.file_end() {
        report.leak(header.file_end(), FILE_GOES_ON);
        if repair != Repair::None {
            storage.set_len(header.file_end()).await?;
        }
    }
    if repair != Repair::None && report.leaks > 0 {
        storage.sync().await?;
        report.leaks_fixed = std::mem::take(&mut report.leaks);
        report.repaired = std::mem::take(&mut report.findings);
    }
    Ok(report)
}

/// Finds what the file holds of blocks that are not local.
async fn find_leaks(
    storage: &impl Storage,
    header: &Header,
    bitmap: &Bitmap,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<(), Error> {
    let (mut block, blocks) = (0, header.covered_blocks());
    while block < blocks {
        let (local, end) = bitmap.run(&(block..blocks));
        if !local {
            let start = header.data_offset + (block << header.block_bits);
            let end = header.data_offset + (end << header.block_bits);
            find_data(
                storage,
                start,
                end.min(header.file_end()),
                header,
                repair,
                report,
            )
            .await?;
        }
        block = end;
    }
    Ok(())
}

async fn find_data(
    storage: &impl Storage,
    mut at: u64,
    end: u64,
    header: &Header,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<(), Error> {
    while at < end {
        let extent = storage.extent(at, end - at).await?;
        if extent.data {
            let problem = format!(
                "{} bytes that nobody reads: they come from the base",
                extent.len
            );
            report.leak(at, problem);
            report.leaks += extent.len.div_ceil(header.block_bytes()) - 1;
            if repair != Repair::None {
                storage.write_zeroes(at, extent.len, true).await?;
            }
        }
        at += extent.len;
    }
    Ok(())
}
