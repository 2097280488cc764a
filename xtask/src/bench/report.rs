//! What benchmarks found: printed as it is found, and kept as a report.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::chart::Bars;

/// What a benchmark found.
pub(super) struct Section {
    pub(super) title: String,
    /// Tables, with nothing but spaces between their columns.
    pub(super) tables: String,
    pub(super) charts: Vec<Bars>,
}

/// What all benchmarks of a run found.
pub(super) struct Report {
    /// Where it is kept, if anywhere.
    directory: Option<PathBuf>,
    sections: Vec<Section>,
    left_out: Vec<String>,
}

impl Report {
    /// Begins one, to be written to a directory that is made for it.
    pub(super) fn new(directory: Option<&Path>) -> Result<Self> {
        if let Some(directory) = directory {
            fs::create_dir_all(directory)
                .with_context(|| format!("{}: cannot create", directory.display()))?;
        }
        Ok(Self {
            directory: directory.map(Path::to_owned),
            sections: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// Adds what was found, and prints it.
    pub(super) fn add(&mut self, section: Section) {
        println!("{}\n\n{}", section.title, section.tables);
        self.sections.push(section);
    }

    /// Notes what this host does not have or do.
    pub(super) fn leave_out(&mut self, what: String) {
        self.left_out.push(what);
    }

    /// Says what is missing, and writes the report.
    pub(super) fn finish(self) -> Result<()> {
        for what in &self.left_out {
            println!("left out: {what}");
        }
        println!("{} left out", self.left_out.len());
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let charts = self.sections.iter().flat_map(|section| &section.charts);
        for chart in charts.filter(|chart| !chart.is_empty()) {
            chart.write(&directory.join(file_name(chart)))?;
        }
        let path = directory.join("report.md");
        let text = self.markdown(&host(), &command());
        fs::write(&path, text).with_context(|| format!("{}: cannot write", path.display()))?;
        println!("the report is in {}", path.display());
        Ok(())
    }

    fn markdown(&self, host: &str, command: &str) -> String {
        let mut text = format!("# Benchmarks\n\n{host}\n\n    {command}\n");
        for Section {
            title,
            tables,
            charts,
        } in &self.sections
        {
            let _ = write!(text, "\n## {title}\n\n");
            for chart in charts.iter().filter(|chart| !chart.is_empty()) {
                let _ = writeln!(text, "![{}]({})\n", chart.title, file_name(chart));
            }
            let _ = writeln!(text, "```text\n{}\n```", tables.trim_end());
        }
        if !self.left_out.is_empty() {
            text.push_str("\n## Left out\n\n");
        }
        for what in &self.left_out {
            let _ = writeln!(text, "- {what}");
        }
        text
    }
}

fn file_name(chart: &Bars) -> String {
    let name = chart.name.chars().map(|character| {
        if character.is_ascii_alphanumeric() {
            character.to_ascii_lowercase()
        } else {
            '-'
        }
    });
    format!("{}.svg", name.collect::<String>())
}

/// What decides about the figures.
fn host() -> String {
    let uname = rustix::system::uname();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = || cpus.lines().filter(|line| line.starts_with("model name"));
    let model = models().next().and_then(|line| line.split_once(": "));
    format!(
        "{} {}, {} processors ({})",
        uname.sysname().to_string_lossy(),
        uname.release().to_string_lossy(),
        models().count(),
        model.map_or("unknown", |(_, model)| model),
    )
}

/// How this program was called.
fn command() -> String {
    let words = std::env::args().skip(1);
    format!("cargo xtask {}", words.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(value: Option<f64>) -> Bars {
        Bars {
            name: "sync ext4".to_owned(),
            title: "flushes".to_owned(),
            series: vec!["ours".to_owned()],
            groups: vec![("4K".to_owned(), vec![value])],
            line: None,
        }
    }

    #[test]
    fn reports_have_tables_plots_and_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let mut report = Report::new(Some(&directory.path().join("new"))).unwrap();
        report.add(Section {
            title: "sync on ext4".to_owned(),
            tables: "4K 1.00\n".to_owned(),
            charts: vec![chart(Some(1.0)), chart(None)],
        });
        report.leave_out("btrfs: mkfs.btrfs is not installed".to_owned());
        let text = report.markdown("a host", "cargo xtask bench sync");
        let expected = "# Benchmarks\n\na host\n\n    cargo xtask bench sync\n\n\
                        ## sync on ext4\n\n![flushes](sync-ext4.svg)\n\n```text\n4K 1.00\n```\n\n\
                        ## Left out\n\n- btrfs: mkfs.btrfs is not installed\n";
        assert_eq!(text, expected);
        report.finish().unwrap();
        for file in ["report.md", "sync-ext4.svg"] {
            assert!(directory.path().join("new").join(file).is_file(), "{file}");
        }
    }
}
