//! The names by which images name other files.

use std::path::{Path, PathBuf};

use crate::mutant::mutant;
use crate::storage::{Address, is_remote};

/// What may be opened by a protocol, for messages.
const REMOTE: &str = "nbd://, nbd+unix://, http://, https://, s3://, gs:// and az://";

/// Where the file is that an image at `image` calls `name`: names are relative to the directory
/// of the image, but for URLs. A name that leads to nothing that may be opened is an error, which ends
/// a sentence that begins with it.
pub(super) fn resolve(image: &Path, name: &str) -> Result<PathBuf, String> {
    if is_remote(image) {
        return resolve_remote(image, name);
    }
    let name = match protocol(name) {
        None => name,
        Some("file") => &name["file:".len()..],
        Some("json") => return Err("describes a QEMU block device; only files are opened".into()),
        Some(_) if is_remote(Path::new(name)) => {
            Address::parse(name)?;
            return Ok(name.into());
        }
        Some(protocol) => {
            return Err(format!(
                "is read by the protocol '{protocol}'; there are files, {REMOTE} \
                 (a name with a colon in it is written ./NAME)"
            ));
        }
    };
    let directory = image.parent().unwrap_or(Path::new(""));
    Ok(directory.join(name))
}

/// Where that is for an image that is far away. It may have been made to lead us to files of this
/// host, or to servers that only we can reach.
fn resolve_remote(image: &Path, name: &str) -> Result<PathBuf, String> {
    if !is_remote(Path::new(name)) {
        return Err("is no URL, and an image that is far away must not name files".into());
    }
    let image = Address::parse(&image.to_string_lossy())?;
    let leads_away = !Address::parse(name)?.is_beside(&image);
    if leads_away && !mutant("what is far away leads to other servers") {
        return Err(
            "is not on the server that has the image; what is far away stands only on what is there"
                .into(),
        );
    }
    Ok(name.into())
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
        let url = "nbd://host/b";
        assert_eq!(resolved("a/vm", url), PathBuf::from(url));
    }

    #[test]
    fn protocols_are_refused_by_name() {
        for (name, part) in [
            ("ftp://host/export", "'ftp'"),
            ("nbd:unix:/socket", "'nbd'"),
            ("nbds://host/export", "TLS"),
            ("nbd://user:secret@host/export", "password"),
            ("json:{\"driver\": \"null-co\"}", "block device"),
            ("a:b.img", "./NAME"),
        ] {
            let problem = resolve(Path::new("vm"), name).unwrap_err();
            assert!(problem.contains(part), "{name}: {problem}");
        }
    }

    #[test]
    fn what_is_far_away_leads_nowhere_but_to_its_own_server() {
        let image = Path::new("nbd://host/vm");
        let beside = "nbd://host:10809/base";
        assert_eq!(resolve(image, beside), Ok(PathBuf::from(beside)));
        for (name, part) in [
            ("base.img", "no URL"),
            ("/etc/shadow", "no URL"),
            ("file:/etc/shadow", "no URL"),
            ("./nbd://host/x", "no URL"),
            ("json:{}", "no URL"),
            ("ftp://host/x", "no URL"),
            ("nbd://other/base", "not on the server"),
            ("nbd+unix:///?socket=/run/secret", "not on the server"),
        ] {
            let problem = resolve(image, name).unwrap_err();
            assert!(problem.contains(part), "{name}: {problem}");
        }
    }
}
