//! A directory with an image and a server that lends it.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use images::packages::{Tool, require};
use tempfile::TempDir;
use tests::artifacts;
use tests::nbd::Server;

/// The program under test.
pub(crate) fn microvm() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| artifacts::microvm().unwrap())
}

/// Files of a test, which go with it.
pub(crate) struct Setting {
    directory: TempDir,
}

impl Setting {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.into_os_string().into_string().unwrap()
    }

    /// Makes a file of `mib` MiB in which data and holes take turns, no two places alike.
    pub(crate) fn raw_image(&self, name: &str, mib: u64) -> String {
        let path = self.path(name);
        let file = File::create_new(&path).unwrap();
        file.set_len(mib << 20).unwrap();
        for offset in (0..mib << 20).step_by(3 << 18) {
            let piece: Vec<u8> = (offset..offset + (1 << 18))
                .step_by(8)
                .flat_map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_be_bytes())
                .collect();
            let end = (mib << 20) - offset;
            let len = piece.len().min(usize::try_from(end).unwrap());
            file.write_all_at(&piece[..len], offset).unwrap();
        }
        path
    }

    /// Makes an image of `mib` MiB in this format, with `options` of qemu-img.
    pub(crate) fn blank_image(
        &self,
        name: &str,
        format: &str,
        options: &[&str],
        mib: u64,
    ) -> String {
        let path = self.path(name);
        let size = format!("{mib}M");
        let words = [&["create", "-q", "-f", format], options, &[&path, &size]].concat();
        run(Tool::QemuImg, &words);
        path
    }

    /// Serves `image` as `vm`.
    pub(crate) fn serve(&self, image: &str) -> Server {
        self.serve_with(&["--export", "vm", image])
    }

    pub(crate) fn serve_with(&self, words: &[&str]) -> Server {
        let socket = self.directory.path().join("nbd");
        Server::microvm(microvm(), &socket, words).unwrap()
    }
}

/// What a server is told that lends `image` as `vm` by way of TLS.
pub(crate) fn guarded<'a>(certificates: &'a str, image: &'a str) -> [&'a str; 5] {
    ["--export", "vm", "--tls-certificates", certificates, image]
}

/// Serves at a free TCP port of this host, with `words`, and says so once.
pub(crate) fn serve_tcp(words: &[&str]) -> (Server, TcpPlace) {
    let words = [&["--nbd", "tcp:0"], words].concat();
    let server = Server::microvm_anywhere(microvm(), &words, 1).unwrap();
    let place = TcpPlace::of(&server.announcements()[0]);
    (server, place)
}

/// Where a server listens.
pub(crate) struct TcpPlace {
    /// How clients call its export.
    pub(crate) uri: String,
    pub(crate) port: u16,
}

impl TcpPlace {
    /// The place that a server has told of.
    pub(crate) fn of(announcement: &str) -> Self {
        let uri = announcement.strip_prefix("serving ").unwrap();
        let port = uri
            .split(['/', ':'])
            .rfind(|part| part.parse::<u16>().is_ok());
        Self {
            uri: uri.to_owned(),
            port: port.unwrap().parse().unwrap(),
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }
}

/// Why a server with `words` does not begin.
pub(crate) fn refusal(words: &[&str]) -> String {
    let server = Server::microvm_anywhere(microvm(), words, 1);
    let error = server.err().expect("it serves").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// What a tool prints, which must succeed.
pub(crate) fn run(tool: Tool, words: &[&str]) -> String {
    let (succeeded, text) = try_run(tool, words);
    assert!(succeeded, "{} {words:?}: {text}", tool.command());
    text
}

/// Whether a tool succeeds, and what it prints.
pub(crate) fn try_run(tool: Tool, words: &[&str]) -> (bool, String) {
    require(&[tool]).unwrap();
    let output = Command::new(tool.find().unwrap()).args(words).output();
    let output = output.unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Stops a server, which must have served without a complaint.
pub(crate) fn stop(server: Server) {
    let ended = server.stop().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stderr, "");
}
