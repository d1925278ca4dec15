//! Users' operations: begin, do at the source, end. The source's answer is the user's answer.

use std::sync::Arc;

use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Errno, Error, Extent, File, Fsx, Handle, Inode, Kind,
    Lend, Lent, Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek,
    SetAttr, Snapshot, StatFs, Translator, Whole, XattrFlags, async_trait, make_whole_by_steps,
    snapshot_by_steps,
};

use crate::copies::Copies;
use crate::gate::Gate;
use crate::heal::{Books, HEAL, Held, MARKER_DIR, handle_of, known};
use crate::identities::Identities;
use crate::ledger::{Departure, Known, Lacking, Ticket, Touch, Why};
use crate::leg::Leg;
use crate::record::{Oid, Trust};

/// The users' side of a pair.
pub(crate) struct Users {
    pub(crate) source: Arc<dyn Translator>,
    pub(crate) root: Arc<Inode>,
    pub(crate) legs: Vec<UserLeg>,
    pub(crate) gate: Gate,
    /// Milliseconds that a touched object rests before it is healed.
    pub(crate) rest: u64,
    /// Whether the source's file system has leases; found out at the first chance.
    pub(crate) leases: std::sync::OnceLock<bool>,
    pub(crate) identities: Identities,
}

/// What users' operations need of a leg.
pub(crate) struct UserLeg {
    pub(crate) leg: Arc<Leg>,
    pub(crate) held: Held,
    pub(crate) copies: Copies,
}

/// An operation between begin and end, on every leg. Ends also when the operation panics.
struct Flight<'a> {
    users: &'a Users,
    tickets: Vec<Ticket>,
}

impl Flight<'_> {
    /// The operation failed: what was to go is still there.
    fn stayed(&self) {
        for (leg, ticket) in self.users.legs.iter().zip(&self.tickets) {
            leg.leg.ledger(|ledger| ledger.stayed(ticket));
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        for (leg, ticket) in self
            .users
            .legs
            .iter()
            .zip(std::mem::take(&mut self.tickets))
        {
            let now = leg.leg.now();
            leg.leg
                .ledger(|ledger| ledger.end(ticket, now, self.users.rest));
        }
    }
}

fn oid(inode: &Inode) -> Oid {
    Oid::from(inode.identity())
}

fn in_dir(dir: &Inode, name: &Name) -> [Touch; 2] {
    [
        Touch::Name(oid(dir), name.as_bytes().into()),
        attributes(dir),
    ]
}

fn attributes(inode: &Inode) -> Touch {
    Touch::Body {
        oid: oid(inode),
        data: None,
        escaped: false,
    }
}

fn content(inode: &Inode, from: u64, to: u64) -> Touch {
    Touch::Body {
        oid: oid(inode),
        data: Some((from, to)),
        escaped: false,
    }
}

/// To the end of any file.
const END: u64 = u64::MAX;

/// No directory is deeper; where the way up is longer, it goes round in circles.
const DEEPEST: usize = 1 << 20;

