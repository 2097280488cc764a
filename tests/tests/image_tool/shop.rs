//! A directory of images, and the two tools that work on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use images::packages::{Tool, require};
use serde_json::Value;
use tempfile::TempDir;
use tests::artifacts;
use tests::nbd::Server;

static MICROVM: LazyLock<PathBuf> = LazyLock::new(|| artifacts::microvm().unwrap());

/// Images by their names, in a directory that goes with this.
pub(crate) struct Shop {
    directory: TempDir,
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Shop {
    pub(crate) fn new() -> Self {
        require(&[Tool::QemuImg]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Writes `bytes` into a file that is there.
    pub(crate) fn patch(&self, name: &str, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let file = fs::File::options().write(true).open(self.path(name));
        file.unwrap().write_all_at(bytes, offset).unwrap();
    }

    /// The names of all files, hidden ones too.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    /// A command that runs here.
    pub(crate) fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.directory.path());
        command
    }

    /// `microvm image` with the words of `line`; `''` stands for an empty one.
    pub(crate) fn image_command(&self, line: &str) -> Command {
        let words: Vec<_> = ["image"].into_iter().chain(words(line)).collect();
        self.command(&MICROVM, &words)
    }

    /// Runs `microvm image` with the words of `line`.
    pub(crate) fn image(&self, line: &str) -> Done {
        Done::of(&self.image_command(line).output().unwrap())
    }

    /// Runs `microvm image` to its success and returns what it prints.
    #[track_caller]
    pub(crate) fn must(&self, line: &str) -> String {
        let done = self.image(line);
        assert_eq!(done.status, Some(0), "microvm image {line}: {done:?}");
        assert_eq!(done.stderr, "", "microvm image {line}");
        done.stdout
    }

    /// Runs `microvm image` to an error, in one line with all of `parts` in it.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str, parts: &[&str]) {
        let done = self.image(line);
        assert_ne!(done.status, Some(0), "microvm image {line}: {done:?}");
        let stderr = &done.stderr;
        assert_eq!(stderr.lines().count(), 1, "microvm image {line}: {stderr}");
        for part in parts {
            let found = stderr.contains(part);
            assert!(found, "microvm image {line}: no {part:?} in {stderr}");
        }
    }

    /// Lends a qcow2 image to NBD clients, with `words` beside its name.
    pub(crate) fn serve(&self, image: &str, words: &[&str]) -> Server {
        self.lend("qcow2", image, words)
    }

    /// Lends an image to NBD clients, with `words` beside its name.
    pub(crate) fn lend(&self, format: &str, image: &str, words: &[&str]) -> Server {
        let image = format!("{},format={format}", self.path(image).display());
        let words: Vec<_> = words.iter().copied().chain([image.as_str()]).collect();
        self.serve_words(&words)
    }

    /// Lends what `words` say to NBD clients.
    pub(crate) fn serve_words(&self, words: &[&str]) -> Server {
        Server::microvm(&MICROVM, &self.path("nbd"), words).unwrap()
    }

    /// Runs `qemu-img` with the words of `line`.
    pub(crate) fn try_qemu_img(&self, line: &str) -> Done {
        let words: Vec<_> = words(line).collect();
        let program = Tool::QemuImg.find().unwrap();
        Done::of(&self.command(&program, &words).output().unwrap())
    }

    /// Runs `qemu-img` to its success and returns what it prints.
    #[track_caller]
    pub(crate) fn qemu_img(&self, line: &str) -> String {
        let done = self.try_qemu_img(line);
        assert_eq!(done.status, Some(0), "qemu-img {line}: {done:?}");
        done.stdout
    }

    /// Has QEMU write to an image, by commands such as `write -P 1 0 64k`.
    #[track_caller]
    pub(crate) fn write(&self, format: &str, image: &str, commands: &[&str]) {
        let done = self.try_write(format, image, commands);
        let fine = done.status == Some(0) && !done.stdout.contains("failed");
        assert!(fine, "qemu-io {image} {commands:?}: {done:?}");
    }

    /// The same, whatever comes of it.
    pub(crate) fn try_write(&self, format: &str, image: &str, commands: &[&str]) -> Done {
        // The package has several programs, and puts them into one directory.
        let program = Tool::QemuImg.find().unwrap().with_file_name("qemu-io");
        let mut words = vec!["-f", format];
        words.extend(commands.iter().flat_map(|command| ["-c", command]));
        words.push(image);
        Done::of(&self.command(&program, &words).output().unwrap())
    }

    /// What both tools print as JSON on `line`.
    #[track_caller]
    pub(crate) fn both(&self, line: &str) -> (Value, Value) {
        let json = |text: String| serde_json::from_str(&text).unwrap();
        (json(self.must(line)), json(self.qemu_img(line)))
    }

    /// Fails unless two images read alike, in QEMU's eyes.
    #[track_caller]
    pub(crate) fn assert_same(&self, first: (&str, &str), second: (&str, &str)) {
        let ((format, image), (other_format, other)) = (first, second);
        self.qemu_img(&format!(
            "compare -f {format} -F {other_format} {image} {other}"
        ));
    }
}

impl Done {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
        .map(|word| if word == "''" { "" } else { word })
}

/// A JSON object without some of its fields.
pub(crate) fn without(mut value: Value, fields: &[&str]) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !fields.contains(&name.as_str()));
    }
    value
}
