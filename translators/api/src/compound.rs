//! Compounds: many single operations in one call, for the healing of small files.

use std::sync::Arc;

use crate::{
    Attr, Context, Entry, Errno, Error, File, Fop, Fsx, Inode, Kind, Name, NameBuf, OpenFlags,
    Result, SetAttr, SetTime, Time, Translator, XattrFlags,
};

/// Extended attributes: names and values, in no order.
pub type Xattrs = Vec<(Box<[u8]>, Vec<u8>)>;

/// Everything of one object, for [`Translator::snapshot`].
///
/// It is read piece by piece: that it is of one moment is known only to who knows that nobody changed the
/// object meanwhile.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The object, and its attributes as they were before the rest was read.
    pub entry: Entry,
    /// A file's bytes, as many as it had then or fewer if it has been cut since; a symbolic
    /// link's target. `None` for anything else, and for a file that is larger than was asked for
    /// or may have holes (it has fewer blocks than bytes), space that is reserved behind its end, or space
    /// that it shares with others.
    pub content: Option<Vec<u8>>,
    /// All extended attributes, ACLs among them.
    pub xattrs: Xattrs,
    /// Inode flags, hints and project; nothing where there are none.
    pub fsx: Fsx,
}

impl Snapshot {
    /// An answer ends with the object that brings it to so many bytes.
    pub const AT_ONCE: usize = 512 << 10;

    /// So much more space than it has bytes is a file's last block, and what its attributes take.
    pub const NO_RESERVE: u64 = 16 << 10;

    /// A file of at least so many bytes that shares its space with others has no content in a snapshot.
    pub const SHARED_FROM: u64 = 32 << 10;

    /// E2BIG for an object whose extended attributes have more bytes than this.
    pub const XATTRS_AT_MOST: usize = 64 << 10;

    /// Bytes of content and extended attributes.
    pub fn bytes(&self) -> usize {
        self.content.as_ref().map_or(0, Vec::len) + bytes_of(&self.xattrs)
    }
}

/// A regular file to be made, for [`Translator::make_whole`]: all that it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Under this name, which has to be free.
    pub name: NameBuf,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Permission, set-id and sticky bits: 0..=0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last read.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// These extended attributes, and no others; but what the brick's own security module puts on
    /// every object stays where it cannot be taken off.
    pub xattrs: Xattrs,
    /// Of the inode flags in `mask` it shall have these...
    pub flags: u32,
    /// ... and of the others those that it is made with.
    pub mask: u32,
    /// The project that it is counted for.
    pub project: u32,
}

impl Whole {
    /// Bytes of content and extended attributes.
    pub fn bytes(&self) -> usize {
        self.content.len() + bytes_of(&self.xattrs)
    }

    /// The attribute that a change of the owner takes away, and any write.
    pub const CAPABILITY: &[u8] = b"security.capability";

    /// Whether an attribute that could not be taken off may stay.
    pub fn may_stay(xattr: &[u8]) -> bool {
        xattr == b"security.selinux"
    }
}

fn bytes_of(xattrs: &Xattrs) -> usize {
    let bytes = xattrs.iter().map(|(name, value)| name.len() + value.len());
    bytes.sum()
}

impl Fop {
    /// The single operations that a compound stands for; none of any other operation.
    pub fn steps(self) -> &'static [Fop] {
        match self {
            Fop::Snapshot => &[
                Fop::Lookup,
                Fop::Open,
                Fop::Read,
                Fop::Readlink,
                Fop::Listxattr,
                Fop::Getxattr,
                Fop::GetFsx,
                Fop::Release,
            ],
            Fop::MakeWhole => &[
                Fop::Create,
                Fop::Write,
                Fop::Listxattr,
                Fop::Setattr,
                Fop::Removexattr,
                Fop::Setxattr,
                Fop::SetFlags,
                Fop::GetFsx,
                Fop::SetFsx,
                Fop::Release,
                Fop::Lookup,
                Fop::Unlink,
            ],
            _ => &[],
        }
    }
}

