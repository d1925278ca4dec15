//! A pair whose bricks panic, as by a bug: whatever panicked comes to its end when it is tried again.
// A test says that it has failed by panicking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use hermitfs_api::{
    Context, Entry, Fop, Inode, Location, NameBuf, OpenFlags, Origin, RenameFlags, Translator,
    XattrFlags, block_on,
};
use hermitfs_fault::{Action, Fault, FaultControl, Options as Faults, Rule};
use hermitfs_replicate::{Options, Replicate};
use hermitfs_testkit::{Memory, Tree};

const USER: Context = Context {
    uid: 0,
    gid: 0,
    pid: 1,
    origin: Origin::User,
    client: 0,
};

const AT_MOST: Duration = Duration::from_secs(120);

fn name(text: &str) -> NameBuf {
    NameBuf::new(text.as_bytes()).unwrap()
}

#[derive(Clone, Copy)]
struct How {
    /// After the operation was carried out.
    late: bool,
    /// Many files at once, instead of step by step.
    together: bool,
}

impl How {
    fn all() -> impl Iterator<Item = How> {
        let both = [false, true];
        both.into_iter()
            .flat_map(move |late| both.map(|together| How { late, together }))
    }

    /// A rule about a step of a compound takes all of them apart.
    fn operations(self) -> impl Iterator<Item = Fop> {
        let steps = [Fop::Snapshot, Fop::MakeWhole].map(Fop::steps).concat();
        let all = Fop::ALL.iter().copied();
        all.filter(move |fop| !self.together || !steps.contains(fop))
    }
}

struct Brick {
    memory: Arc<Memory>,
    faults: Arc<FaultControl>,
    volume: Arc<dyn Translator>,
}

impl Brick {
    fn new(dev: u64) -> Brick {
        let memory = Arc::new(Memory::with_dev(dev));
        let fault = Fault::new(memory.clone(), Faults::default());
        Brick {
            memory,
            faults: fault.control(),
            volume: Arc::new(fault),
        }
    }

    /// Each operation of a healer panics once.
    fn panics(&self, how: How) {
        let rule = |fop| Rule {
            late: how.late,
            ..Rule::new([fop], Action::Panic).of(Origin::Heal).times(1)
        };
        self.faults.set(how.operations().map(rule));
    }

    /// Those that have.
    fn panicked(&self, how: How) -> Vec<&'static str> {
        let all = how.operations().zip(self.faults.acted());
        let names = all
            .filter(|(_, acted)| *acted > 0)
            .map(|(fop, _)| fop.name());
        names.collect()
    }
}

fn dir(brick: &dyn Translator, at: &Arc<Inode>, text: &str) -> Arc<Inode> {
    let made = block_on(brick.mkdir(&USER, at, &name(text), 0o755, 0));
    made.unwrap().inode
}

fn file(brick: &dyn Translator, at: &Arc<Inode>, text: &str, size: usize) -> Arc<Inode> {
    let flags = OpenFlags::READ_WRITE;
    let made = block_on(brick.create(&USER, at, &name(text), flags, 0o644, 0));
    let (Entry { inode, .. }, open) = made.unwrap();
    let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    block_on(brick.write(&USER, &open, 0, &content)).unwrap();
    block_on(brick.release(&USER, &open)).unwrap();
    inode
}

/// What there is before anybody heals.
fn build(brick: &dyn Translator, root: &Arc<Inode>) {
    let one = dir(brick, root, "one");
    let small = file(brick, &one, "small", 100);
    block_on(brick.link(&USER, &small, root, &name("link"))).unwrap();
    let xattr = brick.setxattr(&USER, &small, b"user.x", b"value", XattrFlags::Any);
    block_on(xattr).unwrap();
    file(brick, &one, "big", 400 << 10);
    let two = dir(brick, &one, "two");
    file(brick, &two, "deep", 7);
    block_on(brick.symlink(&USER, &two, &name("symlink"), b"target")).unwrap();
    dir(brick, root, "other");
}

/// What users do when that is healed.
fn change(volume: &dyn Translator, root: &Arc<Inode>) {
    let look = |at: &Arc<Inode>, text| {
        let found = block_on(volume.lookup(&USER, at, &name(text)));
        found.unwrap().inode
    };
    let (one, other) = (look(root, "one"), look(root, "other"));
    let exchange = RenameFlags::Exchange;
    block_on(volume.rename(&USER, &one, &name("two"), root, &name("other"), exchange)).unwrap();
    block_on(volume.unlink(&USER, root, &name("link"))).unwrap();
    file(volume, &other, "late", 300 << 10);
    dir(volume, &other, "later");
    let open = block_on(volume.open(&USER, &look(&one, "big"), OpenFlags::WRITE)).unwrap();
    block_on(volume.write(&USER, &open, 1000, b"changed")).unwrap();
    block_on(volume.release(&USER, &open)).unwrap();
}

