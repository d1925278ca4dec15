//! A volume that clients may have, by its name.

use std::sync::Arc;

use bytes::Bytes;
use hermitfs_api::{
    Context, DirEntry, Entry, Errno, Error, Inode, Name, Result, SlotKey, Translator,
};
use hermitfs_proto::brick::v1;

use crate::objects::Objects;
use crate::seal::Seal;
use crate::sessions::Kept;

pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) volume: Arc<dyn Translator>,
    seal: Seal,
    /// Where an object's sealed handle is kept.
    slot: SlotKey,
    pub(crate) objects: Objects,
}

impl Export {
    pub(crate) fn new(name: String, volume: Arc<dyn Translator>, key: &[u8; 32]) -> Export {
        Export {
            seal: Seal::new(key, &name),
            name,
            volume,
            slot: SlotKey::new(),
            objects: Objects::new(),
        }
    }

    /// The object of a sealed handle. ESTALE when it is gone, or was never one of this export.
    pub(crate) async fn object(&self, cx: &Context, sealed: &Bytes) -> Result<Arc<Inode>> {
        if let Some(inode) = self.objects.get(sealed) {
            return Ok(inode);
        }
        let entry = self.resolve(cx, sealed).await?;
        self.hold_for_a_while(sealed, &entry);
        Ok(entry.inode)
    }

    /// What has no name any more is not held for having been named by its handle: whoever has it in use
    /// holds it, and its space is to be free after that.
    fn hold_for_a_while(&self, sealed: &Bytes, entry: &Entry) {
        if entry.attr.nlink > 0 {
            self.objects.insert(sealed, &entry.inode);
        }
    }

    /// The same with its attributes, asked of the brick.
    pub(crate) async fn resolve(&self, cx: &Context, sealed: &[u8]) -> Result<Entry> {
        let handle = self.seal.open(sealed).ok_or(Errno::ESTALE)?;
        self.volume.resolve(cx, &handle).await
    }

    /// What an object is called on the wire.
    pub(crate) async fn sealed(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Bytes> {
        if let Some(sealed) = inode.slots().get::<Bytes>(self.slot) {
            return Ok(sealed.clone());
        }
        let handle = self.volume.handle(cx, inode).await.map_err(|error| {
            if error.errno() == Errno::EOPNOTSUPP {
                let story = "the brick's file system has no handles, and cannot be served";
                return Error::with_story(Errno::EIO, story);
            }
            error
        })?;
        let sealed = self.seal.seal(&handle);
        inode.slots().get_or_init(self.slot, || sealed.clone());
        Ok(sealed)
    }

    /// The same, if it was told before.
    pub(crate) fn sealed_before(&self, inode: &Inode) -> Option<Bytes> {
        inode.slots().get::<Bytes>(self.slot).cloned()
    }

    /// What was found or made, for the wire.
    pub(crate) async fn entry(&self, cx: &Context, entry: &Entry) -> Result<v1::Entry> {
        let object = self.sealed(cx, &entry.inode).await?;
        self.hold_for_a_while(&object, entry);
        Ok(v1::Entry {
            object,
            identity: Some(entry.inode.identity().into()),
            attr: Some((&entry.attr).into()),
        })
    }

    pub(crate) async fn dir_entry(&self, cx: &Context, entry: DirEntry) -> Result<v1::DirEntry> {
        let object = match &entry.entry {
            Some(object) => match self.entry(cx, object).await {
                Ok(object) => Some(object),
                Err(error) if error.errno() == Errno::ESTALE => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        Ok(v1::DirEntry {
            name: Bytes::from(Vec::from(entry.name)),
            ino: entry.ino,
            kind: entry.kind.map_or(0, |kind| kind.bits()),
            next: entry.next,
            entry: object,
        })
    }

    /// What has a name now; `None` when nothing has.
    pub(crate) async fn stands(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Option<Standing>> {
        match self.volume.lookup(cx, dir, name).await {
            Ok(entry) => Ok(Some(Standing {
                identity: entry.inode.identity().into(),
                sealed: self.sealed(cx, &entry.inode).await?,
                inode: entry.inode,
                names: entry.attr.nlink,
            })),
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An object that a client has, until [`Export::let_go`].
    pub(crate) async fn kept(&self, cx: &Context, inode: &Arc<Inode>) -> Result<()> {
        let sealed = self.sealed(cx, inode).await?;
        self.objects.kept(&sealed, inode);
        Ok(())
    }

    /// Closes a file, or lets an object go.
    pub(crate) async fn let_go(&self, cx: &Context, kept: Kept) -> Result<()> {
        let (inode, released) = match &kept {
            Kept::Open(file) => (file.inode(), self.volume.release(cx, file).await),
            Kept::Removed(inode) => (inode, Ok(())),
        };
        if let Some(sealed) = inode.slots().get::<Bytes>(self.slot) {
            self.objects.let_go(sealed);
        }
        released
    }
}

/// What has a name at a moment.
pub(crate) struct Standing {
    pub(crate) identity: v1::Identity,
    pub(crate) sealed: Bytes,
    pub(crate) inode: Arc<Inode>,
    /// How many names it has.
    pub(crate) names: u32,
}
