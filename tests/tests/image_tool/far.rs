//! Servers that have what images stand on.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use images::packages::Tool;
use rustix::process::Signal;
use tests::nbd::Server;

use crate::shop::Shop;

/// Lends `image` to QEMU, which must find there what `expected` has.
pub(crate) fn lend_and_compare(shop: &Shop, image: &str) {
    let server = shop.serve_words(&[image]);
    shop.qemu_img(&format!(
        "compare -f raw -F raw {} expected",
        server.uri("")
    ));
    assert!(server.stop().unwrap().status.success());
}

/// Has `disk` keep all of its base, whoever comes first: a reader, or prefetch.
pub(crate) fn copy_all(shop: &Shop) {
    let disk = shop.path("disk").display().to_string();
    lend_and_compare(shop, &format!("{disk},format=flat,copy-on-read,prefetch"));
}

/// What nbdkit does to a file of the shop.
pub(crate) struct NbdKit {
    server: Option<Server>,
    socket: PathBuf,
    words: Vec<String>,
}

impl NbdKit {
    /// Lends `file`, through `filters` with their settings.
    pub(crate) fn lend(shop: &Shop, file: &str, filters: &[&str]) -> Self {
        let socket = shop.path("far");
        let mut words: Vec<_> = ["-f", "-r", "-U"].map(str::to_owned).into();
        words.push(socket.display().to_string());
        let (options, settings): (Vec<&str>, Vec<_>) =
            filters.iter().partition(|word| word.starts_with('-'));
        words.extend(options.into_iter().map(str::to_owned));
        words.push("file".to_owned());
        words.push(shop.path(file).display().to_string());
        words.extend(settings.into_iter().map(str::to_owned));
        let mut kit = Self {
            server: None,
            socket,
            words,
        };
        kit.start();
        kit
    }

    /// Starts it, once more if it is gone.
    pub(crate) fn start(&mut self) {
        let mut command = Command::new(Tool::NbdKit.find().unwrap());
        command.args(&self.words);
        self.server = Some(Server::other(&mut command, &self.socket).unwrap());
    }

    /// How images name it.
    pub(crate) fn url(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Ends it with a signal, and takes its socket away.
    pub(crate) fn end(&mut self, signal: Signal) {
        if let Some(server) = self.server.take() {
            server.signal(signal).unwrap();
            server.wait().unwrap();
        }
        // It has taken it away itself, unless it was killed.
        let _ = fs::remove_file(&self.socket);
        assert!(UnixStream::connect(&self.socket).is_err());
    }
}
