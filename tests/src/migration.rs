//! A migration by `hermitfs migrate`, from its start to its end.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::hermitfs::exit;
use crate::lab::Lab;
use crate::mounted::Mounted;
use crate::tree::Tree;

/// OLD, NEW, and the mount between them. Started by `migrate OLD NEW MOUNTPOINT --no-wait`.
pub struct Migration<'lab> {
    old: PathBuf,
    new: PathBuf,
    mounted: Mounted<'lab>,
    /// OLD, so that comparing leaves no atimes on it.
    view: PathBuf,
}

impl<'lab> Deref for Migration<'lab> {
    type Target = Mounted<'lab>;

    fn deref(&self) -> &Mounted<'lab> {
        &self.mounted
    }
}

impl DerefMut for Migration<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.mounted
    }
}

impl<'lab> Migration<'lab> {
    pub(crate) fn new(
        lab: &'lab Lab,
        old: &Path,
        new: &Path,
        mut mounted: Mounted<'lab>,
    ) -> Migration<'lab> {
        let paths = [old, new, mounted.path()].map(|path| path.into());
        let words = |words: &[&str]| words.iter().map(|word| word.into()).collect::<Vec<_>>();
        mounted
            .use_arguments([words(&["migrate"]), paths.to_vec(), words(&["--no-wait"])].concat());
        Migration {
            old: old.to_owned(),
            new: new.to_owned(),
            mounted,
            view: lab.quiet_view(old),
        }
    }

    /// Where users work.
    pub fn mount(&self) -> &Path {
        self.mounted.path()
    }

    /// The source.
    pub fn old(&self) -> &Path {
        &self.old
    }

    /// The sink.
    pub fn new_brick(&self) -> &Path {
        &self.new
    }

    /// Waits until everything is healed and the pair says that it is ready.
    #[track_caller]
    pub fn wait_ready(&self, at_most: Duration) {
        let mut last = None;
        let mut ready = || {
            let status = self.status();
            let done = status.is("ready") && status.number("pending") == 0;
            last = Some(status);
            done.then_some(())
        };
        let started = std::time::Instant::now();
        while ready().is_none() {
            if started.elapsed() > at_most {
                let errors = self.command("errors", &[]);
                let status = self.status().0;
                panic!(
                    "not ready after {at_most:?}: {status:#}\n{}{}",
                    errors.stdout, errors.stderr
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Both bricks must be equal while the pair is idle; our own directory on the sink, and the
    /// times of the directory that it stands in, are left out.
    #[track_caller]
    pub fn assert_bricks_equal(&self) {
        let old = Tree::of(&self.view);
        old.assert_equal(&Tree::of_sink(&self.new, &old));
    }

    /// `cutover`, after which the mount point is the new brick; everything is compared, and
    /// nothing of ours may be left.
    #[track_caller]
    pub fn cut_over(&mut self) {
        self.wait_ready(Duration::from_secs(120));
        self.command("cutover", &["--timeout", "20s"])
            .expect(exit::OK);
        self.daemon().wait_end(Duration::from_secs(30));
        let old = Tree::of(&self.view);
        old.assert_equal(&Tree::of(&self.new));
        old.assert_equal(&Tree::of(self.mount()));
        assert!(
            !self.new.join(".hermitfs").exists(),
            "our directory is still on the new brick"
        );
        assert_eq!(
            device_of(self.mount()),
            device_of(&self.new),
            "the mount point is not the new brick after the cut-over"
        );
        let left: Vec<_> = std::fs::read_dir(self.state_dir())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().contains('-')),
            "state is left after the cut-over: {left:?}"
        );
    }
}

fn device_of(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).unwrap();
    (meta.dev(), meta.ino())
}
