//! External snapshots: a new overlay on an image, which stays as it is from then on.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use disk::Format;

use super::flat_base::FlatBase;
use super::new_image::NewImage;
use super::options::ImageOptions;

/// Makes an image at `file`, where nothing may be yet, on the image at `base`, whose disk has
/// `size_bytes`. Nobody needs to be able to open the base meanwhile.
pub(crate) async fn create_overlay(
    file: &Path,
    format: Format,
    (base, base_format): (&Path, Format),
    size_bytes: u64,
) -> Result<()> {
    let shown = file.display();
    if format == Format::Raw {
        bail!("{shown}: a raw image stands on no other; give -f qcow2 or -f flat");
    }
    if fs::symlink_metadata(file).is_ok() {
        bail!("{shown}: exists, and is not replaced; choose another");
    }
    // Not what a link leads to: that of a logical volume leads elsewhere after the next start.
    let base = std::path::absolute(base).with_context(|| format!("{}", base.display()))?;
    let name = base.to_str().with_context(|| {
        format!(
            "{}: a name that is not UTF-8 cannot be kept",
            base.display()
        )
    })?;
    let mut options = ImageOptions::parse(format, &[])?;
    options.backing_file = Some(name.to_owned());
    options.backing_format = Some(base_format);
    let looked = (format == Format::Flat).then(|| FlatBase::unseen(size_bytes));
    NewImage::create(file, &options, size_bytes, looked.as_ref())
        .await?
        .finish()
}
