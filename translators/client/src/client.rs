use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Errno, Error, Extent, File, Fsx, Handle, Identity,
    Inode, Kind, Lend, Lent, Location, Lock, LockKind, Make, Name, NameBuf, OpenFlags, Origin,
    RenameFlags, Result, Role, Seek, SetAttr, Snapshot, StatFs, Translator, Whole, XattrFlags,
};
use hermitfs_proto::brick::{MAX_DATA, Malformed, v1};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::address::Address;
use crate::brick::{Brick, Near};
use crate::call::Answered;
use crate::call::Nature::{self, Again, Once, Reads};
use crate::dial::{Dialer, Way};
use crate::file::Opened;
use crate::keeper::{Keeper, Trouble};
use crate::line::{Line, Session, State};
use crate::node::{Hold, Node};
use crate::options::{OpenError, Options};
use crate::role;
use crate::table::Table;
use crate::waits::Asking;

/// One call: `call!(self, cx, NATURE method, Request { fields })`, and where the request needs the
/// numbers of open files, `; field = opened` for each.
macro_rules! call {
    ($self:ident, $cx:expr, $nature:expr, $method:ident, $request:ident { $($field:ident: $value:expr),* $(,)? }
        $(; $number:ident = $file:expr)*) => {{
        let request = v1::$request { $($field: $value,)* ..Default::default() };
        let fill = |_request: &mut v1::$request, _numbers: &[u64]| {
            let mut _numbers = _numbers.iter().copied();
            $(_request.$number = _numbers.next().unwrap_or_default();)*
        };
        let send = |mut brick: Brick, request: v1::$request| async move {
            brick.$method(request).await
        };
        $self.line.call($cx, $nature, &[$($file),*], request, fill, send).await?
    }};
}

