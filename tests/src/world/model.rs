//! The reference: a tree in memory that answers as a Linux file system does.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::operation::Operation;
use crate::odd::acl;

/// An object's number in the model.
pub(super) type Id = u64;

/// What an object is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A file and its bytes.
    File(Vec<u8>),
    /// A directory and its entries.
    Directory(BTreeMap<String, Id>),
    /// A symbolic link and its target.
    Symlink(String),
    /// A named pipe.
    Fifo,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub body: Body,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names, of what is no directory.
    pub nlink: u32,
    /// Extended attributes, the access ACL among them.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The named entries of the access ACL, from which its xattr follows with the mode.
    acl: Option<Vec<(u16, u16, Option<u32>)>>,
}

impl Object {
    fn new(body: Body, mode: u32) -> Object {
        let nlink = if matches!(body, Body::Directory(_)) {
            0
        } else {
            1
        };
        Object {
            body,
            mode,
            uid: 0,
            gid: 0,
            nlink,
            xattrs: BTreeMap::new(),
            acl: None,
        }
    }

    /// As it was found on disk.
    pub(super) fn found(
        body: Body,
        mode: u32,
        owner: (u32, u32),
        nlink: u32,
        xattrs: BTreeMap<String, Vec<u8>>,
    ) -> Object {
        Object {
            body,
            mode,
            uid: owner.0,
            gid: owner.1,
            nlink,
            xattrs,
            acl: None,
        }
    }

    /// The same object, whatever the model knows of how it came to be.
    pub fn looks_like(&self, found: &Object) -> bool {
        let same_body = match (&self.body, &found.body) {
            (Body::Directory(a), Body::Directory(b)) => a.keys().eq(b.keys()),
            (a, b) => a == b,
        };
        same_body
            && (self.mode, self.uid, self.gid, self.nlink)
                == (found.mode, found.uid, found.gid, found.nlink)
            && self.xattrs == found.xattrs
    }

    fn acl_follows(&mut self) {
        match &self.acl {
            Some(named) => {
                self.xattrs.insert(
                    "system.posix_acl_access".into(),
                    acl(named, self.mode as u16),
                );
            }
            None => {
                self.xattrs.remove("system.posix_acl_access");
            }
        }
    }
}

/// A tree of objects.
#[derive(Clone, Debug)]
pub struct Model {
    objects: BTreeMap<Id, Object>,
    next: Id,
    /// Descriptors that are kept open, by slot.
    pub(super) held: BTreeMap<usize, Id>,
}

/// The root's number.
pub(super) const ROOT: Id = 0;

type Answer<T> = Result<T, Errno>;

impl Default for Model {
    fn default() -> Model {
        Model {
            objects: BTreeMap::from([(ROOT, Object::new(Body::Directory(BTreeMap::new()), 0o755))]),
            next: ROOT + 1,
            held: BTreeMap::new(),
        }
    }
}

impl Model {
    /// Every path with its object's number, the root (an empty path) first, parents before children.
    pub fn paths(&self) -> Vec<(String, Id)> {
        let mut found = vec![(String::new(), ROOT)];
        let mut at = 0;
        while at < found.len() {
            let (path, id) = found[at].clone();
            if let Body::Directory(entries) = &self.object(id).body {
                found.extend(entries.iter().map(|(name, id)| (join(&path, name), *id)));
            }
            at += 1;
        }
        found
    }

    /// An object by number.
    pub fn object(&self, id: Id) -> &Object {
        &self.objects[&id]
    }