impl Users {
    async fn begin(
        &self,
        touches: &[Touch],
        objects: &[&Arc<Inode>],
        departures: &mut [Departure],
    ) -> Result<Flight<'_>> {
        let mut flight = Flight {
            users: self,
            tickets: Vec::new(),
        };
        for leg in &self.legs {
            let mut facts: Vec<Known> = Vec::new();
            loop {
                let now = leg.leg.now();
                let (begun, noted) = leg
                    .leg
                    .mark(|ledger| ledger.begin(touches, departures, &facts, now));
                match begun {
                    Ok(ticket) => {
                        flight.tickets.push(ticket);
                        if !noted {
                            return Err(Error::with_story(Errno::EIO, "no mark can be written"));
                        }
                        break;
                    }
                    Err(Lacking::Chains) => self.make_whole_chains(departures, objects).await,
                    Err(Lacking::Known(missing)) => {
                        for object in objects.iter().filter(|o| missing.contains(&oid(o))) {
                            facts.push(known(&*self.source, &leg.held, object).await);
                        }
                    }
                }
            }
        }
        Ok(flight)
    }

    /// Begins a write that comes to stand where the file ends, wherever that is (the caller's offset says
    /// nothing): what may be changed is all from the present end on. Who truncates it after that look marks
    /// what lies further in, and as the first flight has begun by then, that mark stays until the write is done.
    async fn append(&self, inode: &Arc<Inode>) -> Result<[Flight<'_>; 2]> {
        let first = self.begin(&[attributes(inode)], &[inode], &mut []).await?;
        let end = self.source.getattr(&HEAL, inode, None).await?.size;
        let second = self
            .begin(&[content(inode, end, END)], &[inode], &mut [])
            .await?;
        Ok([first, second])
    }

    /// The directories above, nearest first; and the nearest's handle.
    async fn chain(&self, dir: &Arc<Inode>) -> Vec<Oid> {
        let mut chain = vec![oid(dir)];
        let mut here = dir.clone();
        while here.identity() != self.root.identity() {
            match self.source.whence(&HEAL, &here).await {
                Ok((above, _)) if chain.len() < DEEPEST => {
                    chain.push(oid(&above));
                    here = above;
                }
                // Only resolved from a handle: ask where it is.
                _ => return self.chain_by_path(dir).await.unwrap_or_default(),
            }
        }
        chain
    }

    async fn chain_by_path(&self, dir: &Arc<Inode>) -> Result<Vec<Oid>> {
        let location = self.source.locate(&HEAL, dir).await?;
        let (mut here, mut chain) = (self.root.clone(), vec![oid(&self.root)]);
        for name in &location.path {
            here = self.source.lookup(&HEAL, &here, name).await?.inode;
            chain.push(oid(&here));
        }
        chain.reverse();
        Ok(if here.identity() == dir.identity() {
            chain
        } else {
            Vec::new()
        })
    }

    /// Finds out what is above these, as the ledger has asked for it. `objects`: with those that they leave.
    async fn make_whole_chains(&self, departures: &mut [Departure], objects: &[&Arc<Inode>]) {
        for departure in departures.iter_mut().filter(|its| !its.is_whole) {
            let nearest = departure.chain.first();
            let dir = objects.iter().find(|dir| nearest == Some(&oid(dir)));
            departure.chain = match dir {
                Some(dir) => self.chain(dir).await,
                None => Vec::new(),
            };
            departure.is_whole = true;
        }
    }

    async fn departure(
        &self,
        object: &Arc<Inode>,
        dir: &Arc<Inode>,
        name: &Name,
        why: Why,
    ) -> Departure {
        let nobody = Held::default();
        let held = self.legs.first().map_or(&nobody, |leg| &leg.held);
        Departure {
            object: known(&*self.source, held, object).await,
            chain: vec![oid(dir)],
            is_whole: false,
            handle: handle_of(&*self.source, dir).await,
            name: name.as_bytes().into(),
            why,
        }
    }

    async fn has_name(&self, inode: &Inode, dir: &Arc<Inode>, name: &Name) -> bool {
        let there = self.source.lookup(&HEAL, dir, name).await;
        there.is_ok_and(|there| there.inode.identity() == inode.identity())
    }

    /// At the end of an operation: whether what it changed is still what it was marked as. Where not, all is compared,
    /// and until the next start nothing is called ready.
    async fn keep_watch(&self, changed: &[&Arc<Inode>]) {
        let Some(lost) = self.identities.lost(changed) else {
            return;
        };
        let path = self.source.locate(&HEAL, lost).await;
        let path = path.map_or_else(|_| "something".to_owned(), |location| location.display());
        self.identities.tell(&path);
        for leg in &self.legs {
            let root = known(&*self.source, &leg.held, &self.root).await;
            let now = leg.leg.now();
            leg.leg.ledger(|ledger| {
                ledger.set_unverified();
                ledger.plant_tree(&root, Trust::NOTHING, now);
            });
        }
    }

    /// A name has gone: what had no other one is not copied any more, so that its space is free.
    async fn end_vain_copies(&self) {
        for leg in &self.legs {
            for copy in leg.copies.underway() {
                let now = self.source.getattr(&HEAL, &copy.inode, None).await;
                let gone = match now {
                    Ok(attr) => attr.nlink == 0,
                    Err(error) => error.errno() == Errno::ESTALE,
                };
                if gone {
                    leg.copies.end(&copy);
                }
            }
        }
    }

    fn image_of(&self, inode: &Inode, trust: Trust) -> Touch {
        Touch::Image {
            oid: oid(inode),
            root: oid(&self.root),
            trust,
        }
    }

    /// After a rename: pending marks of what moved are found under the new name.
    async fn relocate(&self, object: &Arc<Inode>, dir: &Arc<Inode>, name: &Name) {
        if object.kind() == Kind::Directory {
            let (object, dir) = (oid(object), oid(dir));
            for leg in &self.legs {
                leg.leg
                    .ledger(|ledger| ledger.born_moves(object, dir, name.as_bytes()));
            }
            return;
        }
        if let Some(handle) = handle_of(&*self.source, dir).await {
            for leg in &self.legs {
                let whence = (handle.clone(), name.as_bytes().into());
                let dir = Some(oid(dir));
                leg.leg
                    .ledger(|ledger| ledger.relocate(oid(object), dir, whence));
            }
        }
    }

    fn usable(&self, dir: &Inode, name: &Name) -> Result<()> {
        if dir.kind() != Kind::Directory {
            return Err(Error::new(Errno::ENOTDIR));
        }
        let ours = *name.as_bytes() == *MARKER_DIR && dir.identity() == self.root.identity();
        if ours {
            Err(Error::new(Errno::EPERM))
        } else {
            Ok(())
        }
    }

    /// What a user looks at is healed next.
    fn urge(&self, inode: &Inode) {
        if inode.kind() == Kind::Directory {
            for leg in &self.legs {
                leg.leg
                    .ledger(|ledger| ledger.trees() > 0 && ledger.urge(oid(inode)));
            }
        }
    }
}

