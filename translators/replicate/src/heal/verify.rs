//! What a verification finds: differences where the sink was thought to be equal.
//!
//! `heal --full` looks at all once more. What has a mark is known to differ, and says nothing; anything else that
//! differs was changed beside us, or by a disk, or a mistake of ours, and whoever asked is told. It is made equal all the same.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use hermitfs_api::{Attr, Inode, Kind};
use parking_lot::Mutex;

use super::meta::read_xattrs;
use super::{HEAL, Healer};
use crate::record::Oid;
use crate::trouble::{Blame, Step};

/// So many differences are told by name; further ones are counted.
const NAMED: usize = 1000;

/// Inode flags that all file systems with flags have: sync, immutable, append-only, nodump, noatime (ioctl_iflags(2)).
const COMPARED: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80;

/// What has been compared so far, by all verifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) different: u64,
}

impl Compared {
    /// Since that was so.
    pub(crate) fn since(self, before: Compared) -> Compared {
        Compared {
            objects: self.objects - before.objects,
            bytes: self.bytes - before.bytes,
            different: self.different - before.different,
        }
    }
}

/// Counts and names of what was found.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    so_far: Compared,
    /// The latest, by their number.
    named: VecDeque<(u64, Vec<u8>, String)>,
    /// What had been compared when the verification that is under way was asked for.
    under_way: Option<Compared>,
    /// Files that are being compared, and where their content was found to differ.
    content: HashMap<Oid, Option<u64>>,
    /// Files that somebody has asked for alone.
    asked: HashSet<Oid>,
}

impl Findings {
    /// A verification is asked for; what was compared before.
    pub(crate) fn begin(&self) -> Compared {
        let mut state = self.0.lock();
        let so_far = state.so_far;
        state.under_way.get_or_insert(so_far);
        so_far
    }

    /// Nothing is left to be walked: what the verification came to, for the log.
    pub(crate) fn conclude(&self) -> Option<Compared> {
        let mut state = self.0.lock();
        if !state.asked.is_empty() {
            return None;
        }
        let before = state.under_way.take()?;
        Some(state.so_far.since(before))
    }

    pub(crate) fn so_far(&self) -> Compared {
        self.0.lock().so_far
    }

    /// Paths and what was different, of those that were found since.
    pub(crate) fn named_since(&self, before: Compared) -> Vec<(Vec<u8>, String)> {
        let state = self.0.lock();
        let later = state.named.iter().filter(|(n, ..)| *n > before.different);
        later
            .map(|(_, path, what)| (path.clone(), what.clone()))
            .collect()
    }

    fn compared(&self, attr: &Attr) {
        let mut state = self.0.lock();
        state.so_far.objects += 1;
        if attr.kind == Kind::File {
            state.so_far.bytes += attr.size.min(attr.blocks * 512);
        }
    }

    /// Whether this one is still to be told by name.
    fn found(&self, path: &[u8], what: &str) -> bool {
        let mut state = self.0.lock();
        state.so_far.different += 1;
        let number = state.so_far.different;
        let first = state.under_way.unwrap_or_default().different;
        if number - first > NAMED as u64 {
            return false;
        }
        if state.named.len() >= NAMED {
            state.named.pop_front();
        }
        state
            .named
            .push_back((number, path.to_vec(), what.to_owned()));
        true
    }

    /// A file's content is about to be compared.
    fn look_into(&self, oid: Oid) {
        self.0.lock().content.insert(oid, None);
    }

    /// It differs here.
    pub(super) fn differs(&self, oid: Oid, at: u64) {
        if let Some(first) = self.0.lock().content.get_mut(&oid) {
            *first = Some(first.map_or(at, |first| first.min(at)));
        }
    }

    fn looked_into(&self, oid: Oid) -> Option<u64> {
        self.0.lock().content.remove(&oid).flatten()
    }

    /// A file that somebody wants to have compared.
    pub(crate) fn ask_for(&self, oid: Oid) {
        self.0.lock().asked.insert(oid);
    }

    pub(super) fn is_asked_for(&self, oid: Oid) -> bool {
        let state = self.0.lock();
        !state.asked.is_empty() && state.asked.contains(&oid)
    }

    pub(super) fn was_asked_for(&self, oid: Oid) {
        self.0.lock().asked.remove(&oid);
    }
}

/// One object under verification: what its attributes differ in.
pub(super) struct Looked {
    inode: Arc<Inode>,
    attr: Attr,
    unlike: Vec<&'static str>,
}

