//! The argument of `--insight`.

use std::path::PathBuf;
use std::str::FromStr;

use super::glob::Glob;

const KNOWN: &str = "on, off, process=GLOB, path=PREFIX and log=FILE";

/// What to watch in the guest: `on|off[,process=GLOB]...[,path=PREFIX]...[,log=FILE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether the hooks are on from the guest's first process, or wait to be switched on.
    pub(crate) on: bool,
    /// The executables that are watched, with their children; all if there are none.
    pub(crate) processes: Vec<Glob>,
    /// Where the files are that count; everywhere if there are none.
    pub(crate) paths: Vec<String>,
    /// Where a line goes for each call that is seen.
    pub(crate) log: Option<PathBuf>,
}

impl FromStr for Options {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = text.split(',');
        let on = match fields.next() {
            Some("on") => true,
            Some("off") => false,
            other => {
                let other = other.unwrap_or_default();
                return Err(format!("'{other}': on or off comes first, then {KNOWN}"));
            }
        };
        let mut options = Self {
            on,
            processes: Vec::new(),
            paths: Vec::new(),
            log: None,
        };
        for field in fields {
            match field.split_once('=') {
                Some(("process", glob)) if !glob.is_empty() => {
                    options.processes.push(Glob::new(glob));
                }
                Some(("path", prefix)) if prefix.starts_with('/') => {
                    options.paths.push(prefix.to_owned());
                }
                Some(("path", prefix)) => {
                    return Err(format!("path={prefix}: it begins with /"));
                }
                Some(("log", path)) if !path.is_empty() && options.log.is_none() => {
                    options.log = Some(path.into());
                }
                _ => return Err(format!("'{field}': known are {KNOWN}")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_meant() {
        let options: Options = "on,process=mysqld,process=*/gpg,path=/srv,log=/tmp/l"
            .parse()
            .unwrap();
        assert!(options.on);
        assert_eq!(options.processes, [Glob::new("mysqld"), Glob::new("*/gpg")]);
        assert_eq!(options.paths, ["/srv"]);
        assert_eq!(options.log, Some("/tmp/l".into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "yes",
            "on,process=",
            "on,path=srv",
            "on,log=",
            "on,log=a,log=b",
            "on,x=1",
            "on,",
        ] {
            assert!(text.parse::<Options>().is_err(), "{text}");
        }
    }
}