/// [`Translator::snapshot`] by single operations, for layers that have no shorter way.
pub async fn snapshot_by_steps(
    volume: &dyn Translator,
    cx: &Context,
    dir: &Arc<Inode>,
    names: &[NameBuf],
    most: u64,
) -> Result<Vec<Result<Snapshot>>> {
    must_be_directory(dir)?;
    let (mut answers, mut bytes) = (Vec::with_capacity(names.len()), 0);
    for name in names {
        let answer = look_at(volume, cx, dir, name, most).await;
        bytes += answer.as_ref().map_or(0, Snapshot::bytes);
        answers.push(answer);
        if bytes >= Snapshot::AT_ONCE {
            break;
        }
    }
    Ok(answers)
}

fn must_be_directory(dir: &Inode) -> Result<()> {
    match dir.kind() {
        Kind::Directory => Ok(()),
        _ => Err(Errno::ENOTDIR.into()),
    }
}

async fn look_at(
    volume: &dyn Translator,
    cx: &Context,
    dir: &Arc<Inode>,
    name: &Name,
    most: u64,
) -> Result<Snapshot> {
    let entry = volume.lookup(cx, dir, name).await?;
    if !is_small(&entry.attr, most) {
        return the_rest(volume, cx, entry, None).await;
    }
    // Open for all of it: what is open is quicker to reach.
    let file = volume.open(cx, &entry.inode, OpenFlags::READ).await?;
    let told = match read_all(volume, cx, &file, entry.attr.size).await {
        Ok(content) => the_rest(volume, cx, entry, Some(content)).await,
        Err(error) => Err(error),
    };
    drop(volume.release(cx, &file).await);
    told
}

/// Whether all of its content goes into a snapshot: a regular file, small enough, and not worth a
/// look for holes, or for space that is reserved behind its end.
pub fn is_small(attr: &Attr, most: u64) -> bool {
    let space = attr.blocks.saturating_mul(512);
    let least = attr.size.saturating_add(Snapshot::NO_RESERVE);
    attr.kind == Kind::File && attr.size <= most && (attr.size..=least).contains(&space)
}

async fn read_all(
    volume: &dyn Translator,
    cx: &Context,
    file: &Arc<File>,
    size: u64,
) -> Result<Vec<u8>> {
    let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
    let (mut content, mut got) = (vec![0; size], 0);
    while let Some(rest) = content.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match volume.read(cx, file, got as u64, rest).await? {
            0 => break,
            more => got += more,
        }
    }
    content.truncate(got);
    Ok(content)
}