/// Heals until nothing is left, whatever panics meanwhile.
fn settle(pair: &Replicate) {
    let until = Instant::now() + AT_MOST;
    loop {
        // Nobody waits here until it is tried again by itself; and this is no healer, who would stand a panic.
        let again = AssertUnwindSafe(|| drop(pair.heal(&Location { path: Vec::new() }, false)));
        drop(catch_unwind(again));
        pair.wait_change(Duration::from_millis(20));
        let status = pair.status();
        if status.ready && status.pending == 0 {
            return;
        }
        assert!(Instant::now() < until, "{status:?}");
    }
}

fn open(source: &Brick, sink: &Brick, state: &Path, rest_ms: u64) -> Arc<Replicate> {
    let options = Options {
        rest_ms,
        backoff: false,
        workers: 4,
        ..Options::default()
    };
    let source = ("source".into(), source.volume.clone());
    let sinks = vec![("sink".into(), sink.volume.clone())];
    Replicate::open(options, source, sinks, state).unwrap()
}

/// A pair of which this brick panics at each operation of its healer, and users go on.
fn each_operation_panics_once(sink_panics: bool, how: How) -> Vec<&'static str> {
    let (source, sink) = (Brick::new(1), Brick::new(2));
    let bad = if sink_panics { &sink } else { &source };
    let root = block_on(source.memory.root(&USER)).unwrap().inode;
    build(&*source.memory, &root);
    let state = tempfile::tempdir().unwrap();
    let pair = open(&source, &sink, state.path(), 1);
    bad.panics(how);
    pair.start(|| ());
    settle(&pair);
    let mut panicked = bad.panicked(how);
    // What a healer looks up for a user's operation panics for that user, whom a door answers.
    match sink_panics {
        true => bad.panics(how),
        false => bad.faults.clear(),
    }
    let volume: &dyn Translator = &*pair;
    change(volume, &block_on(volume.root(&USER)).unwrap().inode);
    if !sink_panics {
        bad.panics(how);
    }
    settle(&pair);
    panicked.extend(bad.panicked(how));
    bad.faults.clear();
    pair.stop();
    let sink = sink.memory.tree_without(&[".hermitfs"]);
    assert_eq!(
        Tree::diff(&source.memory.tree(), &sink),
        Vec::<String>::new()
    );
    panicked
}

fn must_have(panicked: &[&str], operations: &[&str]) {
    for operation in operations {
        assert!(panicked.contains(operation), "{operation}: {panicked:?}");
    }
}

#[test]
fn each_operation_of_a_heal_panics_once_at_the_sink_and_all_is_healed() {
    for how in How::all() {
        let panicked = each_operation_panics_once(true, how);
        must_have(&panicked, &["mkdir", "symlink", "link", "rename", "sync"]);
        match how.together {
            true => must_have(&panicked, &["make_whole"]),
            false => must_have(
                &panicked,
                &["lookup", "create", "write", "setattr", "unlink"],
            ),
        }
    }
}

#[test]
fn each_operation_of_a_heal_panics_once_at_the_source_and_all_is_healed() {
    for how in How::all() {
        let panicked = each_operation_panics_once(false, how);
        must_have(&panicked, &["readdir", "handle", "sync"]);
        match how.together {
            true => must_have(&panicked, &["snapshot"]),
            false => must_have(&panicked, &["lookup", "read", "getattr"]),
        }
    }
}

#[test]
fn users_go_on_after_a_freeze_that_panicked() {
    let (source, sink) = (Brick::new(1), Brick::new(2));
    let state = tempfile::tempdir().unwrap();
    // What is made below is still to be healed when users are held.
    let pair = open(&source, &sink, state.path(), 60_000);
    pair.start(|| ());
    settle(&pair);
    let root = block_on(pair.root(&USER)).unwrap().inode;
    dir(&*pair, &root, "before");
    let freeze = || pair.freeze_while(AT_MOST, &|| panic!("a bug"));
    assert!(catch_unwind(AssertUnwindSafe(freeze)).is_err());
    let (done, came) = mpsc::channel();
    let user = pair.clone();
    std::thread::spawn(move || {
        dir(&*user, &root, "after");
        done.send(()).unwrap();
    });
    assert!(came.recv_timeout(Duration::from_secs(20)).is_ok(), "held");
    pair.stop();
}
