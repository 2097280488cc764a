//! A VMM to measure, and how it is called.

use std::path::Path;
use std::str::FromStr;

use ::tests::lab::share::Share;
use anyhow::Result;
use images::packages::{Tool, require};

/// Every guest has this much memory.
const MEMORY_MIB: u32 = 512;
/// What a guest's kernel is told where the VMM does not tell it itself.
const CMDLINE: &str = "console=ttyS0 quiet reboot=t panic=-1";
/// Firmware of `qemu-system-x86_64`.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// A VMM and its command line, with `{kernel}`, `{initrd}` and `{cmdline}` to be filled in.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    name: String,
    words: Vec<String>,
}

impl Contender {
    /// The program under test.
    pub(super) fn microvm() -> Self {
        let words = "microvm --kernel {kernel} --initrd {initrd} --cmdline quiet --mem";
        Self::new("microvm", words).with(&format!("{MEMORY_MIB}M"))
    }

    /// The yardstick. It gets a clock chip: without one the kernel polls for one for a second.
    pub(super) fn qemu() -> Self {
        let words = "qemu-system-x86_64 -M microvm,rtc=on -enable-kvm -cpu host -nodefaults -no-user-config \
                     -display none -no-reboot -serial stdio -kernel {kernel} -initrd {initrd} \
                     -append {cmdline} -m";
        Self::new("QEMU", words).with(&MEMORY_MIB.to_string())
    }

    fn new(name: &str, words: &str) -> Self {
        let words = words.split_whitespace().map(str::to_owned).collect();
        Self {
            name: name.to_owned(),
            words,
        }
    }

    fn with(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Puts into the share what the command needs: its program, and files that its words name.
    pub(super) fn bring(&self, share: &mut Share) -> Result<()> {
        if self.words[0] == "microvm" {
            return Ok(());
        }
        if self.words[0] == Tool::QemuSystem.command() {
            require(&[Tool::QemuSystem])?;
            for firmware in FIRMWARE.map(Path::new).iter().filter(|path| path.is_dir()) {
                share.directory(firmware)?;
            }
        }
        for word in &self.words {
            let path = Path::new(word);
            if path.is_absolute() && path.is_file() {
                share.file(path, path)?;
            }
        }
        if Path::new(&self.words[0]).is_absolute() {
            Ok(())
        } else {
            share.program(&self.words[0])
        }
    }

    /// The command line for these files.
    pub(super) fn argv(&self, kernel: &str, initrd: &str) -> Vec<String> {
        let fill = |word: &String| {
            word.replace("{kernel}", kernel)
                .replace("{initrd}", initrd)
                .replace("{cmdline}", CMDLINE)
        };
        self.words.iter().map(fill).collect()
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("write NAME=COMMAND")?;
        if name.is_empty() || command.trim().is_empty() {
            return Err("write NAME=COMMAND".to_owned());
        }
        Ok(Self::new(name, command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_command_gets_the_files() {
        let peer: Contender = "lkvm=lkvm run -k {kernel} -i {initrd} -p {cmdline}"
            .parse()
            .unwrap();
        assert_eq!(peer.name(), "lkvm");
        let argv = peer.argv("/k", "/i");
        assert_eq!(argv[..6], ["lkvm", "run", "-k", "/k", "-i", "/i"]);
        assert_eq!(argv[7], CMDLINE);
        assert!("lkvm".parse::<Contender>().is_err());
        assert!("=lkvm".parse::<Contender>().is_err());
    }
}
