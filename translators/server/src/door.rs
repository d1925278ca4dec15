//! Each call, one after the other: checked, done, told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hermitfs_api::{
    Allocate, Errno, Error, Lock, LockKind, OpenFlags, Origin, RenameFlags, Role, Seek, XattrFlags,
};
use hermitfs_proto::brick::v1::brick_server::Brick;
use hermitfs_proto::brick::{HOLDS, MAX_DATA, Malformed, REPLIES, VERSION, v1};
use tonic::{Request, Response, Status, async_trait};

use crate::call::{Answer, Call, Pace};
use crate::change::Plan;
use crate::check::{self, malformed};
use crate::compound;
use crate::export::Export;
use crate::leaving::{leaving, left};
use crate::record::{Intent, Kind};
use crate::replies::MOST_CALLS;
use crate::roles::{Asked, Given};
use crate::server::Shared;
use crate::sessions::{EndsWith, Kept, Who};
use crate::state;

/// Entries of a directory in one answer.
const MAX_ENTRIES: usize = 4096;

/// Extents of a file in one answer.
const EXTENTS_AT_MOST: usize = 4096;

#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) shared: Arc<Shared>,
    /// Who comes by it is of this process.
    pub(crate) near: bool,
}

fn harmless(_: &Call) -> Plan {
    Plan::Harmless(Vec::new())
}

/// What is only known when the call is there.
fn once(intent: Intent) -> impl FnOnce(&Call) -> Plan + Send + 'static {
    move |_| Plan::Once(Box::new(intent))
}

/// A Hello waits so long for calls that its client has given up; then the client has to come again.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

const DONE: v1::Empty = v1::Empty {};

impl Door {
    fn hello(&self, request: v1::HelloRequest) -> std::result::Result<v1::HelloReply, String> {
        if !request.versions.contains(&VERSION) {
            let theirs: Vec<String> = request.versions.iter().map(u32::to_string).collect();
            return Err(format!(
                "this server speaks version {VERSION} of hermitfs.brick, and the client {}: put the same release of \
                 hermitfs on both",
                if theirs.is_empty() {
                    "none".into()
                } else {
                    theirs.join(", ")
                },
            ));
        }
        let client = <[u8; 16]>::try_from(&request.client[..]);
        let client = client.map_err(|_| "a client says 16 bytes of its own in its Hello")?;
        let exports = &self.shared.exports;
        let export = exports.get(&request.volume).ok_or_else(|| {
            let names: Vec<&str> = exports.keys().map(String::as_str).collect();
            format!(
                "this server has no volume `{}`, but: {}",
                request.volume.escape_debug(),
                names.join(", ")
            )
        })?;
        let boot_id = state::boot_id();
        let here = !boot_id.is_empty() && request.boot_id == boot_id;
        let local = here && request.pid_namespace == state::pid_namespace();
        let sessions = &self.shared.sessions;
        let who = Who {
            client,
            called: &request.who,
            local,
            holds_removed: request.capabilities.iter().any(|has| has == HOLDS),
            ends_with: match (self.near, here) {
                (true, _) => EndsWith::Process,
                (false, true) => EndsWith::Boot,
                (false, false) => EndsWith::Unknown,
            },
        };
        let session = sessions.begin(&who, export);
        let (answered, next) = (request.answered, request.next);
        self.shared
            .changes
            .hello(client, answered, next, !self.near);
        Ok(v1::HelloReply {
            version: VERSION,
            refusal: String::new(),
            capabilities: vec![REPLIES.into()],
            session: session.number,
            incarnation: Bytes::copy_from_slice(&self.shared.incarnation),
            boot_id,
            machine: state::machine().into(),
            grace_ms: sessions.grace().as_millis() as u64,
            max_data: MAX_DATA as u32,
            max_entries: MAX_ENTRIES as u32,
        })
    }
}

impl Shared {
    /// Lets go of what a client had that is gone.
    pub(crate) async fn let_go_all(&self, export: &Export, all: Vec<Kept>) {
        let cx = hermitfs_api::Context::internal(Origin::Admin);
        for kept in all {
            let closed = self.work.run(true, export.let_go(&cx, kept)).await;
            if let Err(error) = closed {
                tracing::warn!("a file of a client that is gone: {error}");
            }
        }
    }
}

