//! The files of images, which are no place for statistics.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cli::DiskArgument;
use crate::image::is_same_file;

/// Refuses a path that leads to a file that one of `images` is made of: the image itself, what it
/// stands on, their data files.
pub(super) async fn refuse(path: &Path, images: impl Iterator<Item = &DiskArgument>) -> Result<()> {
    if fs::metadata(path).is_err() {
        // Nothing is there that could be lost.
        return Ok(());
    }
    for image in images {
        for file in files(image).await? {
            if is_same_file(path, &file) {
                bail!(
                    "{}: is a file of the image {}, and no place for statistics; choose another",
                    path.display(),
                    image.path.display()
                );
            }
        }
    }
    Ok(())
}

/// The files of an image. Nobody who has them open is in the way, nor is anybody kept out.
async fn files(image: &DiskArgument) -> Result<Vec<PathBuf>> {
    let options = image.open_options().read_only(true).share_all(true);
    let chain = options.chain().await?;
    let mut files: Vec<_> = image.data_file.iter().cloned().collect();
    for layer in chain.layers() {
        files.push(layer.path.clone());
        // A name that is missing or of no use is complained of where the file is opened.
        files.extend(layer.data_path().ok().flatten());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use disk::Executor;

    use super::*;

    fn refusal(path: &Path, images: &[String]) -> Option<String> {
        let images: Vec<DiskArgument> = images.iter().map(|text| text.parse().unwrap()).collect();
        let executor = Executor::new().unwrap();
        let refused = executor.run(refuse(path, images.iter()));
        refused.err().map(|error| error.to_string())
    }

    #[test]
    fn every_file_of_every_image_is_refused_whatever_it_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["raw", "data", "other"] {
            fs::write(path(name), [0; 1024]).unwrap();
        }
        fs::hard_link(path("data"), path("link")).unwrap();
        let images = [
            path("raw").display().to_string(),
            format!(
                "{},data-file={}",
                path("raw").display(),
                path("data").display()
            ),
        ];
        for name in ["raw", "data", "link"] {
            let line = refusal(&path(name), &images).expect("it is refused");
            let start = format!("{}: is a file of the image", path(name).display());
            assert!(line.starts_with(&start), "{line}");
        }
        assert_eq!(refusal(&path("other"), &images), None);
        assert_eq!(refusal(&path("nothing"), &images), None);
        assert_eq!(refusal(&path("data"), &images[..1]), None);
    }
}
