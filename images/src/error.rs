//! What can go wrong while a guest part is made.

use std::io;
use std::path::{Path, PathBuf};

/// A failure to make a guest part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or renamed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A program could not be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program's name.
        program: String,
        /// What the system said.
        source: io::Error,
    },

    /// A program ran and failed.
    #[error("`{command}` failed ({status}): {message}")]
    Failed {
        /// The whole command line.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// The last lines that it wrote to standard error, as one.
        message: String,
    },

    /// Host programs are missing and this user may not install them.
    #[error("missing host programs: {}; install them with: {remedy}", commands.join(", "))]
    Missing {
        /// The names of the programs.
        commands: Vec<&'static str>,
        /// The exact command that installs them.
        remedy: String,
    },

    /// The host has no package manager that this crate knows.
    #[error("this host has no apt-get: Debian or Ubuntu is needed to fetch {what}")]
    NoApt {
        /// What was to be fetched.
        what: String,
    },

    /// No package source of the host offers what is needed.
    #[error("no package source of this host offers {what}; see /etc/apt/sources.list.d")]
    NoPackage {
        /// The packages that would do.
        what: String,
    },

    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A kernel module is neither built in nor in the package.
    #[error("kernel {release} has no module {module}")]
    NoModule {
        /// The kernel's release.
        release: String,
        /// The module's name.
        module: String,
    },
}

impl Error {
    /// Wraps an [`io::Error`] with the operation and the path; made for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }

    /// Says that a file does not hold what it should.
    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