async fn the_rest(
    volume: &dyn Translator,
    cx: &Context,
    entry: Entry,
    mut content: Option<Vec<u8>>,
) -> Result<Snapshot> {
    let (kind, inode) = (entry.attr.kind, entry.inode.clone());
    if kind == Kind::Symlink {
        content = Some(volume.readlink(cx, &inode).await?);
    }
    let list = match volume.listxattr(cx, &inode).await {
        Err(error) if is_missing(&error) => Vec::new(),
        list => list?,
    };
    let (mut xattrs, mut bytes) = (Xattrs::new(), 0);
    for name in xattr_names(&list) {
        match volume.getxattr(cx, &inode, name).await {
            Ok(value) => {
                bytes += name.len() + value.len();
                if bytes > Snapshot::XATTRS_AT_MOST {
                    return Err(Errno::E2BIG.into());
                }
                xattrs.push((name.into(), value));
            }
            // Taken away since the list was read, or listed but not kept.
            Err(error) if error.errno() == Errno::ENODATA || is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let fsx = match kind {
        Kind::File | Kind::Directory => match volume.get_fsx(cx, &inode).await {
            Err(error) if is_missing(&error) || error.errno() == Errno::EINVAL => Fsx::default(),
            fsx => fsx?,
        },
        _ => Fsx::default(),
    };
    Ok(Snapshot {
        entry,
        content,
        xattrs,
        fsx,
    })
}

/// The names in a list of extended attributes.
pub fn xattr_names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
}

/// A file system that has no such thing.
fn is_missing(error: &Error) -> bool {
    [Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::ENOTTY].contains(&error.errno())
}

/// [`Translator::make_whole`] by single operations, for layers that have no shorter way.
pub async fn make_whole_by_steps(
    volume: &dyn Translator,
    cx: &Context,
    dir: &Arc<Inode>,
    files: &[Whole],
) -> Result<Vec<Result<Attr>>> {
    must_be_directory(dir)?;
    let mut answers = Vec::with_capacity(files.len());
    for file in files {
        answers.push(make_one(volume, cx, dir, file).await);
    }
    Ok(answers)
}

async fn make_one(
    volume: &dyn Translator,
    cx: &Context,
    dir: &Arc<Inode>,
    file: &Whole,
) -> Result<Attr> {
    // Reachable for nobody until it is whole.
    let flags = OpenFlags::READ_WRITE;
    let (entry, open) = volume.create(cx, dir, &file.name, flags, 0, 0).await?;
    let done = fill(volume, cx, &entry, &open, file).await;
    drop(volume.release(cx, &open).await);
    if done.is_err() {
        // Whether this comes off or not, what went wrong first is told.
        let there = volume.lookup(cx, dir, &file.name).await;
        if there.is_ok_and(|there| there.inode.identity() == entry.inode.identity()) {
            drop(volume.unlink(cx, dir, &file.name).await);
        }
    }
    done
}

async fn fill(
    volume: &dyn Translator,
    cx: &Context,
    entry: &Entry,
    open: &Arc<File>,
    file: &Whole,
) -> Result<Attr> {
    let (inode, first) = (&entry.inode, &entry.attr);
    let mut done = 0;
    while let Some(rest) = file.content.get(done..).filter(|rest| !rest.is_empty()) {
        match volume.write(cx, open, done as u64, rest).await? {
            0 => return Err(Errno::ENOSPC.into()),
            more => done += more,
        }
    }
    let list = match volume.listxattr(cx, inode).await {
        Err(error) if is_missing(&error) && file.xattrs.is_empty() => Vec::new(),
        list => list?,
    };
    // chown takes set-id bits and capabilities away, so it comes before them.
    let owned = SetAttr {
        uid: (first.uid != file.uid).then_some(file.uid),
        gid: (first.gid != file.gid).then_some(file.gid),
        mode: Some(file.mode),
        ..SetAttr::default()
    };
    volume.setattr(cx, inode, Some(open), &owned).await?;
    for name in xattr_names(&list) {
        if file.xattrs.iter().any(|(wanted, _)| **wanted == *name) {
            continue;
        }
        match volume.removexattr(cx, inode, name).await {
            Err(error) if error.errno() == Errno::ENODATA => {}
            Err(_) if Whole::may_stay(name) => {}
            done => done?,
        }
    }
    for (name, value) in &file.xattrs {
        let any = XattrFlags::Any;
        volume.setxattr(cx, inode, name, value, any).await?;
    }
    let timed = SetAttr {
        atime: Some(SetTime::At(file.atime)),
        mtime: Some(SetTime::At(file.mtime)),
        ..SetAttr::default()
    };
    let attr = volume.setattr(cx, inode, Some(open), &timed).await?;
    // Last, as flags may forbid all else. It may be made with some of its directory's.
    let there = match volume.get_fsx(cx, inode).await {
        // None to be had, and none wanted.
        Err(error) if is_missing(&error) && file.flags & file.mask == 0 && file.project == 0 => {
            return Ok(attr);
        }
        there => there?,
    };
    if there.project != file.project {
        let project = file.project;
        volume.set_fsx(cx, inode, &Fsx { project, ..there }).await?;
    }
    let wanted = there.flags & !file.mask | file.flags & file.mask;
    if wanted != there.flags {
        volume.set_flags(cx, inode, wanted).await?;
    }
    Ok(attr)
}
