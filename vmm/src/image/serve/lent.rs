//! The argument of `image serve` that names what is lent.

use std::str::FromStr;

use anyhow::{Result, bail};

use super::super::identity::is_same_file;
use crate::cli::disk::{DiskArgument, split_fields};
use crate::nbd::Export;

/// `FILE[,export=NAME][,OPTION]...` with the options of `--disk` that are not for guests.
#[derive(Clone, Debug)]
pub(crate) struct Lent {
    pub(super) disk: DiskArgument,
    /// What clients call it.
    name: Option<String>,
}

impl FromStr for Lent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = split_fields(text).into_iter();
        let path = fields.next();
        let mut name = None;
        let mut rest = Vec::new();
        for field in fields {
            match field.strip_prefix("export=") {
                Some(_) if name.is_some() => {
                    return Err("export= is given twice; leave out one".to_owned());
                }
                Some(given) => name = Some(given.to_owned()),
                None => rest.push(field),
            }
        }
        let disk = DiskArgument::from_fields(path.into_iter().chain(rest))?;
        if disk.serial.is_some() {
            return Err("serial= is for guests, NBD clients do not see it".to_owned());
        }
        Ok(Self { disk, name })
    }
}

impl Lent {
    /// Whether clients may change it.
    pub(super) fn is_writable(&self) -> bool {
        !self.disk.read_only && self.disk.snapshot.is_none()
    }
}

/// What clients call each of `lent`; `first` is for the first.
pub(super) fn names(lent: &[Lent], first: Option<&str>) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for lent in lent {
        let path = lent.disk.path.display();
        let first = first.filter(|_| names.is_empty());
        let name = match (first, lent.name.as_deref()) {
            (Some(_), Some(_)) => {
                bail!("{path}: give its name by --export or export=, not by both")
            }
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => "",
        };
        if name.is_empty() && !names.is_empty() {
            bail!("{path}: has no name, which only the first may do without; add ,export=NAME");
        }
        if !Export::is_name(name) {
            bail!("an export's name has at most 4096 bytes");
        }
        if names.iter().any(|other| other == name) {
            bail!("{path}: '{name}' is the name of another export; give it its own");
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Refuses a file that is lent twice and could be changed: its lock would say that another process
/// has it.
pub(super) fn check_writers(lent: &[Lent]) -> Result<()> {
    for (n, one) in lent.iter().enumerate() {
        for other in &lent[n + 1..] {
            let can_change = one.is_writable() || other.is_writable();
            if can_change && is_same_file(&one.disk.path, &other.disk.path) {
                let path = other.disk.path.display();
                bail!("{path}: given twice; add readonly to both");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(texts: &[&str], first: Option<&str>) -> Result<Vec<String>> {
        let lent: Vec<Lent> = texts.iter().map(|text| text.parse().unwrap()).collect();
        names(&lent, first)
    }

    #[test]
    fn a_name_may_be_anywhere_among_the_options() {
        let lent: Lent = "a,format=qcow2,export=b,,c,snapshot=s".parse().unwrap();
        assert_eq!(lent.name.as_deref(), Some("b,c"));
        assert_eq!(lent.disk.snapshot.as_deref(), Some("s"));
        assert!(!lent.is_writable());
        let lent: Lent = "export=a".parse().unwrap();
        assert_eq!(lent.disk.path.to_str(), Some("export=a"));
        assert!(lent.is_writable());
        for (text, part) in [
            ("a,serial=1", "for guests"),
            ("a,exports=1", "'exports=1'"),
            (",export=a", "path is missing"),
            ("a,export=b,readonly,export=b", "export= is given twice"),
        ] {
            let error = text.parse::<Lent>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_may_do_without_a_name() {
        assert_eq!(named(&["a"], None).unwrap(), [""]);
        assert_eq!(named(&["a"], Some("x")).unwrap(), ["x"]);
        assert_eq!(named(&["a", "b,export=y"], None).unwrap(), ["", "y"]);
        let both = named(&["a", "b,export=y"], Some("x")).unwrap();
        assert_eq!(both, ["x", "y"]);
        for (texts, first, part) in [
            (&["a", "b"][..], Some("x"), "b: has no name"),
            (&["a,export=x", "b,export="], None, "b: has no name"),
            (&["a", "b,export=x"], Some("x"), "b: 'x' is the name"),
            (&["a,export=y"], Some("x"), "not by both"),
        ] {
            let error = named(texts, first).unwrap_err().to_string();
            assert!(error.contains(part), "{texts:?}: {error}");
        }
        let long = "x".repeat(4097);
        assert!(named(&["a"], Some(&long)).is_err());
    }
}