    /// An object by path.
    pub fn find(&self, path: &str) -> Answer<Id> {
        let mut id = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Body::Directory(entries) = &self.object(id).body else {
                return Err(Errno::NOTDIR);
            };
            id = *entries.get(name).ok_or(Errno::NOENT)?;
        }
        Ok(id)
    }

    /// A file's bytes by path.
    pub fn file(&self, path: &str) -> Answer<&Vec<u8>> {
        match &self.object(self.find(path)?).body {
            Body::File(data) => Ok(data),
            Body::Directory(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// A held file's bytes.
    pub fn held_file(&self, slot: usize) -> Option<&Vec<u8>> {
        match &self.object(*self.held.get(&slot)?).body {
            Body::File(data) => Some(data),
            _ => None,
        }
    }

    /// Puts what was found on disk in the place of a file's bytes.
    pub(super) fn accept_content(&mut self, path: &str, data: Vec<u8>) {
        if let Ok(id) = self.find(path) {
            self.object_mut(id).body = Body::File(data);
        }
    }

    /// All descriptors are closed.
    pub fn release_all(&mut self) {
        self.held.clear();
        self.objects.retain(|id, object| {
            *id == ROOT || matches!(object.body, Body::Directory(_)) || object.nlink > 0
        });
    }

    /// Adds an object that was found on disk.
    pub(super) fn insert_found(
        &mut self,
        parent: Id,
        name: &str,
        known: Option<Id>,
        object: Object,
    ) -> Id {
        let id = known.unwrap_or_else(|| {
            let id = self.next;
            self.next += 1;
            self.objects.insert(id, object);
            id
        });
        if let Body::Directory(entries) = &mut self.object_mut(parent).body {
            entries.insert(name.to_owned(), id);
        }
        id
    }

    /// The root as it was found on disk.
    pub(super) fn root_found(&mut self, object: Object) {
        self.objects.insert(ROOT, object);
    }

    fn object_mut(&mut self, id: Id) -> &mut Object {
        self.objects.get_mut(&id).expect("an id of this model")
    }

    fn parent<'p>(&self, path: &'p str) -> Answer<(Id, &'p str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let id = self.find(dir)?;
        if !matches!(self.object(id).body, Body::Directory(_)) {
            return Err(Errno::NOTDIR);
        }
        Ok((id, name))
    }

    fn entries(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.object_mut(id).body {
            Body::Directory(entries) => entries,
            _ => unreachable!("parent() gave a directory"),
        }
    }

    fn add(&mut self, path: &str, object: Object) -> Answer<()> {
        let (parent, name) = self.parent(path)?;
        if self.entries(parent).contains_key(name) {
            return Err(Errno::EXIST);
        }
        let id = self.next;
        self.next += 1;
        self.objects.insert(id, object);
        self.entries(parent).insert(name.to_owned(), id);
        Ok(())
    }

    fn drop_name(&mut self, id: Id) {
        let held = self.held.values().any(|held| *held == id);
        let object = self.object_mut(id);
        object.nlink = object.nlink.saturating_sub(1);
        if object.nlink == 0 && !held {
            self.objects.remove(&id);
        }
    }

    fn change(&mut self, id: Id, at: usize, bytes: &[u8], grow: bool) {
        if let Body::File(data) = &mut self.object_mut(id).body {
            if grow && data.len() < at + bytes.len() {
                data.resize(at + bytes.len(), 0);
            }
            let end = data.len().min(at + bytes.len());
            if at < end {
                data[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
    }

    fn resize(&mut self, id: Id, len: usize) {
        if let Body::File(data) = &mut self.object_mut(id).body {
            data.resize(len, 0);
        }
    }

    fn file_id(&self, path: &str) -> Answer<Id> {
        self.file(path)?;
        self.find(path)
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.object(id).body, Body::Directory(_))
    }

    fn is_empty_directory(&self, id: Id) -> bool {
        matches!(&self.object(id).body, Body::Directory(entries) if entries.is_empty())
    }

    fn rename(&mut self, from: &str, to: &str, replace: bool) -> Answer<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let moved = *self.entries(from_dir).get(from_name).ok_or(Errno::NOENT)?;
        let target = self.entries(to_dir).get(to_name).copied();
        if target.is_some() && !replace {
            return Err(Errno::EXIST);
        }
        if is_above(from, to) {
            return Err(Errno::INVAL);
        }
        if is_above(to, from) {
            return Err(Errno::NOTEMPTY);
        }
        if let Some(target) = target {
            if target == moved {
                return Ok(());
            }
            match (self.is_directory(moved), self.is_directory(target)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.is_empty_directory(target) => return Err(Errno::NOTEMPTY),
                (true, true) => drop(self.objects.remove(&target)),
                (false, false) => self.drop_name(target),
            }
        }
        self.entries(from_dir).remove(from_name);
        self.entries(to_dir).insert(to_name.to_owned(), moved);
        Ok(())
    }

    /// Does an operation, or says with which error Linux answers it.
    pub fn apply(&mut self, operation: &Operation) -> Answer<()> {
        use Operation::*;
        match operation {
            Create { path, mode } => self.add(path, Object::new(Body::File(Vec::new()), *mode)),
            Mkdir { path, mode } => {
                self.add(path, Object::new(Body::Directory(BTreeMap::new()), *mode))
            }
            Symlink { path, target } => {
                self.add(path, Object::new(Body::Symlink(target.clone()), 0o777))
            }
            Fifo { path, mode } => self.add(path, Object::new(Body::Fifo, *mode)),
            Write {
                path,
                at,
                len,
                fill,
            } => {
                let id = self.file_id(path)?;
                self.change(id, *at, &Operation::bytes(*fill, *len), true);
                Ok(())
            }
            Append { path, len, fill } => {
                let (id, end) = (self.file_id(path)?, self.file(path)?.len());
                self.change(id, end, &Operation::bytes(*fill, *len), true);
                Ok(())
            }
            Overwrite { path, len, fill } => {
                let id = self.file_id(path)?;
                self.object_mut(id).body = Body::File(Operation::bytes(*fill, *len));
                Ok(())
            }
            Truncate { path, len } => {
                let id = self.file_id(path)?;
                self.resize(id, *len);
                Ok(())
            }
            Punch { path, at, len } => {
                let id = self.file_id(path)?;
                self.change(id, *at, &vec![0; *len], false);
                Ok(())
            }
            Zero { path, at, len } => {
                let id = self.file_id(path)?;
                self.change(id, *at, &vec![0; *len], true);
                Ok(())
            }
            Map {
                path,
                at,
                len,
                fill,
            } => {
                let id = self.file_id(path)?;
                self.change(id, *at, &Operation::bytes(*fill, *len), false);
                Ok(())
            }
            CopyRange { from, to, at, len } => {
                let bytes: Vec<u8> = self.file(from)?.iter().take(*len).copied().collect();
                let id = self.file_id(to)?;
                self.change(id, *at, &bytes, !bytes.is_empty());
                Ok(())
            }
            Fsync { path } => self.find(path).map(drop),
            Rename { from, to } => self.rename(from, to, true),
            RenameNoReplace { from, to } => self.rename(from, to, false),
            Exchange { a, b } => {
                let (a_dir, a_name) = self.parent(a)?;
                let (b_dir, b_name) = self.parent(b)?;
                let (a_id, b_id) = (self.find(a)?, self.find(b)?);
                if is_above(a, b) || is_above(b, a) {
                    return Err(Errno::INVAL);
                }
                self.entries(a_dir).insert(a_name.to_owned(), b_id);
                self.entries(b_dir).insert(b_name.to_owned(), a_id);
                Ok(())
            }
            Link { from, to } => {
                let id = self.find(from)?;
                let (parent, name) = self.parent(to)?;
                if self.entries(parent).contains_key(name) {
                    return Err(Errno::EXIST);
                }
                if self.is_directory(id) {
                    return Err(Errno::PERM);
                }
                self.object_mut(id).nlink += 1;
                self.entries(parent).insert(name.to_owned(), id);
                Ok(())
            }
            Unlink { path } => {
                let id = self.find(path)?;
                if self.is_directory(id) {
                    return Err(Errno::ISDIR);
                }
                let (parent, name) = self.parent(path)?;
                self.entries(parent).remove(name);
                self.drop_name(id);
                Ok(())
            }
            Rmdir { path } => {
                let id = self.find(path)?;
                if !self.is_directory(id) {
                    return Err(Errno::NOTDIR);
                }
                if !self.is_empty_directory(id) {
                    return Err(Errno::NOTEMPTY);
                }
                let (parent, name) = self.parent(path)?;
                self.entries(parent).remove(name);
                self.objects.remove(&id);
                Ok(())
            }
            Chmod { path, mode } => {
                let id = self.find(path)?;
                let object = self.object_mut(id);
                object.mode = *mode;
                object.acl_follows();
                Ok(())
            }
            Chown { path, uid, gid } => {
                let id = self.find(path)?;
                let object = self.object_mut(id);
                (object.uid, object.gid) = (*uid, *gid);
                Ok(())
            }
            Times { path, .. } => self.find(path).map(drop),
            SetXattr {
                path,
                name,
                len,
                fill,
            } => {
                let id = self.find(path)?;
                self.object_mut(id)
                    .xattrs
                    .insert(name.clone(), Operation::bytes(*fill, *len));
                Ok(())
            }
            RemoveXattr { path, name } => {
                let id = self.find(path)?;
                self.object_mut(id)
                    .xattrs
                    .remove(name)
                    .map(drop)
                    .ok_or(Errno::NODATA)
            }
            SetAcl {
                path,
                user,
                permissions,
                mode,
            } => {
                let id = self.find(path)?;
                let object = self.object_mut(id);
                object.mode = *mode;
                object.acl = Some(vec![(0x02, *permissions, Some(*user))]);
                object.acl_follows();
                Ok(())
            }
            RemoveAcl { path } => {
                let id = self.find(path)?;
                let object = self.object_mut(id);
                object.acl = None;
                object.acl_follows();
                Ok(())
            }
            Hold { path, slot } => {
                let id = self.file_id(path)?;
                self.held.insert(*slot, id);
                Ok(())
            }
            HeldWrite {
                slot,
                at,
                len,
                fill,
            } => {
                let id = *self.held.get(slot).ok_or(Errno::BADF)?;
                self.change(id, *at, &Operation::bytes(*fill, *len), true);
                Ok(())
            }
            HeldTruncate { slot, len } => {
                let id = *self.held.get(slot).ok_or(Errno::BADF)?;
                self.resize(id, *len);
                Ok(())
            }
            HeldClose { slot } => {
                let id = self.held.remove(slot).ok_or(Errno::BADF)?;
                let kept = self.held.values().any(|held| *held == id);
                if self.object(id).nlink == 0 && !kept {
                    self.objects.remove(&id);
                }
                Ok(())
            }
        }
    }

    /// The first thing in which what was found differs; `None` when it is all there.
    pub fn difference(&self, found: &Model) -> Option<String> {
        let theirs: BTreeMap<String, Id> = found.paths().into_iter().collect();
        let mine: BTreeMap<String, Id> = self.paths().into_iter().collect();
        for (path, id) in &mine {
            let Some(other) = theirs.get(path) else {
                return Some(format!("{path:?} is missing"));
            };
            let (expected, seen) = (self.object(*id), found.object(*other));
            if !expected.looks_like(seen) {
                return Some(format!(
                    "{path:?} is {}, expected {}",
                    describe(seen),
                    describe(expected)
                ));
            }
        }
        let extra = theirs.keys().find(|path| !mine.contains_key(*path));
        if let Some(path) = extra {
            return Some(format!("{path:?} should not be there"));
        }
        // The same names must be links to each other.
        let mut pairs: BTreeMap<Id, Id> = BTreeMap::new();
        for (path, id) in &mine {
            if *pairs.entry(*id).or_insert(theirs[path]) != theirs[path] {
                return Some(format!("{path:?} is no longer a link to the others"));
            }
        }
        None
    }
}

/// An object in few words.
pub(super) fn describe(object: &Object) -> String {
    let body = match &object.body {
        Body::File(data) => format!(
            "a file of {} bytes ({})",
            data.len(),
            &blake3::hash(data).to_hex()[..8]
        ),
        Body::Directory(entries) => {
            format!("a directory of {:?}", entries.keys().collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    };
    let xattrs: Vec<_> = object
        .xattrs
        .iter()
        .map(|(name, value)| format!("{name}={} bytes", value.len()))
        .collect();
    format!(
        "{body}, mode {:o}, {}:{}, {} names, {xattrs:?}",
        object.mode, object.uid, object.gid, object.nlink
    )
}

/// Joins a name to a path of the model.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

fn is_above(directory: &str, path: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with('/'))
}
