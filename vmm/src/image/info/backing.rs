//! What an image stands on, whatever its format.

use disk::Layer;
use serde::Serialize;

/// The backing file: its name, where that is found, and its format. QEMU's fields.
#[derive(Debug, Serialize)]
pub(super) struct Backing {
    #[serde(rename = "backing-filename", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(
        rename = "full-backing-filename",
        skip_serializing_if = "Option::is_none"
    )]
    path: Option<String>,
    #[serde(
        rename = "backing-filename-format",
        skip_serializing_if = "Option::is_none"
    )]
    format: Option<String>,
}

impl Backing {
    /// Of an image that says this of it.
    pub(super) fn of(layer: &Layer, name: Option<&String>, format: Option<&String>) -> Self {
        let path = layer.backing_path().ok().flatten();
        Self {
            name: name.cloned(),
            path: path.map(|path| path.display().to_string()),
            format: format.cloned(),
        }
    }

    /// For people.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let path = self
            .path
            .as_ref()
            .filter(|path| self.name.as_ref() != Some(path));
        let found = match path {
            Some(path) => format!(" (actual path: {path})"),
            None => String::new(),
        };
        let name = self.name.as_ref();
        let format = self.format.as_ref();
        let lines = [
            name.map(|name| format!("backing file: {name}{found}")),
            format.map(|format| format!("backing file format: {format}")),
        ];
        lines.into_iter().flatten()
    }
}
