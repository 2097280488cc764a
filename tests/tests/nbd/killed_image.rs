//! The image whose server is killed, and what is asked about it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use images::packages::Tool;
use tests::artifacts::target_dir;
use tests::killed::{BLOCK_BYTES, content};
use tests::nbd::Server;

use crate::setting::{Setting, microvm, run};

pub(crate) const BLOCKS: usize = 4096;

/// A status of checks: there is no fault.
const FINE: i32 = 0;
/// Of `image check`: the image was not closed.
const UNCLOSED: i32 = 1;
/// Of both checks: there are clusters that nothing points to.
const LEAKS: i32 = 3;

/// How an image is made, and how its metadata is kept in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    order: Order,
    /// What `image create -o` gets.
    options: &'static str,
    /// On a raw backing file that holds the first stamps, or alone and empty.
    pub(crate) has_backing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Journal,
    Ordered,
}

impl Kind {
    /// Twelve seeds in a row have all there is.
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            order: match seed % 2 {
                0 => Order::Journal,
                _ => Order::Ordered,
            },
            options: match seed % 3 {
                0 => "cluster_size=64k",
                1 => "cluster_size=4k",
                _ => "extended_l2=on,cluster_size=32k",
            },
            has_backing: (seed / 2).is_multiple_of(2),
        }
    }

    /// Makes the image.
    pub(crate) fn make(self, setting: Setting) -> Image {
        let path = setting.path("image");
        let size = (BLOCKS * BLOCK_BYTES).to_string();
        let mut words = vec!["create", "-q", "-f", "qcow2", "-o", self.options];
        if self.has_backing {
            let file = File::create_new(setting.path("base")).unwrap();
            let blocks: Vec<u8> = (0..BLOCKS).flat_map(|block| content(block, 0)).collect();
            file.write_all_at(&blocks, 0).unwrap();
            words.extend(["-b", "base", "-F", "raw"]);
        }
        words.extend([path.as_str(), &size]);
        let (made, text) = image_command(&words);
        assert_eq!(made, FINE, "{text}");
        Image {
            kind: self,
            path,
            setting,
        }
    }
}

/// An image, which goes with its directory.
pub(crate) struct Image {
    kind: Kind,
    path: String,
    setting: Setting,
}

impl Image {
    pub(crate) fn serve(&self) -> Server {
        let order = match self.kind.order {
            Order::Journal => "journal",
            Order::Ordered => "ordered",
        };
        let image = format!("{},format=qcow2,order={order}", self.path);
        self.setting.serve(&image)
    }

    /// Looks at the image that a killed server has left, and keeps a copy of it.
    pub(crate) fn look_as_killed(&self) {
        fs::copy(&self.path, self.setting.path("image-as-killed")).unwrap();
        let (status, text) = image_command(&["check", &self.path]);
        match (self.kind.order, status) {
            // It may be killed before the first change, or with nothing to bring home.
            (_, FINE) | (Order::Ordered, LEAKS) => {}
            (Order::Journal, UNCLOSED) => assert!(text.contains("in its journal"), "{text}"),
            _ => panic!("status {status}: {text}"),
        }
    }

    /// Recovers the image without serving it.
    pub(crate) fn repair(&self) {
        let (status, text) = image_command(&["check", "-r", "leaks", &self.path]);
        assert_eq!(status, FINE, "{text}");
    }

    /// Looks at the image when it was recovered and is closed, and returns what the disk holds.
    pub(crate) fn look_as_closed(&self) -> Vec<u8> {
        let (status, text) = image_command(&["check", &self.path]);
        if (self.kind.order, status) == (Order::Ordered, LEAKS) {
            // Those are what only a repair takes away.
            self.repair();
        } else {
            assert_eq!(status, FINE, "{text}");
        }
        run(Tool::QemuImg, &["check", &self.path]);
        let raw = self.setting.path("raw");
        run(Tool::QemuImg, &["convert", "-O", "raw", &self.path, &raw]);
        fs::read(raw).unwrap()
    }

    /// Copies what there is of it to where it stays, and says where that is.
    pub(crate) fn keep(&self, seed: u64) {
        let directory = target_dir().join("nbd-killed").join(format!("seed-{seed}"));
        fs::create_dir_all(&directory).unwrap();
        for name in ["image-as-killed", "image", "base"] {
            if fs::copy(self.setting.path(name), directory.join(name)).is_ok() {
                eprintln!("kept: {}", directory.join(name).display());
            }
        }
    }
}

/// The status of `microvm image` with these words, and what it prints.
fn image_command(words: &[&str]) -> (i32, String) {
    let output = Command::new(microvm()).arg("image").args(words).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().unwrap(), text)
}