/// A brick that a server has: the leaf of kind `protocol/client`.
pub struct Client {
    pub(crate) line: Arc<Line>,
    table: Arc<Table>,
    keeper: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Client {
    /// Connects. Waits for the server as long as operations would: for the grace.
    pub fn open(options: &Options) -> std::result::Result<Client, OpenError> {
        if !options.address.is_local() && !options.has_tls() {
            return Err(OpenError::Plain(options.address.clone()));
        }
        let tls = options.tls().map_err(OpenError::Tls)?;
        let way = Way::new(options, tls).map_err(OpenError::Tls)?;
        Client::by(options, way)
    }

    /// The same of a server of this process, without a connection: calls are worked on by who makes
    /// them.
    pub fn near(options: &Options, server: Near) -> std::result::Result<Client, OpenError> {
        Client::by(options, Way::Near(server))
    }

    fn by(options: &Options, way: Way) -> std::result::Result<Client, OpenError> {
        let (line, keeper) = line(options, way);
        let (told, first) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(OpenError::Thread)?;
        let keeper = std::thread::Builder::new()
            .name("brick-client".into())
            .spawn(move || {
                runtime.block_on(keeper.keep(move |outcome| drop(told.send(outcome))));
                // Releases that are under way get a moment.
                runtime.shutdown_timeout(Duration::from_millis(100));
            })
            .map_err(OpenError::Thread)?;
        let client = Client {
            line,
            table: Table::new(),
            keeper: Mutex::new(Some(keeper)),
        };
        connected(options, first.recv().ok()).map(|()| client)
    }

    /// The same by connections of another kind, all of it on the runtime in which this is called, and
    /// by its clock.
    pub async fn over(options: &Options, dialer: Dialer) -> std::result::Result<Client, OpenError> {
        let (line, keeper) = line(options, Way::Other(dialer));
        let (told, first) = oneshot::channel();
        tokio::spawn(keeper.keep(move |outcome| drop(told.send(outcome))));
        let client = Client {
            line,
            table: Table::new(),
            keeper: Mutex::default(),
        };
        connected(options, first.await.ok()).map(|()| client)
    }

    /// Takes leave of the server, so that nobody has to wait until it is sure that this client has ended.
    /// From then on all is EIO. The same is done when a client is dropped.
    pub fn end(&self) {
        self.line.end();
        let keeper = self.keeper.lock().take();
        // It ends within its limits: a Bye takes a second at most.
        drop(keeper.map(std::thread::JoinHandle::join));
    }

    /// Where the server is.
    pub fn address(&self) -> &Address {
        &self.line.options.address
    }

    fn node<'a>(&self, inode: &'a Inode) -> Result<&'a Node> {
        Ok(inode.leaf::<Node>().ok_or(Errno::ESTALE)?)
    }

    pub(crate) fn object(&self, inode: &Inode) -> Result<Bytes> {
        Ok(self.node(inode)?.object.clone())
    }

    fn opened<'a>(&self, file: &'a File) -> Result<&'a Opened> {
        Ok(file.leaf::<Opened>().ok_or(Errno::EBADF)?)
    }

    fn identity(&self, session: &Session, identity: v1::Identity) -> Identity {
        Identity {
            dev: identity.dev ^ session.salt,
            ..identity.into()
        }
    }

    pub(crate) fn attr(&self, session: &Session, attr: v1::Attr) -> Result<Attr> {
        let attr = Attr::try_from(attr).map_err(malformed)?;
        Ok(Attr {
            dev: attr.dev ^ session.salt,
            ..attr
        })
    }

    pub(crate) fn entry(&self, session: &Session, entry: Option<v1::Entry>) -> Result<Entry> {
        let entry = entry.ok_or_else(|| malformed(Malformed("an object is missing")))?;
        let (Some(identity), Some(attr)) = (entry.identity, entry.attr) else {
            return Err(malformed(Malformed("an object without an identity")));
        };
        let attr = self.attr(session, attr)?;
        let identity = self.identity(session, identity);
        Ok(Entry {
            inode: self.table.get_or_insert(identity, attr.kind, entry.object),
            attr,
        })
    }

    /// The same of what was found, or made, under a name.
    fn entry_at(
        &self,
        answered: Answered<v1::Entry>,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        let entry = self.entry(&answered.session, Some(answered.reply))?;
        self.saw(&entry.inode, dir, name);
        Ok(entry)
    }

    pub(crate) fn saw(&self, inode: &Arc<Inode>, dir: &Arc<Inode>, name: &Name) {
        if inode.kind() != Kind::Directory
            && let Ok(node) = self.node(inode)
        {
            node.saw(dir, name);
        }
    }

    /// The object, if anybody here holds it.
    fn known(&self, session: &Session, identity: Option<v1::Identity>) -> Option<Arc<Inode>> {
        self.table.get(self.identity(session, identity?))
    }

    fn lost(&self, inode: Option<&Arc<Inode>>, dir: &Arc<Inode>, name: &Name) {
        if let Some(inode) = inode
            && let Ok(node) = self.node(inode)
        {
            node.lost(dir, name);
        }
    }

    /// The server holds what lost its last name, under a number unless that is 0. Who has it in use keeps it;
    /// when nobody has, it is let go of.
    fn held(&self, session: &Session, number: u64, inode: Option<&Arc<Inode>>) {
        if number == 0 {
            return;
        }
        let hold = Hold::new(&self.line, session.number, number);
        if let Some(node) = inode.and_then(|inode| self.node(inode).ok()) {
            node.is_held(hold);
        }
    }

    fn opened_now(
        &self,
        session: &Session,
        inode: &Arc<Inode>,
        flags: OpenFlags,
        (number, moved_atime): (u64, bool),
    ) -> Result<Arc<File>> {
        let opened = Opened::new(&self.line, self.object(inode)?, flags);
        opened.is(session.number, number);
        if flags.truncates() {
            opened.wrote(session.boot);
        }
        let file = File::new(inode.clone(), flags, opened);
        Ok(Arc::new(file.with_moved_atime(moved_atime)))
    }

    /// Where a directory stands: a fact, which the server knows.
    async fn locate_directory(&self, cx: &Context, dir: &Arc<Inode>) -> Result<Location> {
        let answered = call!(
            self,
            cx,
            Reads,
            locate,
            ObjectRequest {
                object: self.object(dir)?
            }
        );
        let path = answered.reply.path.iter().map(|name| NameBuf::new(name));
        let path = path.collect::<std::result::Result<_, _>>();
        let path = path.map_err(|_| malformed(Malformed("a path has names")))?;
        Ok(Location { path })
    }
}

