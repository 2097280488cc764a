//! Entries without what is wrong with them.

use crate::qcow2::format::{Cluster, Layout, Subclusters};

/// The cluster without what contradicts itself.
pub(super) fn mended(cluster: Cluster, layout: Layout, version: u32) -> Cluster {
    let Cluster::Standard {
        host,
        copied,
        subclusters,
    } = cluster
    else {
        return cluster;
    };
    let host = host.filter(|host| layout.is_aligned(*host));
    let zero = if version >= 3 { subclusters.zero } else { 0 };
    let allocated = match host {
        None => 0,
        Some(_) if layout.extended_l2 => subclusters.allocated,
        Some(_) => u32::from(zero == 0),
    };
    Cluster::Standard {
        host,
        copied: copied && host.is_some(),
        subclusters: Subclusters {
            allocated,
            zero: zero & !allocated,
        },
    }
}

/// The cluster without its data.
pub(super) fn emptied(cluster: Cluster) -> Cluster {
    match cluster {
        Cluster::Compressed { .. } => Cluster::UNALLOCATED,
        Cluster::Standard { subclusters, .. } => Cluster::Standard {
            host: None,
            copied: false,
            subclusters: Subclusters {
                allocated: 0,
                zero: subclusters.zero,
            },
        },
    }
}
