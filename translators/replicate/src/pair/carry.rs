//! What users hold when the roles are swapped, found again on the sink.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use hermitfs_api::{
    Context, Errno, Error, File, Identity, Inode, Kind, OpenFlags, Result, Role, Translator,
    block_on,
};

use super::Replicate;
use crate::answers::within;
use crate::control::{OpenError, SinkNumber};
use crate::heal::{HEAL, Healer};
use crate::lingering::{Guards, Lingering};
use crate::volume;

/// On nobody's behalf; permissions were checked when users opened what they hold.
const USER: Context = Context {
    uid: 0,
    gid: 0,
    pid: 0,
    origin: hermitfs_api::Origin::User,
    client: 0,
};

/// Flags of open(2) that were for that moment.
const ONCE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC;

/// A sink in the place of the whole pair, and what users hold as it stands there.
pub struct Carried {
    /// Serves what users hold.
    pub volume: Arc<dyn Translator>,
    /// Its root.
    pub root: Arc<Inode>,
    /// Open files, in the order asked for.
    pub files: Vec<Arc<File>>,
    /// Other objects, in the order asked for. `None` for one that was removed.
    pub objects: Vec<Option<Arc<Inode>>>,
}

/// A file that users have open.
#[derive(Clone, Debug)]
pub struct Held {
    /// As the source opened it.
    pub file: Arc<File>,
    /// Somebody has a lock on it now.
    pub locked: bool,
}

/// Something that users hold has no counterpart on the sink.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct NotCarried {
    /// From the root of the brick, for people.
    pub path: String,
    /// Why not.
    pub reason: String,
}

impl Replicate {
    /// Writes down, in the state, that a cut-over is tried (or that nothing came of it): from then on the pair cannot be
    /// opened without the sink, which may have taken the source's place.
    pub fn try_succession(&self, tried: bool) -> std::result::Result<(), OpenError> {
        let mut record = volume::read_record(&self.state_dir)?
            .ok_or_else(|| OpenError::Io(format!("{}: is gone", self.state_dir.display())))?;
        record.cutting_over = tried;
        volume::write_record(&self.state_dir, &record)
    }

    /// Writes down, on the sink, that users are about to see it (or that nothing came of that): a
    /// kill from then on must not lead back to the source.
    pub fn appoint(&self, sink: SinkNumber, successor: bool) -> Result<()> {
        let sink = self.sinks.get(sink.0).ok_or(Error::new(Errno::ENOENT))?;
        let role = match successor {
            true => volume::SUCCESSOR,
            false => volume::SINK,
        };
        sink.identity.marker.set_role(role)
    }

    /// Whether an open file begins with these bytes, which are few.
    pub fn begins_with(&self, file: &Arc<File>, bytes: &[u8]) -> bool {
        let mut buffer = vec![0; bytes.len()];
        let read = self.users.source.read(&HEAL, file, 0, &mut buffer);
        block_on(read).is_ok_and(|read| buffer[..read] == *bytes)
    }

    /// Finds what users hold on a sink, by its place in the list of sinks. Only while frozen: then
    /// every live object has its image there. What was unlinked is copied, into a file that is
    /// unlinked as well.
    pub fn carry(
        &self,
        sink: SinkNumber,
        files: &[Held],
        objects: &[Arc<Inode>],
        deadline: Instant,
    ) -> std::result::Result<Carried, NotCarried> {
        let Some(sink) = self
            .sinks
            .get(sink.0)
            .filter(|_| self.users.gate.is_frozen())
        else {
            return Err(NotCarried {
                path: "/".to_owned(),
                reason: "users are not held".to_owned(),
            });
        };
        let (healer, files, objects) = (sink.healer.clone(), files.to_vec(), objects.to_vec());
        let carried = move || block_on(carry(&healer, &files, &objects, deadline));
        let left = deadline.saturating_duration_since(Instant::now());
        // Users are held: a sink that does not answer may not make that longer.
        within(left, carried).unwrap_or_else(|unanswered| {
            Err(NotCarried {
                path: "/".to_owned(),
                reason: format!("{}: {unanswered}", sink.place),
            })
        })
    }
}

