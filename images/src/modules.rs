//! Finds kernel modules and the order in which to load them.
//!
//! A package has no `modules.dep`: `depmod` writes that when the package is installed. The
//! same facts are in the modules themselves, in the `depends=` string of their `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::decompress::Compression;
use crate::{Error, Kernel, Result, elf};

/// A module, ready for `insmod`.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name, with `_` for `-` as the kernel has it.
    pub name: String,
    /// The module itself, not compressed.
    pub content: Vec<u8>,
}

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules {
    release: String,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Lists the modules that come with `kernel`.
    pub fn of(kernel: &Kernel) -> Result<Self> {
        Self::read(&kernel.modules(), kernel.release())
    }

    fn read(directory: &Path, release: &str) -> Result<Self> {
        let list = directory.join("modules.builtin");
        let text = fs::read_to_string(&list).map_err(Error::io("read", &list))?;
        let builtin = text
            .lines()
            .filter_map(|line| name_of(Path::new(line)))
            .collect();
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)?;
        Ok(Self {
            release: release.to_string(),
            files,
            builtin,
        })
    }

    /// Whether the kernel has `name`, built in or as a module.
    pub fn has(&self, name: &str) -> bool {
        let name = canonical(name);
        self.builtin.contains(&name) || self.files.contains_key(&name)
    }

    /// Gives the modules called `names` and all that they need, each after what it needs.
    ///
    /// What is built into the kernel is left out; a name the kernel does not know is an error.
    pub fn load_order(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        let mut visited = BTreeSet::new();
        for name in names {
            self.visit(&canonical(name), &mut visited, &mut order)?;
        }
        Ok(order)
    }

    /// Appends the module after all that it needs. The depth is bounded by the number of
    /// modules, since each is visited once.
    fn visit(
        &self,
        name: &str,
        visited: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<()> {
        if self.builtin.contains(name) || !visited.insert(name.to_string()) {
            return Ok(());
        }
        let path = self.files.get(name).ok_or_else(|| Error::NoModule {
            release: self.release.clone(),
            module: name.to_string(),
        })?;
        let content = read(path)?;
        for needed in depends(&content).ok_or_else(|| Error::format(path, "no kernel module"))? {
            self.visit(&needed, visited, order)?;
        }
        order.push(Module {
            name: name.to_string(),
            content,
        });
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let items = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    for item in items {
        let path = item.map_err(Error::io("read", directory))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module's name, if the file is one: `virtio-rng.ko.xz` holds `virtio_rng`.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst").then(|| canonical(name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let content = fs::read(path).map_err(Error::io("read", path))?;
    match Compression::detect(&content) {
        Some(compression) => {
            let plain = compression.decompress(&content);
            plain.map_err(|error| Error::format(path, format!("corrupt: {error}")))
        }
        None => Ok(content),
    }
}

/// The modules that a module names as needed before it.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let strings = elf::section(module, ".modinfo")?.split(|&byte| byte == 0);
    let mut values = strings.filter_map(|text| text.strip_prefix(b"depends="));
    let value = String::from_utf8_lossy(values.next().unwrap_or_default());
    Some(
        value
            .split(',')
            .filter(|name| !name.is_empty())
            .map(canonical)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::object_with_modinfo;

    fn tree(modules: &[(&str, &str)], builtin: &str) -> (tempfile::TempDir, Modules) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("kernel/drivers")).unwrap();
        for (file, depends) in modules {
            let object =
                object_with_modinfo(format!("license=GPL\0depends={depends}\0").as_bytes());
            fs::write(directory.path().join("kernel/drivers").join(file), object).unwrap();
        }
        fs::write(directory.path().join("modules.builtin"), builtin).unwrap();
        let tree = Modules::read(directory.path(), "6.1").unwrap();
        (directory, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn each_module_comes_once_and_after_what_it_needs() {
        let (_directory, tree) = tree(
            &[
                ("virtio_blk.ko", "virtio,virtio_ring"),
                ("virtio.ko", "virtio_ring"),
                ("virtio_ring.ko", ""),
                ("virtio-rng.ko", "rng-core,virtio"),
                ("rng-core.ko", ""),
                ("unrelated.ko", ""),
            ],
            "kernel/fs/ext4/ext4.ko\n",
        );
        let order = tree
            .load_order(&["virtio_blk", "ext4", "virtio-rng", "virtio"])
            .unwrap();
        assert_eq!(
            names(&order),
            [
                "virtio_ring",
                "virtio",
                "virtio_blk",
                "rng_core",
                "virtio_rng"
            ]
        );
    }

    #[test]
    fn a_cycle_ends() {
        let (_directory, tree) = tree(&[("a.ko", "b"), ("b.ko", "a")], "");
        assert_eq!(names(&tree.load_order(&["a"]).unwrap()), ["b", "a"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        let (_directory, tree) = tree(&[("a.ko", "gone")], "");
        let message = tree.load_order(&["a"]).unwrap_err().to_string();
        assert_eq!(message, "kernel 6.1 has no module gone");
    }

    #[test]
    fn a_file_that_is_no_module_is_named() {
        let (directory, tree) = tree(&[("a.ko", "")], "");
        fs::write(directory.path().join("kernel/drivers/a.ko"), "text").unwrap();
        let message = tree.load_order(&["a"]).unwrap_err().to_string();
        assert!(message.ends_with("a.ko: no kernel module"), "{message}");
    }
}
