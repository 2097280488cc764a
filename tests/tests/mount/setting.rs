//! A directory with an image, a mount point, and the program that shows the one on the other.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use images::packages::{Tool, require};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, getuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tests::artifacts;
use tests::report::skip;

/// Formats of images, with the options that they are made with.
pub(crate) const FORMATS: [(&str, &str); 4] = [
    ("raw", ""),
    ("qcow2", "cluster_size=64k"),
    ("qcow2", "extended_l2=on,cluster_size=128k"),
    ("flat", "block_size=4k"),
];

/// The program under test.
pub(crate) fn microvm() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| artifacts::microvm().unwrap())
}

/// Whether file systems can be mounted here; if not, notes that `test` is skipped.
pub(crate) fn can_mount(test: &str) -> bool {
    let reason = if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse"
    } else if getuid().is_root() || require(&[Tool::Fusermount]).is_ok() {
        return true;
    } else {
        "neither root nor fusermount3 is here"
    };
    skip(test, reason);
    false
}

/// Whether this is root; if not, notes that `test` is skipped.
pub(crate) fn is_root(test: &str) -> bool {
    if !getuid().is_root() {
        skip(test, "it takes root");
    }
    getuid().is_root()
}

/// Whether users may have namespaces of their own here; if not, notes that `test` is skipped.
pub(crate) fn has_namespaces(test: &str) -> bool {
    let mut command = Command::new("unshare");
    let status = command
        .args(["-Urm", "true"])
        .stderr(Stdio::null())
        .status();
    let has = status.unwrap().success();
    if !has {
        skip(test, "no user namespaces");
    }
    has
}

/// Whether loop devices can be mounted in a namespace of their own here, which takes more than a
/// `chroot`; if not, notes that `test` is skipped.
pub(crate) fn has_loop_devices(test: &str) -> bool {
    let reason = if Path::new("/dev/loop-control").exists() {
        let mut command = Command::new("unshare");
        let status = command.args(["-m", "true"]).stderr(Stdio::null()).status();
        if status.unwrap().success() {
            return true;
        }
        "no mount namespaces"
    } else {
        "there is no /dev/loop-control"
    };
    skip(test, reason);
    false
}

/// Files of a test, which go with it.
pub(crate) struct Setting {
    directory: TempDir,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stderr: String,
}

impl Setting {
    /// A directory with an empty file and an empty directory to mount on.
    ///
    /// There is one at a time: a process that another test starts holds, for a moment, all files
    /// that this one has open, and a mount that is in use is not simply unmounted.
    pub(crate) fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self::with(Some(turn))
    }

    /// One more, in the turn of another.
    pub(crate) fn beside(_other: &Self) -> Self {
        Self::with(None)
    }

    fn with(turn: Option<MutexGuard<'static, ()>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join("point")).unwrap();
        fs::create_dir(directory.path().join("points")).unwrap();
        Self {
            directory,
            _turn: turn,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes an image of `mib` MiB, and returns how to name it with its format.
    pub(crate) fn image(&self, (format, options): (&str, &str), mib: u64) -> String {
        let mut words = vec!["create", "-f", format];
        if !options.is_empty() {
            words.extend(["-o", options]);
        }
        let (path, size) = (self.path("image"), format!("{mib}M"));
        words.extend([path.to_str().unwrap(), &size]);
        self.image_command(&words);
        format!("{},format={format}", path.display())
    }

    /// `microvm image` with these words, which must succeed without a complaint.
    #[track_caller]
    pub(crate) fn image_command(&self, words: &[&str]) {
        let mut command = Command::new(microvm());
        command.arg("image").args(words);
        command.current_dir(self.directory.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    }

    /// A command that mounts, with these words.
    pub(crate) fn mount_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(microvm());
        command.args(["image", "mount"]).args(words);
        command.current_dir(self.directory.path());
        command
    }

    /// Shows an image on the file `point`.
    pub(crate) fn mount(&self, image: &str) -> Mounted {
        self.mount_with(&[image, "point"])
    }

    /// Shows an image where `words` say, which end with the mount point.
    pub(crate) fn mount_with(&self, words: &[&str]) -> Mounted {
        let point = self.path(words.last().unwrap());
        Mounted::start(&mut self.mount_command(words), point).unwrap()
    }

    /// Why mounting with these words fails, in one line.
    #[track_caller]
    pub(crate) fn refusal(&self, words: &[&str]) -> String {
        refusal(&mut self.mount_command(words))
    }

    /// Copies the image into a raw file, without mounting it, and returns what it holds.
    pub(crate) fn content(&self, format: &str) -> Vec<u8> {
        let words = ["convert", "-f", format, "-O", "raw", "image", "copy"];
        self.image_command(&words);
        fs::read(self.path("copy")).unwrap()
    }

    /// Looks for errors in an image that has been closed.
    pub(crate) fn check(&self, format: &str) {
        if format != "raw" {
            self.image_command(&["check", "-f", format, "image"]);
        }
        if format == "qcow2" {
            run(
                Tool::QemuImg,
                &["check", self.path("image").to_str().unwrap()],
            );
        }
    }

    /// What was written with `--stats stats`.
    pub(crate) fn statistics(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("stats")).unwrap()).unwrap()
    }
}

/// Whether there is something mounted at `path`.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = path.to_str().unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(path))
}

/// Why a command fails, in one line.
#[track_caller]
pub(crate) fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// An image that is shown. Dropping it kills the program and unmounts.
pub(crate) struct Mounted {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// Where something is left if it does not end by itself.
    point: Option<PathBuf>,
    file: PathBuf,
}

impl Mounted {
    /// Runs a command that mounts on `point`, and waits until it has.
    pub(crate) fn start(command: &mut Command, point: PathBuf) -> Result<Self, String> {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        let Some(file) = ready.trim_end().strip_prefix("mounted as ") else {
            let mut error = ready;
            stderr.read_to_string(&mut error).unwrap();
            child.wait().unwrap();
            return Err(error);
        };
        Ok(Self {
            file: file.into(),
            child,
            stdout,
            stderr,
            point: Some(point),
        })
    }

    /// The raw file.
    pub(crate) fn path(&self) -> &Path {
        &self.file
    }

    /// The raw file, opened for reading and writing.
    pub(crate) fn open(&self) -> File {
        let mut options = File::options();
        options.read(true).write(true).open(&self.file).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next line of its complaints.
    pub(crate) fn complaint(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap().code();
        if status == Some(0) {
            // What is there now is somebody else's.
            self.point = None;
        }
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        Ended { status, stderr }
    }

    /// Asks it to end, which it must do without a complaint.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        // It complains at once if the test still uses the file, and would wait for that to end.
        assert_eq!(self.complaint(), "");
        self.wait().assert_fine();
    }

    /// Kills it, and takes away what is left.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Kills it, and leaves what is mounted.
    pub(crate) fn kill_only(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn assert_fine(&self) {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What has ended cannot be killed, and what is not mounted cannot be unmounted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(point) = &self.point {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// What a tool prints, which must succeed.
#[track_caller]
pub(crate) fn run(tool: Tool, words: &[&str]) -> String {
    require(&[tool]).unwrap();
    let output = Command::new(tool.find().unwrap()).args(words).output();
    let output = output.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let succeeded = output.status.success();
    assert!(succeeded, "{} {words:?}: {stdout}{stderr}", tool.command());
    stdout + &stderr
}