#[async_trait]
impl Brick for Door {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        let mut request = request.into_inner();
        let given_up = std::mem::take(&mut request.given_up);
        let client = <[u8; 16]>::try_from(&request.client[..]).unwrap_or_default();
        let reply = Door::hello(self, request);
        if given_up.len() > MOST_CALLS {
            return Err(Status::invalid_argument(
                "more was given up than can be under way",
            ));
        }
        if reply.is_ok() && !given_up.is_empty() {
            let settled = self.shared.changes.give_up(client, &given_up);
            let settled = tokio::time::timeout(SETTLED_WITHIN, settled).await;
            settled.map_err(|_| Status::unavailable("what was given up is under way still"))?;
        }
        Ok(Response::new(reply.unwrap_or_else(|refusal| {
            tracing::warn!("a client is refused: {refusal}");
            v1::HelloReply {
                refusal,
                ..v1::HelloReply::default()
            }
        })))
    }

    async fn ping(&self, request: Request<v1::PingRequest>) -> Answer<v1::Empty> {
        let head = request.into_inner().head;
        let ping = |call: Arc<Call>| async move {
            self.shared.claims.has_claimed(call.session().client);
            Ok(DONE)
        };
        self.shared.answer(head, Pace::Quick, ping).await
    }

    async fn bye(&self, request: Request<v1::ByeRequest>) -> Answer<v1::Empty> {
        let head = request.into_inner().head;
        let shared = &self.shared;
        let bye = move |call: Arc<Call>| async move {
            let kept = shared.sessions.end(call.session().number);
            shared.changes.left(call.session().client, true);
            shared.let_go_all(call.export(), kept).await;
            shared.claims.gone(call.session().client);
            let name = &call.export().name;
            shared.roles.gone(name, call.session().client, true);
            Ok(DONE)
        };
        shared.answer(head, Pace::Slow, bye).await
    }

    async fn root(&self, request: Request<v1::RootRequest>) -> Answer<v1::Entry> {
        let head = request.into_inner().head;
        let root = move |call: Arc<Call>| async move {
            let root = call.volume().root(&call.cx).await?;
            call.export().entry(&call.cx, &root).await
        };
        self.shared.answer(head, Pace::Quick, root).await
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Answer<v1::Entry> {
        let request = request.into_inner();
        let lookup = move |call: Arc<Call>| async move {
            let name = check::name(&request.name)?;
            let dir = call.object(&request.dir).await?;
            let entry = call.volume().lookup(&call.cx, &dir, name).await?;
            call.export().entry(&call.cx, &entry).await
        };
        self.shared.answer(request.head, Pace::Quick, lookup).await
    }

    async fn resolve(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::Entry> {
        let request = request.into_inner();
        let resolve = move |call: Arc<Call>| async move {
            let entry = call.export().resolve(&call.cx, &request.object).await?;
            call.export().entry(&call.cx, &entry).await
        };
        self.shared.answer(request.head, Pace::Quick, resolve).await
    }

    async fn locate(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::LocateReply> {
        let request = request.into_inner();
        let locate = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let location = call.volume().locate(&call.cx, &inode).await?;
            let path = location.path.iter();
            let path = path.map(|name| Bytes::copy_from_slice(name.as_bytes()));
            Ok(v1::LocateReply {
                path: path.collect(),
            })
        };
        self.shared.answer(request.head, Pace::Quick, locate).await
    }

    async fn whence(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::WhenceReply> {
        let request = request.into_inner();
        let whence = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let (dir, name) = call.volume().whence(&call.cx, &inode).await?;
            let attr = call.volume().getattr(&call.cx, &dir, None).await?;
            let dir = hermitfs_api::Entry { inode: dir, attr };
            Ok(v1::WhenceReply {
                dir: Some(call.export().entry(&call.cx, &dir).await?),
                name: Bytes::copy_from_slice(name.as_bytes()),
            })
        };
        self.shared.answer(request.head, Pace::Quick, whence).await
    }

    async fn getattr(&self, request: Request<v1::GetattrRequest>) -> Answer<v1::Attr> {
        let request = request.into_inner();
        let getattr = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let file = call.file_if_any(request.file)?;
            let attr = call
                .volume()
                .getattr(&call.cx, &inode, file.as_deref())
                .await?;
            Ok((&attr).into())
        };
        self.shared.answer(request.head, Pace::Quick, getattr).await
    }

    async fn setattr(&self, request: Request<v1::SetattrRequest>) -> Answer<v1::Attr> {
        let mut request = request.into_inner();
        let head = request.head.take();
        let plan = harmless;
        let setattr = move |call: Arc<Call>| async move {
            let set = malformed((&request).try_into())?;
            check::size(request.size)?;
            check::mode(request.mode.unwrap_or(0))?;
            let inode = call.object(&request.object).await?;
            let file = call.file_if_any(request.file)?;
            let volume = call.volume();
            let attr = volume
                .setattr(&call.cx, &inode, file.as_deref(), &set)
                .await?;
            Ok((&attr).into())
        };
        self.shared.change(head, Pace::Quick, plan, setattr).await
    }

    async fn readlink(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::DataReply> {
        let request = request.into_inner();
        let readlink = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let target = call.volume().readlink(&call.cx, &inode).await?;
            Ok(v1::DataReply {
                data: target.into(),
            })
        };
        self.shared
            .answer(request.head, Pace::Quick, readlink)
            .await
    }

    async fn mknod(&self, request: Request<v1::MknodRequest>) -> Answer<v1::Entry> {
        let mut request = request.into_inner();
        let head = request.head.take();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::Make)
        });
        let mknod = move |call: Arc<Call>| async move {
            let (name, make) = (check::name(&request.name)?, check::make(&request)?);
            let dir = call.object(&request.dir).await?;
            let entry = call.volume().mknod(&call.cx, &dir, name, &make).await?;
            call.export().entry(&call.cx, &entry).await
        };
        self.shared.change(head, Pace::Quick, plan, mknod).await
    }

    async fn mkdir(&self, request: Request<v1::MkdirRequest>) -> Answer<v1::Entry> {
        let request = request.into_inner();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::Make)
        });
        let mkdir = move |call: Arc<Call>| async move {
            let (name, mode) = (check::name(&request.name)?, check::mode(request.mode)?);
            let umask = request.umask & 0o777;
            let dir = call.object(&request.dir).await?;
            let entry = call
                .volume()
                .mkdir(&call.cx, &dir, name, mode, umask)
                .await?;
            call.export().entry(&call.cx, &entry).await
        };
        self.shared
            .change(request.head, Pace::Quick, plan, mkdir)
            .await
    }

    async fn symlink(&self, request: Request<v1::SymlinkRequest>) -> Answer<v1::Entry> {
        let request = request.into_inner();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::Make)
        });
        let symlink = move |call: Arc<Call>| async move {
            let (name, target) = (check::name(&request.name)?, check::target(&request.target)?);
            let dir = call.object(&request.dir).await?;
            let entry = call.volume().symlink(&call.cx, &dir, name, target).await?;
            call.export().entry(&call.cx, &entry).await
        };
        self.shared
            .change(request.head, Pace::Quick, plan, symlink)
            .await
    }

    async fn link(&self, request: Request<v1::LinkRequest>) -> Answer<v1::Entry> {
        let request = request.into_inner();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            object: request.object.to_vec(),
            ..Intent::new(Kind::Link)
        });
        let link = move |call: Arc<Call>| async move {
            let name = check::name(&request.name)?;
            let inode = call.object(&request.object).await?;
            let dir = call.object(&request.dir).await?;
            let entry = call.volume().link(&call.cx, &inode, &dir, name).await?;
            call.export().entry(&call.cx, &entry).await
        };
        self.shared
            .change(request.head, Pace::Quick, plan, link)
            .await
    }

    async fn unlink(&self, request: Request<v1::NameRequest>) -> Answer<v1::UnlinkReply> {
        let request = request.into_inner();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::Remove)
        });
        let unlink = move |call: Arc<Call>| async move {
            let name = check::name(&request.name)?;
            let dir = call.object(&request.dir).await?;
            let gone = leaving(&call, &dir, name).await?.ok_or(Errno::ENOENT)?;
            call.volume().unlink(&call.cx, &dir, name).await?;
            Ok(v1::UnlinkReply {
                gone: Some(gone.identity),
                held: left(&call, gone).await,
            })
        };
        self.shared
            .change(request.head, Pace::Quick, plan, unlink)
            .await
    }

    async fn rmdir(&self, request: Request<v1::NameRequest>) -> Answer<v1::UnlinkReply> {
        let request = request.into_inner();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::Remove)
        });
        let rmdir = move |call: Arc<Call>| async move {
            let name = check::name(&request.name)?;
            let dir = call.object(&request.dir).await?;
            let gone = leaving(&call, &dir, name).await?.ok_or(Errno::ENOENT)?;
            call.volume().rmdir(&call.cx, &dir, name).await?;
            Ok(v1::UnlinkReply {
                gone: Some(gone.identity),
                held: left(&call, gone).await,
            })
        };
        self.shared
            .change(request.head, Pace::Quick, plan, rmdir)
            .await
    }

    async fn rename(&self, request: Request<v1::RenameRequest>) -> Answer<v1::RenameReply> {
        let request = request.into_inner();
        let kind = match v1::RenameFlags::read(request.flags) {
            Ok(RenameFlags::Exchange) => Kind::Exchange,
            Ok(flags) if flags.leaves_whiteout() => Kind::Whiteout,
            _ => Kind::Rename,
        };
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            new_dir: request.new_dir.to_vec(),
            new_name: request.new_name.to_vec(),
            ..Intent::new(kind)
        });
        let rename = move |call: Arc<Call>| async move {
            let (name, new_name) = (check::name(&request.name)?, check::name(&request.new_name)?);
            let flags = malformed(v1::RenameFlags::read(request.flags))?;
            let dir = call.object(&request.dir).await?;
            let new_dir = call.object(&request.new_dir).await?;
            let moved = call.export().stands(&call.cx, &dir, name).await?;
            let moved = moved.map(|moved| moved.identity);
            let other = leaving(&call, &new_dir, new_name).await?;
            let (cx, volume) = (&call.cx, call.volume());
            volume
                .rename(cx, &dir, name, &new_dir, new_name, flags)
                .await?;
            let identity = other.as_ref().map(|other| other.identity);
            let held = match other {
                // Two names of one object: nothing was replaced.
                Some(other) if flags.replaces() && moved != identity => left(&call, other).await,
                _ => 0,
            };
            Ok(v1::RenameReply {
                moved,
                other: identity,
                held,
            })
        };
        self.shared
            .change(request.head, Pace::Quick, plan, rename)
            .await
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Answer<v1::CreateReply> {
        let request = request.into_inner();
        let plan = once(Intent {
            dir: request.dir.to_vec(),
            name: request.name.to_vec(),
            flags: request.flags,
            ..Intent::new(Kind::Make)
        });
        let create = move |call: Arc<Call>| async move {
            let (name, mode) = (check::name(&request.name)?, check::mode(request.mode)?);
            let (flags, umask) = (check::flags(request.flags)?, request.umask & 0o777);
            let dir = call.object(&request.dir).await?;
            let (cx, volume) = (&call.cx, call.volume());
            let (entry, file) = volume.create(cx, &dir, name, flags, mode, umask).await?;
            Ok(v1::CreateReply {
                file: call.keep(file).await?,
                entry: Some(call.export().entry(cx, &entry).await?),
            })
        };
        self.shared
            .change(request.head, Pace::Quick, plan, create)
            .await
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Answer<v1::OpenReply> {
        let request = request.into_inner();
        let open = move |call: Arc<Call>| async move {
            let flags = check::flags(request.flags)?;
            let inode = call.object(&request.object).await?;
            let file = call.volume().open(&call.cx, &inode, flags).await?;
            Ok(v1::OpenReply {
                moved_atime: file.moved_atime(),
                file: call.keep(file).await?,
            })
        };
        if OpenFlags(request.flags).truncates() {
            let plan = harmless;
            return self
                .shared
                .change(request.head, Pace::Quick, plan, open)
                .await;
        }
        self.shared.answer(request.head, Pace::Quick, open).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Answer<v1::DataReply> {
        let request = request.into_inner();
        let read = move |call: Arc<Call>| async move {
            check::range(request.at, request.len.into())?;
            let file = call.file(request.file)?;
            let mut buffer = self.shared.buffers.take(check::data(request.len as usize)?);
            let volume = call.volume();
            let room = buffer.room();
            let len = volume.read(&call.cx, &file, request.at, room).await?;
            Ok(v1::DataReply {
                data: buffer.filled(len),
            })
        };
        self.shared.answer(request.head, Pace::Quick, read).await
    }

    async fn write(&self, request: Request<v1::WriteRequest>) -> Answer<v1::CountReply> {
        let request = request.into_inner();
        let (number, data) = (request.file, request.data.clone());
        let plan = move |call: &Call| match call.appended_to(number) {
            Some(object) => Plan::Once(Box::new(Intent::append(&object, &data))),
            None => Plan::Harmless(Vec::new()),
        };
        let write = move |call: Arc<Call>| async move {
            check::range(request.at, check::data(request.data.len())? as u64)?;
            let file = call.file(request.file)?;
            let volume = call.volume();
            let count = volume
                .write(&call.cx, &file, request.at, &request.data)
                .await?;
            Ok(v1::CountReply {
                count: count as u64,
            })
        };
        self.shared
            .change(request.head, Pace::Quick, plan, write)
            .await
    }

    async fn flush(&self, request: Request<v1::FlushRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let flush = move |call: Arc<Call>| async move {
            let file = call.file(request.file)?;
            call.volume().flush(&call.cx, &file, request.owner).await?;
            Ok(DONE)
        };
        self.shared.answer(request.head, Pace::Quick, flush).await
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let release = move |call: Arc<Call>| async move {
            let mut released = Ok(DONE);
            for number in request.files {
                if let Some(kept) = call.session().take(number)
                    && let Err(error) = call.export().let_go(&call.cx, kept).await
                {
                    released = Err(error);
                }
            }
            released
        };
        self.shared.answer(request.head, Pace::Quick, release).await
    }

    async fn fsync(&self, request: Request<v1::FsyncRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let fsync = move |call: Arc<Call>| async move {
            let file = call.file(request.file)?;
            call.volume()
                .fsync(&call.cx, &file, request.datasync)
                .await?;
            Ok(DONE)
        };
        self.shared.answer(request.head, Pace::Slow, fsync).await
    }

    async fn fsyncdir(&self, request: Request<v1::FsyncdirRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let fsyncdir = move |call: Arc<Call>| async move {
            let dir = call.object(&request.object).await?;
            call.volume()
                .fsyncdir(&call.cx, &dir, request.datasync)
                .await?;
            Ok(DONE)
        };
        self.shared.answer(request.head, Pace::Slow, fsyncdir).await
    }

    async fn readdir(&self, request: Request<v1::ReaddirRequest>) -> Answer<v1::ReaddirReply> {
        let request = request.into_inner();
        let readdir = move |call: Arc<Call>| async move {
            let max = (request.max as usize).min(MAX_ENTRIES);
            let dir = call.object(&request.object).await?;
            let (cx, volume) = (&call.cx, call.volume());
            let found = volume
                .readdir(cx, &dir, request.from, max, request.plus)
                .await?;
            let mut entries = Vec::with_capacity(found.len());
            let mut room = MAX_DATA;
            for entry in found {
                let entry = call.export().dir_entry(cx, entry).await?;
                // With room for its tag and length. What does not go in is asked for again.
                let len = prost::Message::encoded_len(&entry) + 8;
                if len > room {
                    break;
                }
                room -= len;
                entries.push(entry);
            }
            Ok(v1::ReaddirReply { entries })
        };
        self.shared.answer(request.head, Pace::Quick, readdir).await
    }

    async fn snapshot(&self, request: Request<v1::SnapshotRequest>) -> Answer<v1::SnapshotReply> {
        let mut request = request.into_inner();
        let head = request.head.take();
        let snapshot = |call: Arc<Call>| async move { compound::snapshot(&call, request).await };
        self.shared.answer(head, Pace::Quick, snapshot).await
    }

    async fn make_whole(
        &self,
        request: Request<v1::MakeWholeRequest>,
    ) -> Answer<v1::MakeWholeReply> {
        let mut request = request.into_inner();
        let head = request.head.take();
        // Half of them may be there after a kill: whoever heals looks again.
        let plan = once(Intent::new(Kind::Blind));
        let make = move |call: Arc<Call>| async move { compound::make_whole(&call, request).await };
        self.shared.change(head, Pace::Quick, plan, make).await
    }

    async fn getxattr(&self, request: Request<v1::XattrRequest>) -> Answer<v1::DataReply> {
        let request = request.into_inner();
        let getxattr = move |call: Arc<Call>| async move {
            let name = check::xattr_name(&request.name)?;
            let inode = call.object(&request.object).await?;
            let value = call.volume().getxattr(&call.cx, &inode, name).await?;
            Ok(v1::DataReply { data: value.into() })
        };
        self.shared
            .answer(request.head, Pace::Quick, getxattr)
            .await
    }

    async fn listxattr(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::DataReply> {
        let request = request.into_inner();
        let listxattr = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let names = call.volume().listxattr(&call.cx, &inode).await?;
            Ok(v1::DataReply { data: names.into() })
        };
        self.shared
            .answer(request.head, Pace::Quick, listxattr)
            .await
    }

    async fn setxattr(&self, request: Request<v1::SetxattrRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let intent = Intent {
            object: request.object.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::SetXattr)
        };
        let any = matches!(v1::XattrFlags::read(request.flags), Ok(XattrFlags::Any));
        let plan = move |_: &Call| match any {
            // Who only adds it must not take this one's for his own.
            true => Plan::Harmless(intent.places()),
            false => Plan::Once(Box::new(intent)),
        };
        let setxattr = move |call: Arc<Call>| async move {
            let name = check::xattr_name(&request.name)?;
            let value = check::xattr_value(&request.value)?;
            let flags = malformed(v1::XattrFlags::read(request.flags))?;
            let inode = call.object(&request.object).await?;
            call.volume()
                .setxattr(&call.cx, &inode, name, value, flags)
                .await?;
            Ok(DONE)
        };
        self.shared
            .change(request.head, Pace::Quick, plan, setxattr)
            .await
    }

    async fn removexattr(&self, request: Request<v1::XattrRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let plan = once(Intent {
            object: request.object.to_vec(),
            name: request.name.to_vec(),
            ..Intent::new(Kind::RemoveXattr)
        });
        let removexattr = move |call: Arc<Call>| async move {
            let name = check::xattr_name(&request.name)?;
            let inode = call.object(&request.object).await?;
            call.volume().removexattr(&call.cx, &inode, name).await?;
            Ok(DONE)
        };
        self.shared
            .change(request.head, Pace::Quick, plan, removexattr)
            .await
    }

    async fn get_flags(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::FlagsReply> {
        let request = request.into_inner();
        let get_flags = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let flags = call.volume().get_flags(&call.cx, &inode).await?;
            Ok(v1::FlagsReply { flags })
        };
        self.shared
            .answer(request.head, Pace::Quick, get_flags)
            .await
    }

    async fn set_flags(&self, request: Request<v1::SetFlagsRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let plan = harmless;
        let set_flags = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            call.volume()
                .set_flags(&call.cx, &inode, request.flags)
                .await?;
            Ok(DONE)
        };
        self.shared
            .change(request.head, Pace::Quick, plan, set_flags)
            .await
    }

    async fn get_fsx(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::FsxReply> {
        let request = request.into_inner();
        let get_fsx = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let fsx = call.volume().get_fsx(&call.cx, &inode).await?;
            let fsx = Some((&fsx).into());
            Ok(v1::FsxReply { fsx })
        };
        self.shared.answer(request.head, Pace::Quick, get_fsx).await
    }

    async fn set_fsx(&self, request: Request<v1::SetFsxRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let plan = harmless;
        let set_fsx = move |call: Arc<Call>| async move {
            let fsx = request.fsx.ok_or(Errno::EINVAL)?.into();
            let inode = call.object(&request.object).await?;
            call.volume().set_fsx(&call.cx, &inode, &fsx).await?;
            Ok(DONE)
        };
        self.shared
            .change(request.head, Pace::Quick, plan, set_fsx)
            .await
    }

    async fn fallocate(&self, request: Request<v1::FallocateRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let mode = request.mode;
        let plan = move |_: &Call| match Allocate::from_bits(mode) {
            Some(Allocate::Collapse | Allocate::Insert) => {
                Plan::Once(Box::new(Intent::new(Kind::Blind)))
            }
            _ => Plan::Harmless(Vec::new()),
        };
        let fallocate = move |call: Arc<Call>| async move {
            let (at, len) = (request.at, request.len);
            let how = check::allocate(request.mode, at, len)?;
            let file = call.file(request.file)?;
            call.volume()
                .fallocate(&call.cx, &file, how, at, len)
                .await?;
            Ok(DONE)
        };
        self.shared
            .change(request.head, Pace::Quick, plan, fallocate)
            .await
    }

    async fn lseek(&self, request: Request<v1::LseekRequest>) -> Answer<v1::CountReply> {
        let request = request.into_inner();
        let lseek = move |call: Arc<Call>| async move {
            let seek = if request.hole { Seek::Hole } else { Seek::Data };
            let file = call.file(request.file)?;
            let count = call
                .volume()
                .lseek(&call.cx, &file, request.at, seek)
                .await?;
            Ok(v1::CountReply { count })
        };
        self.shared.answer(request.head, Pace::Quick, lseek).await
    }

    async fn copy_file_range(&self, request: Request<v1::CopyRequest>) -> Answer<v1::CountReply> {
        let request = request.into_inner();
        let plan = harmless;
        let copy = move |call: Arc<Call>| async move {
            check::range(request.from_at, 0)?;
            check::range(request.to_at, 0)?;
            let (from, to) = (call.file(request.from)?, call.file(request.to)?);
            let (cx, volume) = (&call.cx, call.volume());
            let (from_at, to_at) = (request.from_at, request.to_at);
            let count = volume.copy_file_range(cx, &from, from_at, &to, to_at, request.len);
            Ok(v1::CountReply {
                count: count.await?,
            })
        };
        self.shared
            .change(request.head, Pace::Slow, plan, copy)
            .await
    }

    async fn extents(&self, request: Request<v1::ExtentsRequest>) -> Answer<v1::ExtentsReply> {
        let request = request.into_inner();
        let extents = move |call: Arc<Call>| async move {
            let file = call.file(request.file)?;
            let max = (request.max as usize).min(EXTENTS_AT_MOST);
            let told = call
                .volume()
                .extents(&call.cx, &file, request.from, max)
                .await?;
            Ok(v1::ExtentsReply {
                extents: told.iter().map(Into::into).collect(),
            })
        };
        self.shared.answer(request.head, Pace::Quick, extents).await
    }

    async fn clone_range(&self, request: Request<v1::CopyRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let plan = harmless;
        let clone = move |call: Arc<Call>| async move {
            check::range(request.from_at, request.len)?;
            check::range(request.to_at, request.len)?;
            let (from, to) = (call.file(request.from)?, call.file(request.to)?);
            let (cx, volume) = (&call.cx, call.volume());
            let (from_at, to_at) = (request.from_at, request.to_at);
            volume
                .clone_range(cx, &from, from_at, &to, to_at, request.len)
                .await?;
            Ok(DONE)
        };
        self.shared
            .change(request.head, Pace::Slow, plan, clone)
            .await
    }

    async fn statfs(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::StatfsReply> {
        let request = request.into_inner();
        let statfs = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            Ok(call.volume().statfs(&call.cx, &inode).await?.into())
        };
        self.shared.answer(request.head, Pace::Quick, statfs).await
    }

    async fn getlk(&self, request: Request<v1::LockRequest>) -> Answer<v1::GetlkReply> {
        let request = request.into_inner();
        let getlk = move |call: Arc<Call>| async move {
            let lock = request.lock.ok_or(Malformed("no lock"));
            let lock = malformed(lock.and_then(TryInto::try_into))?;
            let file = call.file(request.file)?;
            self.shared.claims.settled().await;
            let held = call.volume().getlk(&call.cx, &file, &lock).await?;
            Ok(v1::GetlkReply {
                lock: held.as_ref().map(Into::into),
            })
        };
        self.shared.answer(request.head, Pace::Quick, getlk).await
    }

    async fn setlk(&self, request: Request<v1::LockRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let setlk = move |call: Arc<Call>| async move {
            let lock = request.lock.ok_or(Malformed("no lock"));
            let lock: Lock = malformed(lock.and_then(TryInto::try_into))?;
            let file = call.file(request.file)?;
            let under_way = match request.ticket {
                0 => None,
                ticket => Some(call.session().waiting.begin(ticket).ok_or(Errno::EINTR)?),
            };
            let ended = async {
                match &under_way {
                    Some(under_way) => under_way.ended().await,
                    None => std::future::pending().await,
                }
            };
            let take = async {
                let session = call.session();
                if request.claim {
                    self.shared.claims.may_claim(session.client)?;
                } else if lock.kind != LockKind::Unlock {
                    self.shared.claims.settled().await;
                    self.shared
                        .claims
                        .locks(session.client, session.ends_with)?;
                }
                let volume = call.volume();
                volume.setlk(&call.cx, &file, &lock, request.wait).await
            };
            tokio::select! {
                biased;
                taken = take => taken.map(|()| DONE),
                () = ended => Err(Errno::EINTR.into()),
            }
        };
        self.shared.answer(request.head, Pace::Quick, setlk).await
    }

    async fn end_setlk(&self, request: Request<v1::EndSetlkRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let end = move |call: Arc<Call>| async move {
            call.session().waiting.end(request.ticket).await;
            Ok(DONE)
        };
        self.shared.answer(request.head, Pace::Quick, end).await
    }

    async fn quiet(&self, request: Request<v1::ObjectRequest>) -> Answer<v1::QuietReply> {
        let request = request.into_inner();
        let quiet = move |call: Arc<Call>| async move {
            let inode = call.object(&request.object).await?;
            let quiet = call.volume().quiet(&call.cx, &inode).await?;
            Ok(v1::QuietReply { quiet })
        };
        self.shared.answer(request.head, Pace::Quick, quiet).await
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Answer<v1::Empty> {
        let head = request.into_inner().head;
        let sync = move |call: Arc<Call>| async move {
            call.volume().sync(&call.cx).await?;
            Ok(DONE)
        };
        self.shared.answer(head, Pace::Slow, sync).await
    }

    async fn role(&self, request: Request<v1::RoleRequest>) -> Answer<v1::RoleReply> {
        let mut request = request.into_inner();
        let (head, roles) = (request.head.take(), &self.shared.roles);
        let role = move |call: Arc<Call>| async move {
            let role = malformed(v1::Role::read(request.role))?;
            let (name, client) = (&call.export().name, call.session().client);
            let asked = Asked {
                role,
                had: request.had,
                instead_of: request.instead_of,
                process: request.process.unwrap_or_default(),
                ends_with: call.session().ends_with,
            };
            let claim = match role {
                Role::Plain => {
                    roles.release(name, client)?;
                    0
                }
                Role::Away if !roles.has(name, client) => {
                    let story = "only who has the volume as a sink can put it away";
                    return Err(Error::with_story(Errno::EBUSY, story));
                }
                Role::Source | Role::Sink | Role::Away => {
                    let sessions = &self.shared.sessions;
                    let has_signed = |client, then| sessions.has_signed_since(client, then);
                    let given = roles.claim_when_known(name, client, asked, has_signed);
                    match given.await? {
                        Given::Claim(number) => number,
                        Given::Taken(_, holder) => {
                            return Ok(v1::RoleReply {
                                claim: 0,
                                holder: Some(holder),
                            });
                        }
                    }
                }
            };
            call.volume().role(role).await?;
            Ok(v1::RoleReply {
                claim,
                holder: None,
            })
        };
        self.shared.answer(head, Pace::Slow, role).await
    }
}