#[async_trait]
impl Translator for Users {
    async fn root(&self, cx: &Context) -> Result<Entry> {
        self.source.root(cx).await
    }

    async fn lookup(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
        let entry = self.source.lookup(cx, dir, name).await?;
        self.urge(dir);
        self.urge(&entry.inode);
        Ok(entry)
    }

    async fn handle(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Handle> {
        self.source.handle(cx, inode).await
    }

    async fn resolve(&self, cx: &Context, handle: &Handle) -> Result<Entry> {
        self.source.resolve(cx, handle).await
    }

    async fn locate(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Location> {
        self.source.locate(cx, inode).await
    }

    async fn whence(&self, cx: &Context, inode: &Arc<Inode>) -> Result<(Arc<Inode>, NameBuf)> {
        self.source.whence(cx, inode).await
    }

    async fn getattr(&self, cx: &Context, inode: &Arc<Inode>, file: Option<&File>) -> Result<Attr> {
        self.source.getattr(cx, inode, file).await
    }

    async fn setattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        file: Option<&File>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let _pass = self.gate.enter().await?;
        let touch = set
            .size
            .map_or(attributes(inode), |size| content(inode, size, END));
        let _flight = self.begin(&[touch], &[inode], &mut []).await?;
        let done = self.source.setattr(cx, inode, file, set).await;
        self.keep_watch(&[inode]).await;
        done
    }

    async fn readlink(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        self.source.readlink(cx, inode).await
    }

    async fn mknod(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        make: &Make,
    ) -> Result<Entry> {
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&in_dir(dir, name), &[dir], &mut []).await?;
        let done = self.source.mknod(cx, dir, name, make).await;
        self.keep_watch(&[dir]).await;
        done
    }

