//! What may be wrong with the structures of a format.

use std::path::Path;

use crate::Error;

/// What is wrong with a structure, and where in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The offset of the structure or the field, in bytes.
    pub offset: u64,
    /// What is wrong, as the end of a sentence that begins with the file's name.
    pub problem: String,
    /// Whether the file may be fine, but asks for something that is not supported.
    pub unsupported: bool,
}

impl FormatError {
    pub(crate) fn damaged(offset: u64, problem: impl Into<String>) -> Self {
        Self {
            offset,
            problem: problem.into(),
            unsupported: false,
        }
    }

    /// The error of an image at `path`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(Self) -> Error {
        move |error| {
            let path = path.to_owned();
            if error.unsupported {
                Error::Unsupported {
                    path,
                    problem: error.problem,
                }
            } else {
                Error::Damaged {
                    path,
                    offset: error.offset,
                    problem: error.problem,
                }
            }
        }
    }

    pub(crate) fn unsupported(offset: u64, problem: impl Into<String>) -> Self {
        Self {
            offset,
            problem: problem.into(),
            unsupported: true,
        }
    }
}
