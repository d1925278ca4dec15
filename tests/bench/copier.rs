//! A bare parallel copier: what the disks give when nothing but content, owner, mode and times is
//! carried over, and nobody works beside it.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

/// Eight readers keep a disk busy; more add nothing.
const WORKERS: usize = 8;

#[derive(Default)]
struct Queue {
    directories: Mutex<Vec<PathBuf>>,
    more: Condvar,
    open: AtomicUsize,
}

impl Queue {
    fn push(&self, directory: PathBuf) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.directories.lock().unwrap().push(directory);
        self.more.notify_one();
    }

    fn next(&self) -> Option<PathBuf> {
        let mut directories = self.directories.lock().unwrap();
        loop {
            if let Some(directory) = directories.pop() {
                return Some(directory);
            }
            if self.open.load(Ordering::SeqCst) == 0 {
                return None;
            }
            directories = self.more.wait(directories).unwrap();
        }
    }

    fn done(&self) {
        // Under the lock, or somebody who is about to wait would miss the end.
        let _directories = self.directories.lock().unwrap();
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.more.notify_all();
        }
    }
}

/// Copies a tree of directories and plain files, to the last sync.
pub(crate) fn copy(from: &Path, to: &Path) {
    let queue = Queue::default();
    queue.push(PathBuf::new());
    let copied: Mutex<Vec<(PathBuf, Metadata)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut buffer = vec![0; 128 << 10];
                while let Some(directory) = queue.next() {
                    let meta = one(from, to, &directory, &queue, &mut buffer).unwrap();
                    copied.lock().unwrap().push((directory, meta));
                    queue.done();
                }
            });
        }
    });
    // A directory's times after its last entry.
    for (directory, meta) in copied.into_inner().unwrap() {
        File::open(to.join(directory))
            .and_then(|it| it.set_times(times(&meta)))
            .unwrap();
    }
    rustix::fs::syncfs(File::open(to).unwrap()).unwrap();
}

fn one(
    from: &Path,
    to: &Path,
    directory: &Path,
    queue: &Queue,
    buffer: &mut [u8],
) -> io::Result<Metadata> {
    let (from, to) = (from.join(directory), to.join(directory));
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if directory.as_os_str().is_empty() && name == "lost+found" {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            queue.push(directory.join(&name));
            continue;
        }
        let mut source = File::open(entry.path())?;
        let mut sink = File::create_new(&target)?;
        loop {
            let length = source.read(buffer)?;
            if length == 0 {
                break;
            }
            sink.write_all(&buffer[..length])?;
        }
        let meta = source.metadata()?;
        fchown(&sink, Some(meta.uid()), Some(meta.gid()))?;
        sink.set_permissions(meta.permissions())?;
        sink.set_times(times(&meta))?;
    }
    let meta = fs::metadata(&from)?;
    lchown(&to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode()))?;
    Ok(meta)
}

fn times(meta: &Metadata) -> FileTimes {
    FileTimes::new()
        .set_accessed(meta.accessed().unwrap())
        .set_modified(meta.modified().unwrap())
}