    async fn mkdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&in_dir(dir, name), &[dir], &mut []).await?;
        let made = self.source.mkdir(cx, dir, name, mode, umask).await?;
        self.keep_watch(&[dir]).await;
        // Before the end of the flight: no healer has seen it yet.
        for leg in &self.legs {
            leg.leg
                .ledger(|ledger| ledger.bear(oid(&made.inode), oid(dir), name.as_bytes()));
        }
        Ok(made)
    }

    async fn symlink(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry> {
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&in_dir(dir, name), &[dir], &mut []).await?;
        let done = self.source.symlink(cx, dir, name, target).await;
        self.keep_watch(&[dir]).await;
        done
    }

    async fn link(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let [slot, dir_body] = in_dir(dir, name);
        let mut touches = vec![slot, dir_body, attributes(inode), Touch::Names(oid(inode))];
        let mut objects = vec![dir, inode];
        let mut departures = Vec::new();
        // A name that it has: where its image stands, or will be looked for once more. Without
        // that the two names could become two objects on the sink.
        // What was last seen is only a hint, as answers overtake each other. (Where there is none, a name was
        // taken away since the object was last healed: it has a mark, or its image is known.)
        let hint = self.source.whence(&HEAL, inode).await.ok();
        let known_name = match &hint {
            Some((dir, name)) if self.has_name(inode, dir, name).await => hint.clone(),
            _ => None,
        };
        match &known_name {
            Some((old_dir, old_name)) => {
                departures.push(self.departure(inode, old_dir, old_name, Why::Linked).await);
                touches.push(Touch::Name(oid(old_dir), old_name.as_bytes().into()));
                touches.push(attributes(old_dir));
                objects.push(old_dir);
            }
            None if hint.is_some() => {
                touches.push(self.image_of(inode, Trust::ALL));
                objects.push(&self.root);
            }
            None => {}
        }
        let _flight = self.begin(&touches, &objects, &mut departures).await?;
        // From now on nothing is healed under that name before this is done, nor under another one that somebody gives
        // the object meanwhile. But before it was marked it may have left that name; then what was written down of
        // its image is not true.
        let _wide = match &known_name {
            Some((old_dir, old_name)) if !self.has_name(inode, old_dir, old_name).await => {
                let all = self.image_of(inode, Trust::NOTHING);
                Some(self.begin(&[all], &[&self.root], &mut []).await?)
            }
            _ => None,
        };
        let done = self.source.link(cx, inode, dir, name).await;
        self.keep_watch(&[inode, dir]).await;
        done
    }

    async fn unlink(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&in_dir(dir, name), &[dir], &mut []).await?;
        self.source.unlink(cx, dir, name).await?;
        self.keep_watch(&[dir]).await;
        self.end_vain_copies().await;
        Ok(())
    }

    async fn rmdir(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let mut departures = Vec::new();
        if let Ok(victim) = self.source.lookup(&HEAL, dir, name).await {
            departures.push(self.departure(&victim.inode, dir, name, Why::Dies).await);
        }
        let flight = self
            .begin(&in_dir(dir, name), &[dir], &mut departures)
            .await?;
        let removed = self.source.rmdir(cx, dir, name).await;
        if removed.is_err() {
            flight.stayed();
        }
        self.keep_watch(&[dir]).await;
        removed
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
        self.usable(dir, name)?;
        self.usable(new_dir, new_name)?;
        let _pass = self.gate.enter().await?;
        let object = self.source.lookup(&HEAL, dir, name).await?;
        let other = self.source.lookup(&HEAL, new_dir, new_name).await.ok();
        let mut departures = vec![self.departure(&object.inode, dir, name, Why::Moves).await];
        if let Some(other) = &other {
            let why = match flags {
                RenameFlags::Exchange => Why::Moves,
                _ => Why::Dies,
            };
            if why == Why::Moves || other.inode.kind() == Kind::Directory {
                departures.push(self.departure(&other.inode, new_dir, new_name, why).await);
            }
        }
        let mut touches = in_dir(dir, name).to_vec();
        touches.extend(in_dir(new_dir, new_name));
        let mut objects = vec![dir, new_dir];
        // A directory's ".." is part of it, and on some file systems (xfs) its time changes with it.
        touches.push(attributes(&object.inode));
        objects.push(&object.inode);
        if let (Some(other), RenameFlags::Exchange) = (&other, flags) {
            touches.push(attributes(&other.inode));
            objects.push(&other.inode);
        }
        let flight = self.begin(&touches, &objects, &mut departures).await?;
        let renamed = self
            .source
            .rename(cx, dir, name, new_dir, new_name, flags)
            .await;
        for leg in &self.legs {
            let carry = |departures: &[Departure]| {
                let now = leg.leg.now();
                leg.leg.ledger(|ledger| ledger.carry(departures, now))
            };
            // A walk was asked for meanwhile.
            while carry(&departures).is_err() {
                self.make_whole_chains(&mut departures, &objects).await;
            }
        }
        if renamed.is_err() {
            flight.stayed();
        }
        self.keep_watch(&[&object.inode, dir, new_dir]).await;
        renamed?;
        if other.is_some() {
            self.end_vain_copies().await;
        }
        self.relocate(&object.inode, new_dir, new_name).await;
        if let (Some(other), RenameFlags::Exchange) = (&other, flags) {
            self.relocate(&other.inode, dir, name).await;
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
        self.usable(dir, name)?;
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&in_dir(dir, name), &[dir], &mut []).await?;
        let done = self.source.create(cx, dir, name, flags, mode, umask).await;
        self.keep_watch(&[dir]).await;
        done
    }

    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        if !flags.truncates() {
            let opened = self.source.open(cx, inode, flags).await;
            self.keep_watch(&[inode]).await;
            return opened;
        }
        let _pass = self.gate.enter().await?;
        let _flight = self
            .begin(&[content(inode, 0, END)], &[inode], &mut [])
            .await?;
        let opened = self.source.open(cx, inode, flags).await;
        self.keep_watch(&[inode]).await;
        opened
    }

    async fn read(
        &self,
        cx: &Context,
        file: &Arc<File>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        self.source.read(cx, file, at, buffer).await
    }

    async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        let _pass = self.gate.enter().await?;
        let inode = file.inode();
        if file.flags().appends() {
            let _flights = self.append(inode).await?;
            return self.source.write(cx, file, at, data).await;
        }
        let touch = content(inode, at, at.saturating_add(data.len() as u64));
        let _flight = self.begin(&[touch], &[inode], &mut []).await?;
        self.source.write(cx, file, at, data).await
    }

    async fn flush(&self, cx: &Context, file: &Arc<File>, owner: u64) -> Result<()> {
        self.source.flush(cx, file, owner).await
    }

    async fn release(&self, cx: &Context, file: &Arc<File>) -> Result<()> {
        self.source.release(cx, file).await
    }

    async fn fsync(&self, cx: &Context, file: &Arc<File>, datasync: bool) -> Result<()> {
        self.source.fsync(cx, file, datasync).await
    }

    async fn fsyncdir(&self, cx: &Context, dir: &Arc<Inode>, datasync: bool) -> Result<()> {
        self.source.fsyncdir(cx, dir, datasync).await
    }

    async fn readdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        if from == 0 {
            self.urge(dir);
        }
        self.source.readdir(cx, dir, from, max, plus).await
    }

    async fn snapshot(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        snapshot_by_steps(self, cx, dir, names, most).await
    }

    // Each step sets its own mark.
    async fn make_whole(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        make_whole_by_steps(self, cx, dir, files).await
    }

    async fn getxattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        self.source.getxattr(cx, inode, name).await
    }

    async fn listxattr(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        self.source.listxattr(cx, inode).await
    }

    async fn setxattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&[attributes(inode)], &[inode], &mut []).await?;
        let done = self.source.setxattr(cx, inode, name, value, flags).await;
        self.keep_watch(&[inode]).await;
        done
    }

    async fn removexattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&[attributes(inode)], &[inode], &mut []).await?;
        let done = self.source.removexattr(cx, inode, name).await;
        self.keep_watch(&[inode]).await;
        done
    }

    async fn get_flags(&self, cx: &Context, inode: &Arc<Inode>) -> Result<u32> {
        self.source.get_flags(cx, inode).await
    }

    async fn set_flags(&self, cx: &Context, inode: &Arc<Inode>, flags: u32) -> Result<()> {
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&[attributes(inode)], &[inode], &mut []).await?;
        let done = self.source.set_flags(cx, inode, flags).await;
        self.keep_watch(&[inode]).await;
        done
    }

    async fn get_fsx(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Fsx> {
        self.source.get_fsx(cx, inode).await
    }

    async fn set_fsx(&self, cx: &Context, inode: &Arc<Inode>, fsx: &Fsx) -> Result<()> {
        let _pass = self.gate.enter().await?;
        let _flight = self.begin(&[attributes(inode)], &[inode], &mut []).await?;
        self.source.set_fsx(cx, inode, fsx).await
    }

    async fn fallocate(
        &self,
        cx: &Context,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        let _pass = self.gate.enter().await?;
        let to = match how {
            Allocate::Collapse | Allocate::Insert => END,
            _ => at.saturating_add(len),
        };
        let _flight = self
            .begin(&[content(file.inode(), at, to)], &[file.inode()], &mut [])
            .await?;
        self.source.fallocate(cx, file, how, at, len).await
    }

    async fn lseek(&self, cx: &Context, file: &Arc<File>, at: u64, seek: Seek) -> Result<u64> {
        self.source.lseek(cx, file, at, seek).await
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
        let _pass = self.gate.enter().await?;
        let touch = content(to.inode(), to_at, to_at.saturating_add(len));
        let _flight = self.begin(&[touch], &[to.inode()], &mut []).await?;
        self.source
            .copy_file_range(cx, from, from_at, to, to_at, len)
            .await
    }

    async fn extents(
        &self,
        cx: &Context,
        file: &Arc<File>,
        from: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        self.source.extents(cx, file, from, max).await
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
        let _pass = self.gate.enter().await?;
        let touch = content(to.inode(), to_at, to_at.saturating_add(len));
        let _flight = self.begin(&[touch], &[to.inode()], &mut []).await?;
        self.source
            .clone_range(cx, from, from_at, to, to_at, len)
            .await
    }

    async fn statfs(&self, cx: &Context, inode: &Arc<Inode>) -> Result<StatFs> {
        self.source.statfs(cx, inode).await
    }

    async fn getlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock) -> Result<Option<Lock>> {
        self.source.getlk(cx, file, lock).await
    }

    async fn setlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock, wait: bool) -> Result<()> {
        self.source.setlk(cx, file, lock, wait).await
    }

    async fn lend(&self, cx: &Context, inode: &Arc<Inode>, lend: Lend) -> Result<Option<Lent>> {
        // Without leases nobody could ever tell when the last unseen writer is gone. And who reads
        // past us may be followed by who writes past us: it is all or nothing.
        let leases = match self.leases.get() {
            Some(leases) => *leases,
            None => {
                let leases = self.source.quiet(&HEAL, inode).await.is_ok();
                *self.leases.get_or_init(|| leases)
            }
        };
        if !leases {
            return Ok(None);
        }
        if lend == Lend::Read {
            return self.source.lend(cx, inode, lend).await;
        }
        let _pass = self.gate.enter().await?;
        let touch = Touch::Body {
            oid: oid(inode),
            data: Some((0, END)),
            escaped: true,
        };
        let _flight = self.begin(&[touch], &[inode], &mut []).await?;
        self.source.lend(cx, inode, lend).await
    }

    async fn quiet(&self, cx: &Context, inode: &Arc<Inode>) -> Result<bool> {
        self.source.quiet(cx, inode).await
    }

    async fn sync(&self, cx: &Context) -> Result<()> {
        self.source.sync(cx).await
    }

    async fn role(&self, role: Role) -> Result<()> {
        // A pair has given its bricks their roles.
        let _ = role;
        Ok(())
    }
}
