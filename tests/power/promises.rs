//! What the load was promised: a list on a disk that is not cut. A promise is written down after
//! the fsync that made it, and taken back before the operation that may break it begins.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes of a block that is overwritten in place.
pub(crate) const BLOCK: usize = 4096;

/// The list, being written.
pub(crate) struct Book {
    path: PathBuf,
    file: Mutex<File>,
}

impl Book {
    pub(crate) fn new(path: PathBuf) -> Book {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        Book {
            file: Mutex::new(file.unwrap()),
            path,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn length(&self) -> u64 {
        std::fs::metadata(&self.path).unwrap().len()
    }

    /// This name has exactly this content.
    pub(crate) fn file(&self, name: &str, size: usize, fill: u64) {
        self.say(format!("file {name} {size} {fill}"));
    }

    /// Nothing is promised of this name any more.
    pub(crate) fn taken_back(&self, name: &str) {
        self.say(format!("back {name}"));
    }

    /// This name has at least so much of its content.
    pub(crate) fn grown(&self, name: &str, size: u64) {
        self.say(format!("grown {name} {size}"));
    }

    /// This block has this version of its content, or a younger one.
    pub(crate) fn block(&self, name: &str, index: u64, version: u64) {
        self.say(format!("block {name} {index} {version}"));
    }

    fn say(&self, line: String) {
        let mut file = self.file.lock().unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// What was promised up to some moment.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    files: BTreeMap<String, (usize, u64)>,
    grown: BTreeMap<String, u64>,
    blocks: BTreeMap<(String, u64), u64>,
}

impl Promises {
    /// Of a book that was so long.
    pub(crate) fn read(book: &Path, length: u64) -> Promises {
        let mut text = String::new();
        let mut file = File::open(book).unwrap().take(length);
        file.read_to_string(&mut text).unwrap();
        // A line that was being written is as good as not written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut promises = Promises::default();
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |n: usize| words[n].parse::<u64>().unwrap();
            let name = words[1].to_owned();
            match words[0] {
                "file" => drop(promises.files.insert(name, (number(2) as usize, number(3)))),
                "back" => drop(promises.files.remove(&name)),
                "grown" => drop(promises.grown.insert(name, number(2))),
                _ => drop(promises.blocks.insert((name, number(2)), number(3))),
            }
        }
        promises
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len() + self.grown.len() + self.blocks.len()
    }

    /// Each promise that is broken below this directory.
    pub(crate) fn broken(&self, root: &Path) -> Vec<String> {
        let mut broken = Vec::new();
        for (name, (size, fill)) in &self.files {
            match std::fs::read(root.join(name)) {
                Ok(content) if content == pattern(*fill, *size) => {}
                Ok(content) => broken.push(format!(
                    "{name} has {} bytes of another content than the {size} that were synced",
                    content.len()
                )),
                Err(error) => broken.push(format!("{name}: {error}")),
            }
        }
        for (name, size) in &self.grown {
            let content = std::fs::read(root.join(name)).unwrap_or_default();
            let wanted = pattern(GROWING, *size as usize);
            if !content.starts_with(&wanted) {
                let length = content.len();
                broken.push(format!(
                    "{name}: {size} bytes were synced, {length} are there"
                ));
            }
        }
        for ((name, index), version) in &self.blocks {
            let mut content = vec![0; BLOCK];
            let read = File::open(root.join(name))
                .and_then(|file| file.read_exact_at(&mut content, index * BLOCK as u64));
            let found = u64::from_le_bytes(content[..8].try_into().unwrap());
            if read.is_err() || found < *version || content != block(*index, found) {
                broken.push(format!(
                    "block {index} of {name}: version {version} was synced, {found} is there ({read:?})"
                ));
            }
        }
        broken
    }
}

/// The fill of files that grow.
pub(crate) const GROWING: u64 = 11;

/// Content that is known by two numbers; that of a shorter one is its beginning.
pub(crate) fn pattern(fill: u64, size: usize) -> Vec<u8> {
    let mut state = fill.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A version of a block.
pub(crate) fn block(index: u64, version: u64) -> Vec<u8> {
    let mut block = pattern(index.wrapping_mul(1 << 32) + version, BLOCK);
    block[..8].copy_from_slice(&version.to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_found_and_one_taken_back_is_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content);
        let book = Book::new(dir.path().join("book"));
        let none = book.length();
        book.file("whole", 100, 5);
        book.file("gone", 100, 6);
        book.grown("log", 50);
        book.block("blocks", 1, 7);
        let at = book.length();
        book.taken_back("gone");
        write("whole", &pattern(5, 100)).unwrap();
        write("log", &pattern(GROWING, 60)).unwrap();
        write("blocks", &[block(0, 0), block(1, 8)].concat()).unwrap();
        let broken = |length| Promises::read(book.path(), length).broken(dir.path());
        assert_eq!(broken(none), Vec::<String>::new());
        assert_eq!(broken(book.length()), Vec::<String>::new());
        assert_eq!(
            broken(book.length() - 1).len(),
            1,
            "half a line counts as none"
        );
        assert_eq!(broken(at).len(), 1, "it was promised then");
        write("whole", &pattern(4, 100)).unwrap();
        write("log", &pattern(GROWING, 49)).unwrap();
        write("blocks", &[block(0, 0), block(1, 6)].concat()).unwrap();
        assert_eq!(broken(book.length()).len(), 3);
        write(
            "blocks",
            &[
                block(0, 0),
                [block(1, 8)[..99].to_vec(), vec![0; 3997]].concat(),
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(broken(book.length()).len(), 3, "half a block");
    }
}
