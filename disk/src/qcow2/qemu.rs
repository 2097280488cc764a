//! QEMU's tools: what they make, and what they say of what we make.

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory for an image, which goes with it.
pub(crate) struct Workshop {
    directory: TempDir,
}

/// Whether there is a `qemu-img`.
pub(crate) fn is_installed() -> bool {
    let version = Command::new("qemu-img").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// What `qemu-img check` said.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) status: i32,
    pub(crate) json: String,
}

impl Verdict {
    /// A number of the report; 0 if it is not there, as there.
    pub(crate) fn number(&self, field: &str) -> u64 {
        let start = self.json.split(&format!("\"{field}\": ")).nth(1);
        let digits = start.map(|text| text.chars().take_while(char::is_ascii_digit));
        digits.map_or(0, |digits| digits.collect::<String>().parse().unwrap())
    }
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a tool in the directory, and requires that it succeeds. Returns what it said.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.output(command);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn output(&self, command: &str) -> Output {
        let mut words = command.split(' ');
        Command::new(words.next().unwrap())
            .args(words)
            .current_dir(self.directory.path())
            .output()
            .expect("QEMU's tools are here: `cargo xtask test` installs them")
    }

    /// Runs `qemu-io` on an image, with commands of the form `write -P 1 0 64k`.
    pub(crate) fn io(&self, image: &str, commands: &[&str]) {
        let mut io = Command::new("qemu-io");
        io.args(["-f", "qcow2", image])
            .current_dir(self.directory.path());
        for command in commands {
            io.args(["-c", command]);
        }
        let output = io.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = !output.status.success() || text.contains("failed");
        assert!(!failed, "{commands:?}: {text} {output:?}");
    }

    pub(crate) fn check(&self, image: &str) -> Verdict {
        let output = self.output(&format!("qemu-img check -f qcow2 --output=json {image}"));
        Verdict {
            status: output.status.code().unwrap(),
            json: String::from_utf8_lossy(&output.stdout).into_owned(),
        }
    }

    pub(crate) fn load(&self, image: &str) -> Vec<u8> {
        std::fs::read(self.path(image)).unwrap()
    }

    pub(crate) fn store(&self, image: &str, bytes: &[u8]) {
        std::fs::write(self.path(image), bytes).unwrap();
    }

    /// What a disk holds, read by QEMU; `from` is `-f qcow2 image` with options.
    pub(crate) fn content(&self, from: &str) -> Vec<u8> {
        self.run(&format!("qemu-img convert -O raw {from} content.raw"));
        self.load("content.raw")
    }
}
