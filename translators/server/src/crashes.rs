//! A server that is killed at each point of a changing call, over a brick that lives on: the call
//! is done once, and answered as it was done, whatever others do before it is sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use hermitfs_api::*;
use hermitfs_proto::brick::v1::brick_server::Brick;
use hermitfs_proto::brick::{Fault, VERSION, fault_of, v1};
use hermitfs_testkit::Memory;
use hermitfs_testkit::Tree;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use crate::Options;
use crate::door::Door;
use crate::server::Shared;

/// Where the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// Before it knows what stands there, so before anything is recorded.
    Look = 1,
    /// Recorded, and not done.
    Before = 2,
    /// Done, and not recorded so.
    After = 3,
    /// Recorded as done, and the answer lost.
    Answered = 4,
}

/// A brick that stops the world at one point.
struct Halting {
    memory: Arc<Memory>,
    at: AtomicU8,
    halted: Arc<Notify>,
    /// For who was not killed after all.
    resume: Notify,
}

impl Halting {
    async fn halt(&self, point: Point) {
        let at = point as u8;
        let here = self
            .at
            .compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst);
        if here.is_ok() {
            self.halted.notify_one();
            self.resume.notified().await;
        }
    }
}

macro_rules! halting {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Filter for Halting {
            fn below(&self) -> &dyn Translator {
                &*self.memory
            }

            async fn lookup(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
                self.halt(Point::Look).await;
                self.memory.lookup(cx, dir, name).await
            }

            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.halt(Point::Before).await;
                let done = self.memory.$name($($arg),*).await;
                self.halt(Point::After).await;
                done
            })*
        }
    };
}

