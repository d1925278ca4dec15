//! What the healer stands on: the sink's root and staging space, and whether they bear.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hermitfs_api::{Errno, Inode, NameBuf, OpenFlags, Result};

use super::{HEAL, Healer};
use crate::trouble::{Setback, Side, Trouble};

/// Of the sink; all of it goes when the sink is let go.
#[derive(Clone, Debug)]
pub(crate) struct Footing {
    pub(crate) root: Arc<Inode>,
    pub(crate) staging: Arc<Inode>,
}

impl Healer {
    /// The sink's root. ENODEV while the sink is let go.
    pub(crate) fn sink_root(&self) -> Result<Arc<Inode>> {
        self.footing(|footing| footing.root.clone())
    }

    /// Its staging space.
    pub(super) fn staging(&self) -> Result<Arc<Inode>> {
        self.footing(|footing| footing.staging.clone())
    }

    fn footing<T>(&self, of: impl FnOnce(&Footing) -> T) -> Result<T> {
        let footing = self.footing.read();
        footing.as_ref().map(of).ok_or(Errno::ENODEV.into())
    }

    /// Works here from now on, or nowhere.
    pub(crate) fn stand_on(&self, footing: Option<Footing>) {
        *self.footing.write() = footing;
        self.forget_ways();
    }

    /// An object of the sink that cannot be used may be all that is wrong, or the first sign that
    /// everything is: what was written last tells.
    pub(super) async fn weigh(&self, setback: Setback) -> Setback {
        let Setback::Object(trouble) = setback else {
            return setback;
        };
        let sign = trouble.side == Side::Sink
            && trouble.errno.is_some_and(|errno| {
                [Errno::EIO, Errno::EUCLEAN, Errno::ENXIO, Errno::ESTALE].contains(&errno)
            });
        if !sign {
            return Setback::Object(trouble);
        }
        match self.probe().await {
            Ok(()) => Setback::Object(trouble),
            Err(error) => {
                tracing::debug!(%error, "the sink does not bear");
                Setback::Sink(Trouble {
                    count: 1,
                    ..trouble
                })
            }
        }
    }

    /// Makes a file in the staging space, puts it on the disk, and takes it away.
    async fn probe(&self) -> Result<()> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let name = NameBuf::new(format!("probe-{number}").as_bytes())?;
        let staging = self.staging()?;
        let made = self
            .sink
            .create(&HEAL, &staging, &name, OpenFlags::WRITE, 0o600, 0)
            .await;
        let file = match made {
            Ok((_, file)) => file,
            // It has no room: a trouble of its own, which writing will tell.
            Err(error) if matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut done = self.sink.write(&HEAL, &file, 0, b"probe").await.map(drop);
        if done.is_ok() {
            done = self.sink.fsync(&HEAL, &file, false).await;
        }
        drop(self.sink.release(&HEAL, &file).await);
        let gone = self.sink.unlink(&HEAL, &staging, &name).await;
        done.and(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use hermitfs_api::{
        Context, Entry, Error, File, Filter, Name, Translator, async_trait, block_on,
    };
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::between;
    use crate::heal::data::Before;
    use crate::ranges::Ranges;

    /// A sink that can die, and counts what is written.
    struct Sink {
        below: Memory,
        dead: AtomicBool,
        writes: AtomicU64,
    }

    #[async_trait]
    impl Filter for Sink {
        fn below(&self) -> &dyn Translator {
            &self.below
        }

        async fn create(
            &self,
            cx: &Context,
            dir: &Arc<Inode>,
            name: &Name,
            flags: OpenFlags,
            mode: u32,
            umask: u32,
        ) -> Result<(Entry, Arc<File>)> {
            match self.dead.load(Ordering::Relaxed) {
                true => Err(Errno::EROFS.into()),
                false => self.below.create(cx, dir, name, flags, mode, umask).await,
            }
        }

        async fn write(
            &self,
            cx: &Context,
            file: &Arc<File>,
            at: u64,
            data: &[u8],
        ) -> Result<usize> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.below.write(cx, file, at, data).await
        }
    }

    fn healer() -> (Healer, Arc<Sink>) {
        let sink = Arc::new(Sink {
            below: Memory::with_dev(2),
            dead: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        });
        (between(Arc::new(Memory::with_dev(1)), sink.clone()), sink)
    }

    fn eio(side: Side) -> Setback {
        Setback::Object(Trouble::new(side, "write", &Error::new(Errno::EIO)))
    }

    #[test]
    fn an_error_is_the_objects_own_while_the_sink_bears_and_the_sinks_when_it_does_not() {
        let (healer, sink) = healer();
        let weigh = |setback| block_on(healer.weigh(setback));
        assert!(matches!(weigh(eio(Side::Sink)), Setback::Object(_)));
        let staging = healer.staging().unwrap();
        let left = block_on(crate::heal::list(&*sink, &staging)).unwrap();
        assert!(left.is_empty(), "the probe is gone");
        sink.dead.store(true, Ordering::Relaxed);
        match weigh(eio(Side::Sink)) {
            Setback::Sink(trouble) => {
                assert_eq!(trouble.errno, Some(Errno::EIO), "what came first")
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(weigh(eio(Side::Source)), Setback::Object(_)));
        healer.stand_on(None);
        assert!(matches!(weigh(eio(Side::Sink)), Setback::Sink(_)));
    }

    #[test]
    fn after_a_failed_sync_what_reads_equal_is_written_all_the_same() {
        let (healer, sink) = healer();
        let file = |brick: &dyn Translator, root: &Arc<Inode>| {
            let name = Name::new(b"file").unwrap();
            let flags = OpenFlags::READ_WRITE;
            let (_, file) = block_on(brick.create(&HEAL, root, name, flags, 0o600, 0)).unwrap();
            block_on(brick.write(&HEAL, &file, 0, b"the same")).unwrap();
            file
        };
        let from = file(&*healer.source, &healer.source_root);
        let to = file(&*sink, &healer.sink_root().unwrap());
        let compare = || {
            sink.writes.store(0, Ordering::Relaxed);
            let all = Ranges::whole();
            block_on(healer.data(&from, &to, 8, &all, Before::Unknown)).unwrap();
            sink.writes.load(Ordering::Relaxed)
        };
        assert_eq!(compare(), 0);
        healer.suspect.store(true, Ordering::Relaxed);
        assert_eq!(compare(), 1);
    }
}
