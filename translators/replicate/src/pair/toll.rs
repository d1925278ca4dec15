//! What it would cost to adopt a sink that is not empty: counted, by looking, before anything is
//! touched. To remove and to replace cannot be undone.

use std::fmt;
use std::sync::Arc;

use hermitfs_api::{Entry, Errno, Inode, Kind, Name, Result, Translator};

use crate::heal::{HEAL, MARKER_DIR};

/// Names, and the bytes of the files among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    fn add(&mut self, entry: &Entry) {
        self.objects += 1;
        if entry.inode.kind() == Kind::File {
            self.bytes += entry.attr.size.min(entry.attr.blocks.saturating_mul(512));
        }
    }

    /// Whether it is less than half of another one, in either respect.
    fn is_far_below(self, other: Amount) -> bool {
        self.objects.saturating_mul(2) < other.objects || self.bytes.saturating_mul(2) < other.bytes
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes as f64;
        let units = [
            (1_u64 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        write!(f, "{} objects, ", self.objects)?;
        match units.into_iter().find(|(unit, _)| self.bytes >= *unit) {
            Some((unit, name)) => write!(f, "{:.1} {name}", bytes / unit as f64),
            None => write!(f, "{} bytes", self.bytes),
        }
    }
}

/// What is on both sides, and what would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Toll {
    /// All that is on the source; counted no farther than the decision needs.
    pub(crate) source: Amount,
    /// All that is on the sink.
    pub(crate) sink: Amount,
    /// Of that, what the source does not have: to be removed.
    pub(crate) surplus: Amount,
    /// Of that, files that differ from the source's and were changed later than those: to be
    /// replaced by what is older.
    pub(crate) newer: Amount,
}

/// So much more is what an earlier copy has left, also where it is most of a small sink.
const STRAY: Amount = Amount {
    objects: 100,
    bytes: 64 << 20,
};

impl Toll {
    /// Why it is to be asked for once more, of the source; `None` when what goes is what an earlier copy leaves.
    pub(crate) fn alarm(&self) -> Option<&'static str> {
        let Toll {
            source,
            sink,
            surplus,
            newer,
        } = *self;
        let is_most =
            |part: u64, all: u64, stray: u64| part > stray && part.saturating_mul(2) > all;
        if surplus == Amount::default() && newer == Amount::default() {
            None
        } else if source.objects == 0 {
            Some("is empty: is its disk mounted?")
        } else if source.is_far_below(sink) {
            Some("is far smaller: are both given in the right order, and mounted?")
        } else if newer.objects > 0 {
            Some("has older files: are both given in the right order?")
        } else if is_most(surplus.objects, sink.objects, STRAY.objects)
            || is_most(surplus.bytes, sink.bytes, STRAY.bytes)
        {
            Some("has little in common with it: are these the right directories?")
        } else {
            None
        }
    }
}

/// A brick, and where in it we are.
type At<'a> = (&'a dyn Translator, Arc<Inode>);

/// Counts what the sink has, each name looked up on the source; then the source, as far as
/// needed. Nothing is changed.
pub(crate) async fn toll(source: At<'_>, sink: At<'_>) -> Result<Toll> {
    let mut toll = Toll::default();
    let ((old, source_root), (new, sink_root)) = (source, sink);
    // Directories of the sink, each with its counterpart if there is one.
    let mut open = vec![(sink_root, Some(source_root.clone()))];
    let mut at_root = true;
    while let Some((dir, counterpart)) = open.pop() {
        let mut from = 0;
        loop {
            let entries = new.readdir(&HEAL, &dir, from, 512, true).await?;
            let Some(last) = entries.last() else { break };
            from = last.next;
            for entry in entries {
                // `lost+found` of either file system is none of ours.
                let is_kept = at_root && matches!(&*entry.name, MARKER_DIR | b"lost+found");
                if entry.is_dots() || is_kept {
                    continue;
                }
                let Some(there) = &entry.entry else { continue };
                toll.sink.add(there);
                let same = match &counterpart {
                    Some(counterpart) => look(old, counterpart, &entry.name).await?,
                    None => None,
                };
                let same = same.filter(|same| same.inode.kind() == there.inode.kind());
                match &same {
                    None => toll.surplus.add(there),
                    Some(same) if is_newer(there, same) => toll.newer.add(there),
                    Some(_) => {}
                }
                if there.inode.kind() == Kind::Directory {
                    open.push((there.inode.clone(), same.map(|same| same.inode)));
                }
            }
        }
        at_root = false;
    }
    toll.source = count_up_to(old, source_root, toll.sink).await?;
    Ok(toll)
}

/// Whether a file of the sink is no copy of the source's, but a later state.
fn is_newer(sink: &Entry, source: &Entry) -> bool {
    sink.inode.kind() == Kind::File
        && sink.attr.size != source.attr.size
        && sink.attr.mtime > source.attr.mtime
}

async fn look(brick: &dyn Translator, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Entry>> {
    match brick.lookup(&HEAL, dir, Name::new(name)?).await {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// Counts until it is clear that it is not far below that.
async fn count_up_to(brick: &dyn Translator, root: Arc<Inode>, other: Amount) -> Result<Amount> {
    let mut found = Amount::default();
    let mut open = vec![root];
    let mut at_root = true;
    while let Some(dir) = open.pop() {
        let mut from = 0;
        loop {
            let entries = brick.readdir(&HEAL, &dir, from, 512, true).await?;
            let Some(last) = entries.last() else { break };
            from = last.next;
            for entry in entries {
                let is_kept = entry.is_dots() || at_root && *entry.name == *b"lost+found";
                let Some(there) = entry.entry.as_ref().filter(|_| !is_kept) else {
                    continue;
                };
                found.add(there);
                if there.inode.kind() == Kind::Directory {
                    open.push(there.inode.clone());
                }
            }
            if found.objects > 0 && !found.is_far_below(other) {
                return Ok(found);
            }
        }
        at_root = false;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(objects: u64, mib: u64) -> Amount {
        Amount {
            objects,
            bytes: mib << 20,
        }
    }

    fn alarm(source: Amount, sink: Amount, surplus: Amount, newer: Amount) -> &'static str {
        let toll = Toll {
            source,
            sink,
            surplus,
            newer,
        };
        toll.alarm().unwrap_or_default()
    }

    #[test]
    fn an_earlier_copy_with_what_was_deleted_since_is_taken() {
        let none = Amount::default();
        assert_eq!(
            alarm(amount(900, 90), amount(1000, 99), amount(120, 10), none),
            ""
        );
        assert_eq!(
            alarm(amount(5000, 90), amount(3, 1), amount(3, 1), none),
            ""
        );
        assert_eq!(alarm(amount(0, 0), amount(0, 0), none, none), "");
        // All of it is on the source as well: nothing can be lost.
        assert_eq!(alarm(amount(10, 1), amount(10, 1), none, none), "");
    }

    #[test]
    fn what_would_be_missed_is_asked_for_once_more() {
        let none = Amount::default();
        let all = amount(1000, 99);
        assert!(alarm(none, all, all, none).contains("mounted"));
        assert!(alarm(none, amount(1, 0), amount(1, 0), none).contains("empty"));
        assert!(alarm(amount(400, 99), all, amount(600, 9), none).contains("smaller"));
        assert!(alarm(amount(1000, 40), all, amount(1, 59), none).contains("smaller"));
        assert!(alarm(amount(1000, 99), all, none, amount(1, 0)).contains("older"));
        assert!(alarm(all, all, amount(600, 9), none).contains("little in common"));
        assert!(alarm(amount(9000, 999), amount(3, 200), amount(3, 200), none).contains("little"));
    }
}