halting! {
    mknod(cx: &Context, dir: &Arc<Inode>, name: &Name, make: &Make) -> Result<Entry>;
    mkdir(cx: &Context, dir: &Arc<Inode>, name: &Name, mode: u32, umask: u32) -> Result<Entry>;
    symlink(cx: &Context, dir: &Arc<Inode>, name: &Name, target: &[u8]) -> Result<Entry>;
    link(cx: &Context, inode: &Arc<Inode>, dir: &Arc<Inode>, name: &Name) -> Result<Entry>;
    unlink(cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()>;
    rmdir(cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()>;
    rename(cx: &Context, dir: &Arc<Inode>, name: &Name, new_dir: &Arc<Inode>, new_name: &Name, flags: RenameFlags) -> Result<()>;
    create(cx: &Context, dir: &Arc<Inode>, name: &Name, flags: OpenFlags, mode: u32, umask: u32) -> Result<(Entry, Arc<File>)>;
    write(cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize>;
    setxattr(cx: &Context, inode: &Arc<Inode>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()>;
    removexattr(cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()>;
}

/// One server process.
struct Process {
    runtime: Runtime,
    door: Door,
    brick: Arc<Halting>,
    halted: Arc<Notify>,
}

/// One client, in its session with one process.
#[derive(Clone)]
struct Client {
    id: u8,
    session: u64,
    root: Bytes,
}

impl Process {
    fn start(memory: &Arc<Memory>, state: &TempDir) -> Process {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let halted = Arc::new(Notify::new());
        let brick = Arc::new(Halting {
            memory: memory.clone(),
            at: AtomicU8::new(0),
            halted: halted.clone(),
            resume: Notify::new(),
        });
        let options = Options::new("unix:/nowhere".parse().unwrap());
        let volumes: Vec<(String, Arc<dyn Translator>)> = vec![("brick".into(), brick.clone())];
        let shared = Shared::open(&options, volumes, state.path()).unwrap();
        Process {
            runtime,
            door: Door {
                shared,
                near: false,
            },
            brick,
            halted,
        }
    }

    fn client(&self, id: u8, next: u64) -> Client {
        self.client_by(&self.door, id, next)
    }

    /// One of the server's process.
    fn near_client(&self, id: u8) -> Client {
        let shared = self.door.shared.clone();
        self.client_by(&Door { shared, near: true }, id, 1)
    }

    fn client_by(&self, door: &Door, id: u8, next: u64) -> Client {
        let hello = v1::HelloRequest {
            versions: vec![VERSION],
            client: Bytes::from(vec![id; 16]),
            volume: "brick".into(),
            next,
            ..v1::HelloRequest::default()
        };
        let reply = Brick::hello(door, Request::new(hello));
        let session = self.runtime.block_on(reply).unwrap().into_inner().session;
        let head = Some(v1::Head {
            session,
            ..v1::Head::default()
        });
        let root = self.door.root(Request::new(v1::RootRequest { head }));
        let root = self.runtime.block_on(root).unwrap().into_inner().object;
        Client { id, session, root }
    }

    /// What an object is called, if the name is there.
    fn object(&self, client: &Client, name: &str) -> Option<Bytes> {
        let request = v1::LookupRequest {
            head: client.head(0, false),
            dir: client.root.clone(),
            name: Bytes::copy_from_slice(name.as_bytes()),
        };
        let found = self
            .runtime
            .block_on(self.door.lookup(Request::new(request)));
        found.ok().map(|found| found.into_inner().object)
    }

    /// Sends a call; `None` when the server stopped at the point.
    fn send(
        &self,
        client: &Client,
        seq: u64,
        again: bool,
        call: &Call,
        kill: Option<Point>,
    ) -> Option<Outcome> {
        let file = match (&call.act, &call.object) {
            (Act::Append(..), Some(object)) => {
                let request = v1::OpenRequest {
                    head: client.head(0, false),
                    object: object.clone(),
                    flags: libc::O_WRONLY | libc::O_APPEND | OpenFlags::SHARED,
                };
                match self.runtime.block_on(self.door.open(Request::new(request))) {
                    Ok(reply) => reply.into_inner().file,
                    Err(status) => return Some(outcome::<()>(Err(status))),
                }
            }
            _ => 0,
        };
        self.brick
            .at
            .store(kill.map_or(0, |kill| kill as u8), Ordering::SeqCst);
        let done = self.runtime.block_on(async {
            tokio::select! {
                biased;
                done = self.request(client, client.head(seq, again), call, file) => Some(done),
                () = self.halted.notified() => None,
            }
        });
        self.brick.at.store(0, Ordering::SeqCst);
        done.filter(|_| kill != Some(Point::Answered))
    }

    async fn request(
        &self,
        client: &Client,
        head: Option<v1::Head>,
        call: &Call,
        file: u64,
    ) -> Outcome {
        let (door, dir) = (&self.door, client.root.clone());
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let object = call.object.clone().unwrap_or_default();
        match &call.act {
            Act::Create(name) => {
                let flags = libc::O_RDWR;
                let (name, mode, umask) = (bytes(name), 0o644, 0);
                let request = v1::CreateRequest {
                    head,
                    dir,
                    name,
                    flags,
                    mode,
                    umask,
                };
                let reply = door.create(Request::new(request)).await;
                if let Ok(reply) = &reply {
                    // The file that was told is open.
                    let file = reply.get_ref().file;
                    let head = client.head(0, false);
                    let fsync = v1::FsyncRequest {
                        head,
                        file,
                        datasync: false,
                    };
                    let opened = door
                        .shared
                        .sessions
                        .enter(client.session)
                        .unwrap()
                        .0
                        .file(file);
                    assert!(opened.is_ok(), "{fsync:?}");
                }
                outcome(reply)
            }
            Act::Mkdir(name) => {
                let (name, mode, umask) = (bytes(name), 0o755, 0);
                let request = v1::MkdirRequest {
                    head,
                    dir,
                    name,
                    mode,
                    umask,
                };
                outcome(door.mkdir(Request::new(request)).await)
            }
            Act::Mknod(name) => {
                let (name, mode) = (bytes(name), libc::S_IFIFO | 0o600);
                let request = v1::MknodRequest {
                    head,
                    dir,
                    name,
                    mode,
                    ..Default::default()
                };
                outcome(door.mknod(Request::new(request)).await)
            }
            Act::Symlink(name) => {
                let (name, target) = (bytes(name), bytes("target"));
                let request = v1::SymlinkRequest {
                    head,
                    dir,
                    name,
                    target,
                };
                outcome(door.symlink(Request::new(request)).await)
            }
            Act::Link(_, name) => {
                let name = bytes(name);
                let request = v1::LinkRequest {
                    head,
                    object,
                    dir,
                    name,
                };
                outcome(door.link(Request::new(request)).await)
            }
            Act::Unlink(name) => {
                let request = v1::NameRequest {
                    head,
                    dir,
                    name: bytes(name),
                };
                outcome(door.unlink(Request::new(request)).await)
            }
            Act::Rmdir(name) => {
                let request = v1::NameRequest {
                    head,
                    dir,
                    name: bytes(name),
                };
                outcome(door.rmdir(Request::new(request)).await)
            }
            Act::Rename(name, new_name, flags) => {
                let (name, new_name) = (bytes(name), bytes(new_name));
                let (new_dir, flags) = (dir.clone(), v1::RenameFlags::number(*flags));
                let request = v1::RenameRequest {
                    head,
                    dir,
                    name,
                    new_dir,
                    new_name,
                    flags,
                };
                outcome(door.rename(Request::new(request)).await)
            }
            Act::Append(_, data) => {
                let request = v1::WriteRequest {
                    head,
                    file,
                    at: 0,
                    data: bytes(data),
                };
                outcome(door.write(Request::new(request)).await)
            }
            Act::SetXattr(_, flags) => {
                let (name, value) = (bytes("user.x"), bytes("value"));
                let flags = v1::XattrFlags::number(*flags);
                let request = v1::SetxattrRequest {
                    head,
                    object,
                    name,
                    value,
                    flags,
                };
                outcome(door.setxattr(Request::new(request)).await)
            }
            Act::RemoveXattr(_) => {
                let request = v1::XattrRequest {
                    head,
                    object,
                    name: bytes("user.x"),
                };
                outcome(door.removexattr(Request::new(request)).await)
            }
        }
    }
}

impl Client {
    fn head(&self, seq: u64, again: bool) -> Option<v1::Head> {
        Some(v1::Head {
            session: self.session,
            seq,
            again,
            ..v1::Head::default()
        })
    }
}

/// 0, or an errno.
type Outcome = i32;

fn outcome<T>(answer: std::result::Result<Response<T>, Status>) -> Outcome {
    match answer.map_err(fault_of) {
        Ok(_) => 0,
        Err(Fault::Operation(error)) => error.errno().raw(),
        Err(fault) => panic!("{fault:?}"),
    }
}

#[derive(Clone, Debug)]
enum Act {
    Create(&'static str),
    Mkdir(&'static str),
    Mknod(&'static str),
    Symlink(&'static str),
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str, RenameFlags),
    Append(&'static str, &'static str),
    SetXattr(&'static str, XattrFlags),
    RemoveXattr(&'static str),
}

/// A call with the object that it names, which it knows from before.
struct Call {
    act: Act,
    object: Option<Bytes>,
}

impl Call {
    /// `None` where it names an object that is not there, or one that this cannot be done with.
    fn prepare(process: &Process, client: &Client, act: &Act) -> Option<Call> {
        let object = match act {
            Act::Link(name, _)
            | Act::Append(name, _)
            | Act::SetXattr(name, _)
            | Act::RemoveXattr(name) => Some(process.object(client, name)?),
            _ => None,
        };
        let act = act.clone();
        Some(Call { act, object })
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
}

fn act() -> impl Strategy<Value = Act> {
    let flags = prop_oneof![
        Just(RenameFlags::Replace),
        Just(RenameFlags::NoReplace),
        Just(RenameFlags::Exchange),
        Just(RenameFlags::Whiteout),
        Just(RenameFlags::WhiteoutNoReplace)
    ];
    let data = prop_oneof![Just("one"), Just("two"), Just("three")];
    prop_oneof![
        3 => name().prop_map(Act::Create),
        1 => name().prop_map(Act::Mkdir),
        1 => name().prop_map(Act::Mknod),
        1 => name().prop_map(Act::Symlink),
        2 => (name(), name()).prop_map(|(a, b)| Act::Link(a, b)),
        3 => name().prop_map(Act::Unlink),
        1 => name().prop_map(Act::Rmdir),
        4 => (name(), name(), flags).prop_map(|(a, b, flags)| Act::Rename(a, b, flags)),
        3 => (name(), data).prop_map(|(name, data)| Act::Append(name, data)),
        1 => name().prop_map(|name| Act::SetXattr(name, XattrFlags::Create)),
        1 => name().prop_map(Act::RemoveXattr),
    ]
}

/// A brick with a server, and what was done before.
struct World {
    memory: Arc<Memory>,
    state: TempDir,
    process: Process,
}

impl World {
    fn new(setup: &[Act]) -> World {
        let memory = Arc::new(Memory::new());
        let state = tempfile::tempdir().unwrap();
        let process = Process::start(&memory, &state);
        let world = World {
            memory,
            state,
            process,
        };
        let client = world.process.client(1, 1);
        for (act, seq) in setup.iter().zip(1..) {
            world.others(&client, seq, act);
        }
        world
    }

    /// Done without any trouble.
    fn others(&self, client: &Client, seq: u64, act: &Act) {
        if let Some(call) = Call::prepare(&self.process, client, act) {
            self.process.send(client, seq, false, &call, None).unwrap();
        }
    }

    fn kill(&mut self) {
        self.process = Process::start(&self.memory, &self.state);
    }

    fn tree(&self) -> Tree {
        Tree::of(&*self.memory, &[]).unwrap().without_times()
    }
}

/// How it comes out without a kill, with the others' work before or after it.
fn plainly(setup: &[Act], act: &Act, others: &[Act], first: bool) -> Option<(Outcome, Tree)> {
    let world = World::new(setup);
    let (client, other) = (world.process.client(2, 1), world.process.client(3, 1));
    let call = Call::prepare(&world.process, &client, act)?;
    let send = || world.process.send(&client, 1, false, &call, None).unwrap();
    let mut done = first.then(send);
    for (act, seq) in others.iter().zip(1..) {
        world.others(&other, seq, act);
    }
    let done = *done.get_or_insert_with(send);
    Some((done, world.tree()))
}

fn point() -> impl Strategy<Value = Point> {
    prop_oneof![
        Just(Point::Look),
        Just(Point::Before),
        Just(Point::After),
        Just(Point::Answered)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_call_whose_server_is_killed_is_done_once_and_answered_so(
        setup in prop::collection::vec(act(), 0..6),
        act in act(),
        kill in point(),
        more_kills in 0..3usize,
        others in prop::collection::vec(act(), 0..4),
    ) {
        let Some(before) = plainly(&setup, &act, &others, true) else {
            return Ok(());
        };
        let after = plainly(&setup, &act, &others, false).expect("prepared before");

        let mut world = World::new(&setup);
        let client = world.process.client(2, 1);
        let call = Call::prepare(&world.process, &client, &act).expect("as above");
        let lost = world.process.send(&client, 1, false, &call, Some(kill));
        // Where there is nothing to look at, it was not killed: it is sent again all the same.
        let reached = lost.is_none();
        world.kill();
        let other = world.process.client(3, 1);
        for (act, seq) in others.iter().zip(1..) {
            world.others(&other, seq, act);
        }
        for _ in 0..more_kills {
            world.kill();
        }
        let client = world.process.client(2, 2);
        let answer = world.process.send(&client, 1, true, &call, None).unwrap();
        let tree = world.tree();
        // What it made or names, others may have removed since.
        let is_gone = |answer| answer == libc::ESTALE && (tree == before.1 || tree == after.1);
        prop_assert!(
            is_gone(answer)
                || (answer, &tree) == (before.0, &before.1)
                || (answer, &tree) == (after.0, &after.1),
            "{answer}, killed: {reached}\n{tree:#?}\nbut {before:#?}\nor {after:#?}"
        );
        if !reached || kill == Point::Answered {
            prop_assert!(is_gone(answer) || answer == before.0, "it had been answered");
            prop_assert_eq!(&tree, &before.1);
        }
        // And once more, and by a server that was killed once more.
        for _ in 0..2 {
            let again = world.process.send(&client, 1, true, &call, None).unwrap();
            prop_assert!(again == answer || is_gone(again), "{again} after {answer}");
            prop_assert_eq!(&world.tree(), &tree);
        }
        world.kill();
        let client = world.process.client(2, 2);
        let again = world.process.send(&client, 1, true, &call, None).unwrap();
        prop_assert!(again == answer || is_gone(again), "{again} after {answer}");
        prop_assert_eq!(&world.tree(), &tree);
    }
}

#[test]
fn what_comes_while_it_is_being_done_waits_for_the_same_answer() {
    let world = World::new(&[]);
    let client = world.process.client(2, 1);
    let call = Call {
        act: Act::Create("a"),
        object: None,
    };
    let head = |again| client.head(1, again);
    let door = &world.process;
    world.process.runtime.block_on(async {
        let (first, second) = tokio::join!(
            door.request(&client, head(false), &call, 0),
            door.request(&client, head(true), &call, 0),
        );
        assert_eq!((first, second), (0, 0));
    });
    assert_eq!(world.tree().0.len(), 2, "the root and the file");
}

#[test]
fn an_attribute_is_not_set_by_others_while_somebody_adds_it() {
    let mut world = World::new(&[Act::Create("a")]);
    let call = |world: &World, client: &Client, flags| {
        Call::prepare(&world.process, client, &Act::SetXattr("a", flags)).unwrap()
    };
    let (adds, sets) = (world.process.client(2, 1), world.process.client(3, 1));
    let add = call(&world, &adds, XattrFlags::Create);
    let killed = world
        .process
        .send(&adds, 1, false, &add, Some(Point::Before));
    assert_eq!(killed, None);
    let set = call(&world, &sets, XattrFlags::Any);
    let waits = world.process.runtime.block_on(async {
        let set = world.process.request(&sets, sets.head(1, false), &set, 0);
        tokio::time::timeout(std::time::Duration::from_millis(100), set).await
    });
    assert!(
        waits.is_err(),
        "what it sets would be taken for the other's"
    );
    world.kill();
    let (adds, sets) = (world.process.client(2, 2), world.process.client(3, 2));
    let send = |client, call| world.process.send(client, 1, true, call, None);
    assert_eq!(send(&sets, &set), Some(0));
    assert_eq!(send(&adds, &add), Some(libc::EEXIST), "and nobody's is");
}

#[test]
fn who_ends_with_the_server_leaves_no_records_and_waits_for_those_who_are_judged_by_theirs() {
    let mut world = World::new(&[]);
    let (far, near) = (world.process.client(2, 1), world.process.near_client(3));
    let records = world.state.path().join("replies");
    let before = std::fs::read(&records).unwrap();
    for (act, seq) in [
        Act::Create("b"),
        Act::Rename("b", "c", RenameFlags::Replace),
    ]
    .iter()
    .zip(1..)
    {
        world.others(&near, seq, act);
    }
    assert_eq!(world.tree().0.len(), 2, "the root and the file");
    assert_eq!(std::fs::read(&records).unwrap(), before);

    let create = Call {
        act: Act::Create("a"),
        object: None,
    };
    let killed = world
        .process
        .send(&far, 1, false, &create, Some(Point::Before));
    assert_eq!(killed, None);
    let waits = world.process.runtime.block_on(async {
        let near = world
            .process
            .request(&near, near.head(3, false), &create, 0);
        tokio::time::timeout(std::time::Duration::from_millis(100), near).await
    });
    assert!(
        waits.is_err(),
        "what it makes would be taken for the other's"
    );
    world.kill();
    let far = world.process.client(2, 2);
    assert_eq!(world.process.send(&far, 1, true, &create, None), Some(0));
}

#[test]
fn a_call_goes_on_when_its_connection_is_cut() {
    let world = World::new(&[]);
    let client = world.process.client(2, 1);
    let call = Call {
        act: Act::Create("a"),
        object: None,
    };
    world
        .process
        .send(&client, 1, false, &call, Some(Point::Before));
    // The request's future is gone, as it is when a connection is. What it began goes on.
    world.process.brick.resume.notify_one();
    let answer = world.process.runtime.block_on(async {
        let again = world
            .process
            .request(&client, client.head(1, true), &call, 0);
        tokio::time::timeout(std::time::Duration::from_secs(20), again).await
    });
    assert_eq!(answer, Ok(0));
    assert_eq!(world.tree().0.len(), 2, "the root and the file");
}

#[test]
fn records_of_another_boot_do_not_count() {
    let world = World::new(&[]);
    let client = world.process.client(2, 1);
    let call = Call {
        act: Act::Create("a"),
        object: None,
    };
    world
        .process
        .send(&client, 1, false, &call, Some(Point::After));
    let memory = world.memory.clone();
    std::fs::remove_file(world.state.path().join("replies")).unwrap();
    let process = Process::start(&memory, &world.state);
    let client = process.client(client.id, 2);
    let answer = process.send(&client, 1, true, &call, None);
    assert_eq!(answer, Some(libc::EIO), "nobody can know");
}
