//! Which modules, and in which order: each after those it says it depends on.
//!
//! A package carries no modules.dep, which is made where it is installed; each module names its dependencies in its
//! own `.modinfo` section, `depends=a,b`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

use crate::debian;

/// A kernel module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its file's name, without `.ko`.
    pub name: String,
    /// Decompressed, with the signature at its end.
    pub content: Vec<u8>,
}

/// All modules of a kernel, by name.
pub(super) struct Modules<'a> {
    compressed: BTreeMap<String, (&'a str, &'a [u8])>,
    builtin: BTreeSet<String>,
}

/// The kernel takes `-` and `_` for the same.
fn known_as(name: &str) -> String {
    name.replace('-', "_")
}

fn file_name<'a>(path: &'a str, extension: &str) -> &'a str {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.strip_suffix(extension).unwrap_or(name)
}

impl<'a> Modules<'a> {
    /// Of compressed files by path, and the list of what the kernel has built in.
    pub(super) fn new(files: impl Iterator<Item = (&'a str, &'a [u8])>, builtin: &str) -> Self {
        let named = files.map(|(path, content)| {
            let name = file_name(path, ".ko.xz");
            (known_as(name), (name, content))
        });
        let builtin = builtin.lines().map(|path| known_as(file_name(path, ".ko")));
        Self { compressed: named.collect(), builtin: builtin.collect() }
    }

    /// The named ones and all they depend on.
    pub(super) fn in_load_order(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut modules = Vec::new();
        names.iter().try_for_each(|name| self.add(name, &mut Vec::new(), &mut modules))?;
        Ok(modules)
    }

    /// `before` are those that asked for this one.
    fn add(&self, name: &str, before: &mut Vec<String>, modules: &mut Vec<Module>) -> Result<()> {
        let known = known_as(name);
        if self.builtin.contains(&known)
            || modules.iter().any(|module| known_as(&module.name) == known)
        {
            return Ok(());
        }
        ensure!(!before.contains(&known), "module {name} depends on itself: {before:?}");
        let found = self.compressed.get(&known);
        let (name, compressed) =
            *found.with_context(|| format!("the kernel has no module {name}"))?;
        let content = debian::decompress(compressed).with_context(|| format!("module {name}"))?;
        before.push(known);
        for dependency in dependencies(&content).with_context(|| format!("module {name}"))? {
            self.add(&dependency, before, modules)?;
        }
        before.pop();
        modules.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(module)?;
    let section = elf.section_by_name(".modinfo").context("it has no .modinfo")?;
    let depends = section
        .data()?
        .split(|byte| *byte == 0)
        .find_map(|field| std::str::from_utf8(field).ok()?.strip_prefix("depends="));
    let depends = depends.context("it does not say what it depends on")?;
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_the_kernel_does() {
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/a/with-dash.ko\n";
        let modules = Modules::new(std::iter::empty(), builtin);
        assert_eq!(modules.in_load_order(&["virtio-pci", "with_dash"]).unwrap(), []);
        let error = modules.in_load_order(&["vsock"]).unwrap_err().to_string();
        assert_eq!(error, "the kernel has no module vsock");
    }
}