fn line(options: &Options, way: Way) -> (Arc<Line>, Keeper) {
    let (state, states) = watch::channel(State::Mending);
    let (word, words) = mpsc::unbounded_channel();
    let line = Arc::new(Line::new(options.clone(), states, word));
    let keeper = Keeper::new(&line, state, words, way);
    (line, keeper)
}

/// How the first attempts came out; `None` when the keeper did not come to an end of them.
fn connected(
    options: &Options,
    first: Option<std::result::Result<(), Trouble>>,
) -> std::result::Result<(), OpenError> {
    let address = options.address.clone();
    match first {
        Some(Ok(())) => Ok(()),
        Some(Err(Trouble::Refused(reason))) => Err(OpenError::Refused { address, reason }),
        Some(Err(Trouble::Distrusted(reason))) => Err(OpenError::Distrusted { address, reason }),
        Some(Err(Trouble::NoAnswer(reason))) => Err(OpenError::NoAnswer { address, reason }),
        None => Err(OpenError::NoAnswer {
            address,
            reason: "its thread has ended".into(),
        }),
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn malformed(malformed: Malformed) -> Error {
    Error::with_story(Errno::EIO, malformed)
}

fn bytes(name: &Name) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

#[async_trait]
impl Translator for Client {
    async fn root(&self, cx: &Context) -> Result<Entry> {
        let answered = call!(self, cx, Reads, root, RootRequest {});
        self.entry(&answered.session, Some(answered.reply))
    }

    async fn lookup(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Reads,
            lookup,
            LookupRequest {
                dir: object,
                name: called
            }
        );
        self.entry_at(answered, dir, name)
    }

    async fn handle(&self, _: &Context, inode: &Arc<Inode>) -> Result<Handle> {
        Ok(Handle::new(&self.node(inode)?.object))
    }

    async fn resolve(&self, cx: &Context, handle: &Handle) -> Result<Entry> {
        let object = Bytes::copy_from_slice(handle.as_bytes());
        let answered = call!(self, cx, Reads, resolve, ObjectRequest { object: object });
        self.entry(&answered.session, Some(answered.reply))
    }

    async fn locate(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Location> {
        if inode.kind() == Kind::Directory {
            return self.locate_directory(cx, inode).await;
        }
        let (dir, name) = self.node(inode)?.last_seen().ok_or(Errno::ENOENT)?;
        let mut location = match self.locate_directory(cx, &dir).await {
            Err(error) if error.errno() == Errno::ESTALE => return Err(Errno::ENOENT.into()),
            location => location?,
        };
        location.path.push(name);
        Ok(location)
    }

    async fn whence(&self, cx: &Context, inode: &Arc<Inode>) -> Result<(Arc<Inode>, NameBuf)> {
        if inode.kind() != Kind::Directory {
            return Ok(self.node(inode)?.last_seen().ok_or(Errno::ENOENT)?);
        }
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, whence, ObjectRequest { object: object });
        let dir = self.entry(&answered.session, answered.reply.dir)?.inode;
        let name = NameBuf::new(&answered.reply.name);
        Ok((dir, name.map_err(|_| malformed(Malformed("no name")))?))
    }

    async fn getattr(&self, cx: &Context, inode: &Arc<Inode>, file: Option<&File>) -> Result<Attr> {
        let object = self.object(inode)?;
        let answered = match file {
            Some(file) => {
                let opened = self.opened(file)?;
                call!(self, cx, Reads, getattr, GetattrRequest { object: object }; file = opened)
            }
            None => call!(self, cx, Reads, getattr, GetattrRequest { object: object }),
        };
        self.attr(&answered.session, answered.reply)
    }

    async fn setattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        file: Option<&File>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let mut request = v1::SetattrRequest::setting(set);
        request.object = self.object(inode)?;
        let opened = file.map(|file| self.opened(file)).transpose()?;
        let files: Vec<&Opened> = opened.into_iter().collect();
        let fill = |request: &mut v1::SetattrRequest, numbers: &[u64]| {
            request.file = numbers.first().copied().unwrap_or_default();
        };
        let send = |mut brick: Brick, request| async move { brick.setattr(request).await };
        let answered = self
            .line
            .call(cx, Again, &files, request, fill, send)
            .await?;
        self.attr(&answered.session, answered.reply)
    }

    async fn readlink(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, readlink, ObjectRequest { object: object });
        Ok(answered.reply.data.into())
    }

    async fn mknod(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        make: &Make,
    ) -> Result<Entry> {
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            mknod,
            MknodRequest {
                dir: object,
                name: called,
                mode: make.kind.bits() | make.mode,
                umask: make.umask,
                rdev: make.rdev,
            }
        );
        self.entry_at(answered, dir, name)
    }

    async fn mkdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            mkdir,
            MkdirRequest {
                dir: object,
                name: called,
                mode: mode,
                umask: umask,
            }
        );
        self.entry_at(answered, dir, name)
    }

    async fn symlink(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry> {
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            symlink,
            SymlinkRequest {
                dir: object,
                name: called,
                target: Bytes::copy_from_slice(target),
            }
        );
        self.entry_at(answered, dir, name)
    }

    async fn link(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        let (object, at, called) = (self.object(inode)?, self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            link,
            LinkRequest {
                object: object,
                dir: at,
                name: called,
            }
        );
        self.entry_at(answered, dir, name)
    }

    async fn unlink(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            unlink,
            NameRequest {
                dir: object,
                name: called
            }
        );
        let gone = self.known(&answered.session, answered.reply.gone);
        self.lost(gone.as_ref(), dir, name);
        self.held(&answered.session, answered.reply.held, gone.as_ref());
        Ok(())
    }

    async fn rmdir(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            rmdir,
            NameRequest {
                dir: object,
                name: called
            }
        );
        let gone = self.known(&answered.session, answered.reply.gone);
        self.held(&answered.session, answered.reply.held, gone.as_ref());
        Ok(())
    }

    async fn rename(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        new_dir: &Arc<Inode>,
        new_name: &Name,
        flags: RenameFlags,
    ) -> Result<()> {
        let (from, to) = (self.object(dir)?, self.object(new_dir)?);
        let answered = call!(
            self,
            cx,
            Once,
            rename,
            RenameRequest {
                dir: from,
                name: bytes(name),
                new_dir: to,
                new_name: bytes(new_name),
                flags: v1::RenameFlags::number(flags),
            }
        );
        let moved = self.known(&answered.session, answered.reply.moved);
        let other = self.known(&answered.session, answered.reply.other);
        self.lost(moved.as_ref(), dir, name);
        self.lost(other.as_ref(), new_dir, new_name);
        self.held(&answered.session, answered.reply.held, other.as_ref());
        if let Some(moved) = &moved {
            self.saw(moved, new_dir, new_name);
        }
        if let Some(other) = &other
            && flags == RenameFlags::Exchange
        {
            self.saw(other, dir, name);
        }
        Ok(())
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
        let (object, called) = (self.object(dir)?, bytes(name));
        let answered = call!(
            self,
            cx,
            Once,
            create,
            CreateRequest {
                dir: object,
                name: called,
                flags: flags.0,
                mode: mode,
                umask: umask,
            }
        );
        let session = &answered.session;
        let entry = self.entry(session, answered.reply.entry)?;
        self.saw(&entry.inode, dir, name);
        let number = answered.reply.file;
        let file = self.opened_now(session, &entry.inode, flags, (number, false))?;
        Ok((entry, file))
    }

    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        let object = self.object(inode)?;
        let nature = if flags.truncates() { Again } else { Reads };
        let answered = call!(
            self,
            cx,
            nature,
            open,
            OpenRequest {
                object: object,
                flags: flags.0
            }
        );
        let told = (answered.reply.file, answered.reply.moved_atime);
        self.opened_now(&answered.session, inode, flags, told)
    }

    async fn read(
        &self,
        cx: &Context,
        file: &Arc<File>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let opened = self.opened(file)?;
        let mut done = 0;
        loop {
            let rest = &mut buffer[done..];
            let want = rest.len().min(MAX_DATA);
            let answered = call!(self, cx, Reads, read, ReadRequest {
                at: at.saturating_add(done as u64),
                len: want as u32,
            }; file = opened);
            let data = answered.reply.data;
            let room = rest.get_mut(..data.len()).filter(|_| data.len() <= want);
            let room = room.ok_or_else(|| malformed(Malformed("more than was asked for")))?;
            room.copy_from_slice(&data);
            done += data.len();
            if data.len() < want || done == buffer.len() {
                return Ok(done);
            }
        }
    }

    async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        let opened = self.opened(file)?;
        // Where the leaf appends by itself, twice is two lines.
        let nature = if file.flags().appends() { Once } else { Again };
        let mut done = 0;
        loop {
            let rest = &data[done..];
            let piece = &rest[..rest.len().min(MAX_DATA)];
            let written =
                self.write_piece(cx, opened, nature, at.saturating_add(done as u64), piece);
            match written.await {
                Ok(count) => done += count,
                // The next call reports it.
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
            if done == data.len() || piece.len() < MAX_DATA {
                return Ok(done);
            }
        }
    }

    async fn flush(&self, cx: &Context, file: &Arc<File>, owner: u64) -> Result<()> {
        let opened = self.opened(file)?;
        let _talk = self.line.talk().await;
        self.line.held.close(file.inode().identity(), owner);
        call!(self, cx, Reads, flush, FlushRequest { owner: owner }; file = opened);
        Ok(())
    }

    async fn release(&self, _: &Context, file: &Arc<File>) -> Result<()> {
        if let Some((session, number)) = self.opened(file)?.close() {
            self.line.close(session, number).await;
        }
        Ok(())
    }

    async fn fsync(&self, cx: &Context, file: &Arc<File>, datasync: bool) -> Result<()> {
        let opened = self.opened(file)?;
        let dirty = opened.settle();
        let synced = self.fsync_once(cx, opened, datasync).await;
        match synced {
            Ok(boot) if dirty.is_before(boot) => Err(lost()),
            Ok(_) => Ok(()),
            Err(error) => {
                opened.unsettled(dirty);
                Err(error)
            }
        }
    }

    async fn fsyncdir(&self, cx: &Context, dir: &Arc<Inode>, datasync: bool) -> Result<()> {
        let object = self.object(dir)?;
        call!(
            self,
            cx,
            Reads,
            fsyncdir,
            FsyncdirRequest {
                object: object,
                datasync: datasync
            }
        );
        Ok(())
    }

    async fn readdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        let object = self.object(dir)?;
        let answered = call!(
            self,
            cx,
            Reads,
            readdir,
            ReaddirRequest {
                object: object,
                from: from,
                max: u32::try_from(max).unwrap_or(u32::MAX),
                plus: plus,
            }
        );
        let mut entries = Vec::with_capacity(answered.reply.entries.len());
        for entry in answered.reply.entries {
            let object = match entry.entry {
                Some(object) => {
                    let object = self.entry(&answered.session, Some(object))?;
                    if let Ok(name) = Name::new(&entry.name) {
                        self.saw(&object.inode, dir, name);
                    }
                    Some(object)
                }
                None => None,
            };
            entries.push(DirEntry {
                name: Vec::from(entry.name).into(),
                ino: entry.ino,
                kind: Kind::from_mode(entry.kind),
                next: entry.next,
                entry: object,
            });
        }
        Ok(entries)
    }

    async fn snapshot(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        self.snapshot_together(cx, dir, names, most).await
    }

    async fn make_whole(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        self.make_whole_together(cx, dir, files).await
    }

    async fn getxattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        let (object, called) = (self.object(inode)?, Bytes::copy_from_slice(name));
        let answered = call!(
            self,
            cx,
            Reads,
            getxattr,
            XattrRequest {
                object: object,
                name: called
            }
        );
        Ok(answered.reply.data.into())
    }

    async fn listxattr(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, listxattr, ObjectRequest { object: object });
        Ok(answered.reply.data.into())
    }

    async fn setxattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let object = self.object(inode)?;
        let nature = if flags == XattrFlags::Create {
            Once
        } else {
            Again
        };
        call!(
            self,
            cx,
            nature,
            setxattr,
            SetxattrRequest {
                object: object,
                name: Bytes::copy_from_slice(name),
                value: Bytes::copy_from_slice(value),
                flags: v1::XattrFlags::number(flags),
            }
        );
        Ok(())
    }

    async fn removexattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        let (object, called) = (self.object(inode)?, Bytes::copy_from_slice(name));
        call!(
            self,
            cx,
            Once,
            removexattr,
            XattrRequest {
                object: object,
                name: called
            }
        );
        Ok(())
    }

    async fn get_flags(&self, cx: &Context, inode: &Arc<Inode>) -> Result<u32> {
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, get_flags, ObjectRequest { object: object });
        Ok(answered.reply.flags)
    }

    async fn set_flags(&self, cx: &Context, inode: &Arc<Inode>, flags: u32) -> Result<()> {
        let object = self.object(inode)?;
        call!(
            self,
            cx,
            Again,
            set_flags,
            SetFlagsRequest {
                object: object,
                flags: flags
            }
        );
        Ok(())
    }

    async fn get_fsx(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Fsx> {
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, get_fsx, ObjectRequest { object: object });
        Ok(answered.reply.fsx.ok_or(Errno::EIO)?.into())
    }

    async fn set_fsx(&self, cx: &Context, inode: &Arc<Inode>, fsx: &Fsx) -> Result<()> {
        let object = self.object(inode)?;
        call!(
            self,
            cx,
            Again,
            set_fsx,
            SetFsxRequest {
                object: object,
                fsx: Some(fsx.into())
            }
        );
        Ok(())
    }

    async fn fallocate(
        &self,
        cx: &Context,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        let opened = self.opened(file)?;
        let nature = match how {
            Allocate::Collapse | Allocate::Insert => Once,
            _ => Again,
        };
        call!(self, cx, nature, fallocate, FallocateRequest {
            mode: how.bits(),
            at: at,
            len: len,
        }; file = opened);
        Ok(())
    }

    async fn lseek(&self, cx: &Context, file: &Arc<File>, at: u64, seek: Seek) -> Result<u64> {
        let opened = self.opened(file)?;
        let hole = seek == Seek::Hole;
        let answered =
            call!(self, cx, Reads, lseek, LseekRequest { at: at, hole: hole }; file = opened);
        Ok(answered.reply.count)
    }

    async fn copy_file_range(
        &self,
        cx: &Context,
        from: &Arc<File>,
        from_at: u64,
        to: &Arc<File>,
        to_at: u64,
        len: u64,
    ) -> Result<u64> {
        let same = Arc::ptr_eq(from.inode(), to.inode());
        let (source, sink) = (self.opened(from)?, self.opened(to)?);
        // Within one file the second time may copy what the first one wrote.
        let nature = if same { Once } else { Again };
        let answered = call!(self, cx, nature, copy_file_range, CopyRequest {
            from_at: from_at,
            to_at: to_at,
            len: len,
        }; from = source; to = sink);
        Ok(answered.reply.count)
    }

    async fn extents(
        &self,
        cx: &Context,
        file: &Arc<File>,
        from: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        let opened = self.opened(file)?;
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let answered =
            call!(self, cx, Reads, extents, ExtentsRequest { from: from, max: max }; file = opened);
        Ok(answered.reply.extents.iter().map(Into::into).collect())
    }

    async fn clone_range(
        &self,
        cx: &Context,
        from: &Arc<File>,
        from_at: u64,
        to: &Arc<File>,
        to_at: u64,
        len: u64,
    ) -> Result<()> {
        let same = Arc::ptr_eq(from.inode(), to.inode());
        let (source, sink) = (self.opened(from)?, self.opened(to)?);
        // Within one file the second time may share what the first one brought.
        let nature = if same { Once } else { Again };
        call!(self, cx, nature, clone_range, CopyRequest {
            from_at: from_at,
            to_at: to_at,
            len: len,
        }; from = source; to = sink);
        Ok(())
    }

    async fn statfs(&self, cx: &Context, inode: &Arc<Inode>) -> Result<StatFs> {
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, statfs, ObjectRequest { object: object });
        Ok(answered.reply.into())
    }

    async fn getlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock) -> Result<Option<Lock>> {
        let opened = self.opened(file)?;
        self.line.undo_waits().await;
        let asked = Some(lock.into());
        let answered = call!(self, cx, Reads, getlk, LockRequest { lock: asked }; file = opened);
        let held = answered.reply.lock.map(TryInto::try_into);
        held.transpose().map_err(malformed)
    }

    async fn setlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock, wait: bool) -> Result<()> {
        let opened = self.opened(file)?;
        loop {
            let mut talk = Some(self.line.talk().await);
            let undos = self.line.held.undos();
            // Others go on meanwhile.
            talk.take_if(|_| wait);
            let asking = (lock.kind != LockKind::Unlock).then(|| self.line.asking(file, lock));
            let asked = v1::LockRequest {
                lock: Some(lock.into()),
                wait,
                ticket: asking.as_ref().map_or(0, |asking| asking.ticket),
                ..v1::LockRequest::default()
            };
            let answered = self.lock(cx, opened, asked).await;
            // The line's own word says nothing of what the server has done.
            if !matches!(&answered, Err(error) if error.errno() == Errno::EIO) {
                asking.into_iter().for_each(Asking::heard);
            }
            let session = &answered?.session;
            let locked = self.line.locked(session, file, opened.id, *lock, undos);
            if locked {
                return Ok(());
            }
        }
    }

    // A descriptor does not go over the wire.
    async fn lend(&self, _: &Context, _: &Arc<Inode>, _: Lend) -> Result<Option<Lent>> {
        Ok(None)
    }

    async fn quiet(&self, cx: &Context, inode: &Arc<Inode>) -> Result<bool> {
        let object = self.object(inode)?;
        let answered = call!(self, cx, Reads, quiet, ObjectRequest { object: object });
        Ok(answered.reply.quiet)
    }

    async fn sync(&self, cx: &Context) -> Result<()> {
        let dirty = self.line.unsynced.take();
        match self.sync_once(cx).await {
            Ok(boot) if dirty.is_before(boot) => Err(lost()),
            Ok(_) => Ok(()),
            Err(error) => {
                self.line.unsynced.put_back(dirty);
                Err(error)
            }
        }
    }

    async fn role(&self, role: Role) -> Result<()> {
        let outcome = match self.ask_for(role, 0).await? {
            // It was a process of this machine, and we see that it is no more.
            role::Outcome::Dead(claim) => self.ask_for(role, claim).await?,
            outcome => outcome,
        };
        let claim = role::claimed(outcome)?;
        self.line.play(role::played(role, claim));
        Ok(())
    }
}

