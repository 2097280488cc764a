//! Block devices: a loop device, where the host lets us make one.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::NamedTempFile;

use super::{file, model};
use crate::test_support::real_backends;
use crate::{Content, Executor, OpenOptions};

const SIZE_BYTES: u64 = model::SIZE_BYTES as u64;

/// A block device on top of a file, and the file.
struct LoopDevice {
    path: PathBuf,
    _file: NamedTempFile,
}

impl LoopDevice {
    /// None, and the reason in the test's output, where the host has no loop devices for us.
    fn new(block_bytes: u32) -> Option<Self> {
        let file = file(SIZE_BYTES);
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size"]);
        command.arg(block_bytes.to_string()).arg(file.path());
        let output = command.output().ok()?;
        if !output.status.success() {
            std::io::stdout().write_all(&output.stderr).unwrap();
            return None;
        }
        let path = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Self { path, _file: file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("-d").arg(&self.path).status();
        assert!(detached.unwrap().success());
    }
}

#[test]
fn block_devices_agree_with_the_model() {
    for (seed, block_bytes, direct) in [(20, 512, false), (21, 4096, true)] {
        let Some(device) = LoopDevice::new(block_bytes) else {
            return println!("skipped: no loop device");
        };
        for backend in real_backends() {
            println!("{backend:?}, seed {seed}, blocks of {block_bytes}, direct {direct}");
            Executor::with_backend(backend).unwrap().run(async {
                let options = OpenOptions::new(&device.path).direct(direct);
                let disk = options.open().await.unwrap();
                assert_eq!(disk.properties().block_size_bytes, block_bytes);
                assert_eq!(disk.properties().size_bytes, SIZE_BYTES);
                let extent = disk.extent(4096, u64::MAX - 4096).await.unwrap();
                let expected = (SIZE_BYTES - 4096, Content::Data);
                assert_eq!((extent.len, extent.content), expected);
                model::run(&*disk, seed).await;
            });
            // The model begins with zeros.
            std::fs::write(&device.path, vec![0; model::SIZE_BYTES]).unwrap();
        }
    }
}