async fn carry(
    healer: &Healer,
    files: &[Held],
    objects: &[Arc<Inode>],
    deadline: Instant,
) -> std::result::Result<Carried, NotCarried> {
    let root = match healer.sink_root() {
        Ok(root) => root,
        Err(error) => return Err(not_carried(healer, &healer.source_root, &error).await),
    };
    let mut moved = Carried {
        volume: healer.sink.clone(),
        root,
        files: Vec::with_capacity(files.len()),
        objects: Vec::with_capacity(objects.len()),
    };
    let mut images: HashMap<Identity, Image> = HashMap::new();
    let mut listings = HashMap::new();
    let guards = Guards::new(healer.sink.clone());
    for Held { file, locked } in files {
        let both = file.flags().reads() && file.flags().writes();
        let carried = async {
            on_time(deadline)?;
            let image = image(healer, file.inode(), Some(file), &mut images).await?;
            let Some(image) = image else {
                return Err(Error::with_story(
                    Errno::ENOENT,
                    "it is not on the new brick",
                ));
            };
            let flags = OpenFlags(file.flags().0 & !ONCE).with(OpenFlags::SHARED);
            let carried = healer.sink.open(&USER, &image, flags).await?;
            guards.watch(&carried, both | *locked)?;
            Ok(carried)
        };
        match carried.await {
            Ok(file) => moved.files.push(file),
            Err(error) => {
                forget_copies(healer, images).await;
                return Err(not_carried(healer, file.inode(), &error).await);
            }
        }
    }
    for object in objects {
        let carried = async {
            on_time(deadline)?;
            let image = image(healer, object, None, &mut images).await?;
            if let Some(image) = &image
                && object.kind() == Kind::Directory
            {
                let listing = Lingering::listing(&*healer.source, object).await?;
                listings.insert(image.identity(), listing);
            }
            Ok(image)
        };
        match carried.await {
            Ok(image) => moved.objects.push(image),
            Err(error) => {
                forget_copies(healer, images).await;
                return Err(not_carried(healer, object, &error).await);
            }
        }
    }
    forget_copies(healer, images).await;
    if let Err(error) = on_time(deadline) {
        return Err(not_carried(healer, &healer.source_root, &error).await);
    }
    if let Err(error) = healer.sink.role(Role::Plain).await {
        return Err(not_carried(healer, &healer.source_root, &error).await);
    }
    moved.volume = Arc::new(Lingering::new(guards, listings));
    Ok(moved)
}

/// An object on the sink.
struct Image {
    inode: Arc<Inode>,
    /// Where the copy of what has no name stands, until it has none either.
    copy: Option<u64>,
}

fn on_time(deadline: Instant) -> Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    let story = "it could not be taken over within the time limit";
    Err(Error::with_story(Errno::ETIMEDOUT, story))
}

async fn image(
    healer: &Healer,
    inode: &Arc<Inode>,
    file: Option<&File>,
    images: &mut HashMap<Identity, Image>,
) -> Result<Option<Arc<Inode>>> {
    if let Some(image) = images.get(&inode.identity()) {
        return Ok(Some(image.inode.clone()));
    }
    let attr = healer.source.getattr(&HEAL, inode, file).await?;
    let mut copy = None;
    let image = if attr.nlink > 0 {
        let image = healer.image_at_rest(inode).await?;
        let there = healer.sink.getattr(&HEAL, &image, None).await?;
        if inode.kind() == Kind::File && there.size != attr.size {
            let story = "it differs on the new brick";
            return Err(Error::with_story(Errno::EIO, story));
        }
        image
    } else if inode.kind() == Kind::File {
        let (number, image) = healer.copy_nameless(inode, &attr).await?;
        copy = Some(number);
        image
    } else {
        return Ok(None);
    };
    let kept = Image {
        inode: image.clone(),
        copy,
    };
    images.insert(inode.identity(), kept);
    Ok(Some(image))
}

/// What has no name for users has none on the sink either; whoever has it open goes on.
async fn forget_copies(healer: &Healer, images: HashMap<Identity, Image>) {
    for number in images.into_values().filter_map(|image| image.copy) {
        if let Err(error) = healer.unname(number).await {
            tracing::warn!(%error, "a copy stays in the staging space until that is removed");
        }
    }
}

async fn not_carried(healer: &Healer, inode: &Arc<Inode>, error: &Error) -> NotCarried {
    let path = healer.source.locate(&HEAL, inode).await;
    NotCarried {
        path: path.map_or_else(|_| "a file without a name".to_owned(), |at| at.display()),
        reason: error
            .story()
            .map_or_else(|| error.to_string(), |story| story.to_string()),
    }
}
