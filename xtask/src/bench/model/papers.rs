//! What was published, beside what the model says.

use std::fmt::Write as _;

use super::contender::Contender;
use super::host::Device;
use super::table::{BARRIER, CLUSTERS, JOURNAL, ORDERED, Row};
use super::workload::Load;

/// A published gain over QEMU's qcow2.
struct Published {
    /// Who found what.
    claim: &'static str,
    /// What does here as theirs did.
    ours: Contender,
    /// The workload and the devices on which it was found.
    load: fn(Load) -> bool,
    devices: &'static [Device],
}

/// FAST'16: Chen et al., Mitigating Sync Amplification for Copy-on-Write Virtual Disk, on QEMU
/// 2.1.2, a WD disk and a Samsung 850 EVO. Kim and Won (Hanyang): Delay Reduction Technique for
/// Amplified Sync Operation of QCOW2 Virtual Disk, on QEMU 2.1.2 and a Samsung 850 PRO.
const PUBLISHED: [Published; 7] = [
    Published {
        claim: "FAST'16, varmail: up to +110%",
        ours: JOURNAL,
        load: |load| matches!(load, Load::Mail { .. }),
        devices: &[Device::Sata, Device::Hdd],
    },
    Published {
        claim: "FAST'16, TPC-C: up to +50%",
        ours: JOURNAL,
        load: |load| matches!(load, Load::Database { .. }),
        devices: &[Device::Sata, Device::Hdd],
    },
    Published {
        claim: "Hanyang, append: dd +81.1%, Mobibench +4.7%",
        ours: BARRIER,
        load: |load| load == Load::Append,
        devices: &[Device::Sata],
    },
    Published {
        claim: "Hanyang, overwrite: dd +4.5%, Mobibench -2.7%",
        ours: BARRIER,
        load: |load| load == Load::Overwrite,
        devices: &[Device::Sata],
    },
    Published {
        claim: "Hanyang, varmail: +9.2%",
        ours: BARRIER,
        load: |load| matches!(load, Load::Mail { .. }),
        devices: &[Device::Sata],
    },
    Published {
        claim: "Hanyang, YCSB insert: +3.3%",
        ours: BARRIER,
        load: |load| load == Load::Records { update: false },
        devices: &[Device::Sata],
    },
    Published {
        claim: "Hanyang, YCSB update: +0.6%",
        ours: BARRIER,
        load: |load| load == Load::Records { update: true },
        devices: &[Device::Sata],
    },
];

/// A line for each published gain of which there are rows: the least and the most that the model
/// has on such devices, over the ordered mode and over whole clusters.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for published in &PUBLISHED {
        let rows: Vec<&Row> = rows
            .iter()
            .filter(|row| (published.load)(row.case.load))
            .filter(|row| published.devices.contains(&row.case.device))
            .collect();
        let name = published.ours.name();
        let gains = [ORDERED, CLUSTERS].map(|below| {
            let range = gains(&rows, published.ours, below)?;
            Some(format!("{name}/{} {range}", below.name()))
        });
        if let [Some(ordered), Some(clusters)] = gains {
            let claim = published.claim;
            let _ = writeln!(text, "{claim:<48} here: {ordered}; {clusters}");
        }
    }
    text
}

/// The least and the most of the gains of one disk over another.
fn gains(rows: &[&Row], above: Contender, below: Contender) -> Option<String> {
    let ratios = rows.iter().filter_map(|row| row.ratio(above, below));
    let mut percents: Vec<f64> = ratios.map(|ratio| (ratio - 1.0) * 100.0).collect();
    percents.sort_by(f64::total_cmp);
    let (least, most) = (percents.first()?, percents.last()?);
    if percents.len() == 1 {
        Some(format!("{most:+.1}%"))
    } else {
        Some(format!("{least:+.1}% to {most:+.1}%"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::neighbour::Neighbour;
    use super::super::run::Case;
    use super::super::table::tests::row;
    use super::*;

    #[test]
    fn gains_stand_beside_those_that_were_published() {
        let case = |load, device| Case {
            load,
            neighbour: Neighbour::Absent,
            device,
        };
        let mail = Load::Mail { aged: true };
        let rows = [
            row(case(mail, Device::Sata), [100.0, 90.0, 60.0, 0.0, 50.0]),
            row(case(mail, Device::Hdd), [100.0, 60.0, 60.0, 0.0, 50.0]),
            // Not a device of the papers.
            row(case(mail, Device::Nvme), [100.0, 90.0, 10.0, 0.0, 10.0]),
            row(
                case(Load::Append, Device::Sata),
                [100.0, 90.0, 80.0, 100.0, 50.0],
            ),
        ];
        let text = render(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let mail = "here: journal/ordered +0.0% to +50.0%; journal/clusters +20.0% to +80.0%";
        assert!(
            lines[0].starts_with("FAST'16, varmail") && lines[0].ends_with(mail),
            "{text}"
        );
        let append = "here: barrier/ordered +25.0%; barrier/clusters +100.0%";
        assert!(
            lines[1].starts_with("Hanyang, append") && lines[1].ends_with(append),
            "{text}"
        );
    }
}
