//! A directory of images, and the programs that work on them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::rc::Rc;

use disk::qcow2::{CreateOptions, check, create};
use disk::{Buffers, Disk, Executor, FileOptions, Format, OpenOptions, Request, Storage as _};
use disk::{CheckReport, Repair};
use images::packages::{Tool, require};
use tempfile::TempDir;

use crate::changes::Change;

/// Images by their names in a directory that goes with this.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        require(&[Tool::QemuImg]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        // The package has several programs, and puts them into one directory.
        let program = Tool::QemuImg.find().unwrap().with_file_name(program);
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.directory);
        command.output().unwrap()
    }

    /// What qemu-img prints. The arguments are the words of `arguments`.
    pub(crate) fn qemu_img(&self, arguments: &str) -> String {
        let words: Vec<_> = arguments.split_whitespace().collect();
        let Output {
            status,
            stdout,
            stderr,
        } = self.run("qemu-img", &words);
        let (stdout, stderr) = (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8_lossy(&stderr),
        );
        assert!(
            status.success(),
            "qemu-img {arguments}: {status}\n{stdout}{stderr}"
        );
        stdout
    }

    /// Lets QEMU do some things to an image, one after the other.
    pub(crate) fn qemu_io(&self, image: &str, commands: &[String]) -> Output {
        let mut arguments = vec!["-f", "qcow2"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(image);
        self.run("qemu-io", &arguments)
    }

    /// QEMU makes changes to an image.
    pub(crate) fn qemu_change(&self, image: &str, changes: &[Change]) {
        let commands: Vec<_> = changes.iter().map(Change::qemu_io).collect();
        let output = self.qemu_io(image, &commands);
        // Its status says nothing of commands that failed.
        let printed =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !printed.contains("failed"),
            "{commands:?}\n{printed}"
        );
    }

    /// What QEMU reads from an image.
    pub(crate) fn qemu_content(&self, image: &str) -> Vec<u8> {
        self.qemu_img(&format!("convert -f qcow2 -O raw {image} content.raw"));
        fs::read(self.path("content.raw")).unwrap()
    }

    /// QEMU finds nothing wrong with an image, and neither do we.
    pub(crate) fn assert_clean(&self, image: &str) {
        self.qemu_img(&format!("check -q -f qcow2 {image}"));
        let report = self.check(image, Repair::None);
        assert!(report.exit_status() == 0, "{report:#?}");
    }

    pub(crate) fn check(&self, image: &str, repair: Repair) -> CheckReport {
        run(async {
            let storage = FileOptions::new(self.path(image)).open().unwrap();
            let report = check(&storage, repair).await.unwrap();
            // Another test's child may hold the file a moment longer.
            storage.close();
            report
        })
    }

    /// We make an image.
    pub(crate) fn create(&self, image: &str, options: &CreateOptions) {
        run(async {
            fs::File::create(self.path(image)).unwrap();
            let storage = FileOptions::new(self.path(image)).open().unwrap();
            create(&storage, options).await.unwrap();
            storage.close();
        });
    }

    /// We make changes to an image.
    pub(crate) fn change(&self, image: &str, changes: &[Change]) {
        run(async {
            let disk = self.open(image).await;
            for change in changes {
                disk.submit(change.request()).await.unwrap();
            }
            disk.close().await.unwrap();
        });
    }

    /// What we read from an image.
    pub(crate) fn content(&self, image: &str) -> Vec<u8> {
        run(async {
            let disk = self.open(image).await;
            let size = usize::try_from(disk.properties().size_bytes).unwrap();
            let buffers = Buffers::zeroed(size);
            disk.submit(Request::read(0, buffers.clone()))
                .await
                .unwrap();
            disk.close().await.unwrap();
            buffers.to_vec()
        })
    }

    async fn open(&self, image: &str) -> Rc<dyn Disk> {
        let options = OpenOptions::new(self.path(image)).format(Format::Qcow2);
        options.open().await.unwrap()
    }
}

/// Runs a future on an executor of its own.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    Executor::new().unwrap().run(future)
}

/// Where two contents first differ, if they do.
pub(crate) fn assert_same(ours: &[u8], theirs: &[u8], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}: sizes");
    if let Some(at) = (0..ours.len()).find(|at| ours[*at] != theirs[*at]) {
        panic!("{what}: {:#x}, not {:#x}, at {at}", ours[at], theirs[at]);
    }
}
