//! Reading a directory back, as a model.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::tree::is_shown_twice;

use super::model::{Body, Model, Object, ROOT};

/// All that is below `base`.
pub(super) fn observe(base: &Path) -> io::Result<Model> {
    let mut model = Model::default();
    model.root_found(object(base)?);
    let mut known: HashMap<(u64, u64), u64> = HashMap::new();
    let mut left = vec![(base.to_owned(), ROOT)];
    while let Some((directory, parent)) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let same = if meta.is_dir() {
                None
            } else {
                known.get(&(meta.dev(), meta.ino())).copied()
            };
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let id = model.insert_found(parent, &name, same, object(&path)?);
            if meta.is_dir() {
                left.push((path, id));
            } else {
                known.insert((meta.dev(), meta.ino()), id);
            }
        }
    }
    Ok(model)
}

/// One object, its content included.
pub(super) fn object(path: &Path) -> io::Result<Object> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let body = if kind.is_dir() {
        Body::Directory(BTreeMap::new())
    } else if kind.is_symlink() {
        Body::Symlink(fs::read_link(path)?.to_string_lossy().into_owned())
    } else if kind.is_fifo() {
        Body::Fifo
    } else {
        Body::File(fs::read(path)?)
    };
    let nlink = if kind.is_dir() {
        0
    } else {
        meta.nlink() as u32
    };
    Ok(Object::found(
        body,
        meta.mode() & 0o7777,
        (meta.uid(), meta.gid()),
        nlink,
        xattrs(path)?,
    ))
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    let mut found = BTreeMap::new();
    let mut value = vec![0; 4096];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !is_shown_twice(name))
    {
        let name = String::from_utf8_lossy(name).into_owned();
        let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value)?;
        found.insert(name, value[..length].to_vec());
    }
    Ok(found)
}