impl Healer {
    /// Looks at an object before it is made equal.
    pub(super) async fn verify(
        &self,
        source: &Arc<Inode>,
        attr: &Attr,
        image: &Arc<Inode>,
    ) -> Step<Looked> {
        let oid = Oid::from(source.identity());
        let there = self.sink.getattr(&HEAL, image, None).await;
        let there = there.at_sink("read attributes")?;
        let mut unlike = Vec::new();
        if attr.kind == Kind::File && there.size != attr.size {
            unlike.push("size");
        }
        if attr.kind != Kind::Symlink && there.mode != attr.mode {
            unlike.push("mode");
        }
        if (there.uid, there.gid) != (attr.uid, attr.gid) {
            unlike.push("owner");
        }
        // Our own directory stands in the root.
        if there.mtime != attr.mtime && !self.is_source_root(source) {
            unlike.push("time");
        }
        let mut xattrs = read_xattrs(&*self.sink, image)
            .await
            .at_sink("read xattrs")?;
        let wanted = read_xattrs(&*self.source, source)
            .await
            .at_source("read xattrs")?;
        // The sink's own security module puts it on everything.
        if !wanted.contains_key(&b"security.selinux"[..]) {
            xattrs.remove(&b"security.selinux"[..]);
        }
        if xattrs != wanted {
            unlike.push("extended attributes");
        }
        if matches!(attr.kind, Kind::File | Kind::Directory) {
            let flags = self.source_fsx(source).await?.flags;
            let its = self.sink.get_flags(&HEAL, image).await.unwrap_or(flags);
            if (its ^ flags) & COMPARED != 0 {
                unlike.push("flags");
            }
        }
        self.findings.look_into(oid);
        Ok(Looked {
            inode: source.clone(),
            attr: *attr,
            unlike,
        })
    }

    /// It was made equal. `untouched` when no user has changed it meanwhile: otherwise nothing is known of before.
    pub(super) async fn verified(&self, looked: Looked, untouched: bool) {
        let content = self
            .findings
            .looked_into(Oid::from(looked.inode.identity()));
        if !untouched {
            return;
        }
        self.findings.compared(&looked.attr);
        let mut what: Vec<String> = looked
            .unlike
            .iter()
            .map(|what| (*what).to_owned())
            .collect();
        if let Some(at) = content {
            what.insert(0, format!("content (from byte {at} on)"));
        }
        if !what.is_empty() {
            let path = self.told_path(&looked.inode).await;
            self.tell(if path.is_empty() { b"/" } else { &path }, &what.join(", "));
        }
    }

    /// A name differs as a whole.
    pub(super) async fn found_name(&self, dir: &Arc<Inode>, name: &[u8], what: &str) {
        let mut path = self.told_path(dir).await;
        path.push(b'/');
        path.extend_from_slice(name);
        self.tell(&path, what);
    }

    /// Where an object is; empty for the root.
    async fn told_path(&self, inode: &Arc<Inode>) -> Vec<u8> {
        match self.source.locate(&HEAL, inode).await {
            Ok(location) => {
                let names = location.path.iter();
                names
                    .flat_map(|name| [b"/", name.as_bytes()].concat())
                    .collect()
            }
            Err(_) => b"?".to_vec(),
        }
    }

    fn tell(&self, path: &[u8], what: &str) {
        if self.findings.found(path, what) {
            let path = path.escape_ascii();
            tracing::warn!(
                "{path} differed on the new brick, where it was thought equal: {what}; it is made equal"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verification_is_told_its_own_differences_and_no_more_than_can_be_read() {
        let findings = Findings::default();
        findings.begin();
        assert!(findings.found(b"/old", "size"));
        assert_eq!(findings.conclude().map(|found| found.different), Some(1));
        assert_eq!(findings.conclude(), None);
        let before = findings.begin();
        for n in 0..2 * NAMED {
            assert_eq!(findings.found(b"/new", "mode"), n < NAMED);
        }
        let named = findings.named_since(before);
        assert_eq!(named.len(), NAMED);
        assert!(named.iter().all(|(path, _)| path == b"/new"));
        assert_eq!(findings.so_far().since(before).different, 2 * NAMED as u64);
    }

    #[test]
    fn content_that_differs_is_known_by_its_first_byte_while_it_is_looked_at() {
        let (findings, file) = (Findings::default(), Oid(1, 1));
        findings.differs(file, 5);
        assert_eq!(findings.looked_into(file), None);
        findings.look_into(file);
        findings.differs(file, 9);
        findings.differs(file, 5);
        assert_eq!(findings.looked_into(file), Some(5));
    }
}