impl Client {
    async fn ask_for(&self, role: Role, instead_of: u64) -> Result<role::Outcome> {
        let cx = &Context::internal(Origin::Admin);
        let request = self.line.role_request(role, instead_of);
        let fill = |_: &mut v1::RoleRequest, _: &[u64]| {};
        let send = |mut brick: Brick, request| async move { brick.role(request).await };
        let answered = self.line.call(cx, Reads, &[], request, fill, send).await?;
        Ok(role::outcome(answered.reply))
    }

    async fn lock(
        &self,
        cx: &Context,
        opened: &Opened,
        request: v1::LockRequest,
    ) -> Result<Answered<v1::Empty>> {
        let fill = |request: &mut v1::LockRequest, numbers: &[u64]| request.file = numbers[0];
        let send = |mut brick: Brick, request| async move { brick.setlk(request).await };
        let line = &self.line;
        line.call(cx, Reads, &[opened], request, fill, send).await
    }

    async fn write_piece(
        &self,
        cx: &Context,
        opened: &Opened,
        nature: Nature,
        at: u64,
        data: &[u8],
    ) -> Result<usize> {
        let data = Bytes::copy_from_slice(data);
        let len = data.len();
        let answered =
            call!(self, cx, nature, write, WriteRequest { at: at, data: data }; file = opened);
        match usize::try_from(answered.reply.count) {
            Ok(count) if count <= len => Ok(count),
            _ => Err(malformed(Malformed("more was written than there is"))),
        }
    }

    /// The boot of the server in which it was done.
    async fn fsync_once(&self, cx: &Context, opened: &Opened, datasync: bool) -> Result<u64> {
        let answered =
            call!(self, cx, Reads, fsync, FsyncRequest { datasync: datasync }; file = opened);
        Ok(answered.session.boot)
    }

    async fn sync_once(&self, cx: &Context) -> Result<u64> {
        let answered = call!(self, cx, Reads, sync, SyncRequest {});
        Ok(answered.session.boot)
    }
}

/// What was written may not have reached the disk before the server's machine went down.
fn lost() -> Error {
    let story = "the server's machine was restarted, and what was written before is not certain";
    Error::with_story(Errno::EIO, story)
}
