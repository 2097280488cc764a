//! The names by which images name other files.

use std::path::{Path, PathBuf};

/// Where the file is that an image at `image` calls `name`: names are relative to the directory
/// of the image. A name that is no file's is an error, which ends a sentence that begins with it.
pub(super) fn resolve(image: &Path, name: &str) -> Result<PathBuf, String> {
    let name = match protocol(name) {
        None => name,
        Some("file") => &name["file:".len()..],
        Some("json") => return Err("describes a QEMU block device; only files are opened".into()),
        Some(protocol) => {
            return Err(format!(
                "is read by the protocol '{protocol}'; only files are opened \
                 (a name with a colon in it is written ./NAME)"
            ));
        }
    };
    let directory = image.parent().unwrap_or(Path::new(""));
    Ok(directory.join(name))
}

/// What comes before a colon, which in QEMU's names is a protocol unless there is a slash first.
fn protocol(name: &str) -> Option<&str> {
    let (protocol, _) = name.split_once(':')?;
    (!protocol.contains('/')).then_some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_image() {
        let resolved = |image: &str, name: &str| resolve(Path::new(image), name).unwrap();
        assert_eq!(resolved("vm.qcow2", "base.img"), PathBuf::from("base.img"));
        assert_eq!(resolved("a/vm.qcow2", "b.img"), PathBuf::from("a/b.img"));
        assert_eq!(resolved("a/vm.qcow2", "/b.img"), PathBuf::from("/b.img"));
        assert_eq!(resolved("/a/vm", "../b.img"), PathBuf::from("/a/../b.img"));
        assert_eq!(resolved("a/vm", "file:b.img"), PathBuf::from("a/b.img"));
        assert_eq!(resolved("a/vm", "./b:c.img"), PathBuf::from("a/./b:c.img"));
    }

    #[test]
    fn protocols_are_refused_by_name() {
        for (name, part) in [
            ("nbd://host/export", "'nbd'"),
            ("nbd:unix:/socket", "'nbd'"),
            ("https://host/file", "'https'"),
            ("json:{\"driver\": \"null-co\"}", "block device"),
            ("a:b.img", "./NAME"),
        ] {
            let problem = resolve(Path::new("vm"), name).unwrap_err();
            assert!(problem.contains(part), "{name}: {problem}");
        }
    }
}
