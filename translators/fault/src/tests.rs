use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hermitfs_testkit::Memory;

use super::*;

const CX: Context = Context {
    uid: 0,
    gid: 0,
    pid: 0,
    origin: Origin::User,
    client: 0,
};
const HEAL: Context = Context::internal(Origin::Heal);

fn name(text: &str) -> NameBuf {
    NameBuf::new(text.as_bytes()).unwrap()
}

struct World {
    memory: Arc<Memory>,
    volume: Arc<dyn Translator>,
    control: Arc<FaultControl>,
    root: Arc<Inode>,
    stopped: Arc<AtomicBool>,
}

fn world(rules: &[&str]) -> World {
    let memory = Arc::new(Memory::new());
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    let options = Options::with(rules.iter().map(|line| line.parse().unwrap()));
    let fault = Fault::with_stop(memory.clone(), options, move |_| {
        flag.store(true, Ordering::Relaxed)
    });
    let control = fault.control();
    let root = block_on(memory.root(&CX)).unwrap().inode;
    World {
        memory,
        volume: Arc::new(fault),
        control,
        root,
        stopped,
    }
}

impl World {
    fn mkdir(&self, cx: &Context, new: &str) -> Result<Entry> {
        block_on(self.volume.mkdir(cx, &self.root, &name(new), 0o755, 0))
    }
}

#[test]
fn without_rules_everything_passes_and_is_counted() {
    let world = world(&[]);
    world.mkdir(&CX, "a").unwrap();
    block_on(world.volume.lookup(&CX, &world.root, &name("a"))).unwrap();
    assert_eq!(
        (world.control.operations(), world.control.changes()),
        (2, 1)
    );
    assert_eq!(world.control.count(Fop::Lookup), 1);
}

#[test]
fn a_rule_acts_after_so_many_and_so_many_times() {
    let world = world(&["mkdir after=1 times=2 ENOSPC"]);
    let made: Vec<bool> = ["a", "b", "c", "d"]
        .map(|new| world.mkdir(&CX, new).is_ok())
        .into();
    assert_eq!(made, [true, false, false, true]);
    assert_eq!(world.control.acted(), [2]);
    let error = {
        world.control.set(["mkdir EDQUOT".parse().unwrap()]);
        world.mkdir(&CX, "e")
    };
    assert_eq!(error.unwrap_err().errno(), Errno::EDQUOT);
    world.control.clear();
    world.mkdir(&CX, "e").unwrap();
}

#[test]
fn only_the_given_origin_name_or_path_is_hit() {
    let world = world(&["changes origin=heal EIO"]);
    assert!(world.mkdir(&CX, "a").is_ok() && world.mkdir(&HEAL, "b").is_err());

    world
        .control
        .set(["mkdir,read name=x* EIO".parse().unwrap()]);
    assert!(world.mkdir(&CX, "xy").is_err() && world.mkdir(&CX, "yx").is_ok());

    world.control.set(["read path=/yx/f EIO".parse().unwrap()]);
    block_on(async {
        let (volume, root) = (&world.volume, &world.root);
        let dir = volume.lookup(&CX, root, &name("yx")).await.unwrap().inode;
        for (at, ok) in [(&dir, false), (root, true)] {
            let made = volume
                .create(&CX, at, &name("f"), OpenFlags::READ_WRITE, 0o644, 0)
                .await;
            let read = volume.read(&CX, &made.unwrap().1, 0, &mut [0]).await;
            assert_eq!(read.is_ok(), ok);
        }
    });
}

#[test]
fn a_late_error_comes_after_the_deed() {
    let world = world(&["mkdir late EIO"]);
    assert!(world.mkdir(&CX, "a").is_err());
    assert!(world.memory.tree().0.contains_key(&b"/a"[..]));
    world.control.set(["mkdir EIO".parse().unwrap()]);
    assert!(world.mkdir(&CX, "b").is_err());
    assert!(!world.memory.tree().0.contains_key(&b"/b"[..]));
}

#[test]
fn a_stopped_operation_is_never_answered_and_not_carried_out() {
    let world = world(&["changes after=1 stop"]);
    world.mkdir(&CX, "a").unwrap();
    let second = name("b");
    let mut made = pin!(world.volume.mkdir(&CX, &world.root, &second, 0o755, 0));
    assert!(poll_once(made.as_mut()).is_pending() && poll_once(made).is_pending());
    assert!(world.stopped.load(Ordering::Relaxed));
    assert!(!world.memory.tree().0.contains_key(&b"/b"[..]));
}

#[test]
fn a_delay_holds_the_operation_but_not_the_thread() {
    let world = world(&["mkdir delay=30"]);
    let (start, new) = (Instant::now(), name("a"));
    let mut made = pin!(world.volume.mkdir(&CX, &world.root, &new, 0o755, 0));
    assert!(poll_once(made.as_mut()).is_pending());
    block_on(made).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn options_are_read_from_a_volfile_and_a_mistake_is_told() {
    let options: Options = toml::from_str(r#"rules = ["fsync EIO", "all delay=1"]"#).unwrap();
    assert_eq!(options.rules.len(), 2);
    let error = toml::from_str::<Options>(r#"rules = ["fsync EOI"]"#).unwrap_err();
    assert!(
        error.to_string().contains("`EOI` means nothing in a rule"),
        "{error}"
    );
}

fn whole(new: &str) -> Whole {
    Whole {
        name: name(new),
        content: b"content".to_vec(),
        mode: 0o600,
        uid: 0,
        gid: 0,
        atime: Time::default(),
        mtime: Time::default(),
        xattrs: Xattrs::new(),
        flags: 0,
        project: 0,
        mask: 0,
    }
}

#[test]
fn a_compound_is_one_operation_unless_a_rule_is_about_one_of_its_steps() {
    let make = |world: &World| {
        let files = [whole("a"), whole("b")];
        let made = block_on(world.volume.make_whole(&HEAL, &world.root, &files)).unwrap();
        let errnos = made.into_iter().map(|made| made.err().map(|e| e.errno()));
        errnos.collect::<Vec<_>>()
    };
    let passes = world(&["mkdir EIO", "write origin=user EIO"]);
    assert_eq!(make(&passes), [None, None]);
    assert_eq!(passes.control.changes(), 1);

    let fails = world(&["setattr after=2 times=1 EIO"]);
    assert_eq!(make(&fails), [None, Some(Errno::EIO)]);
    let there = |n| block_on(fails.memory.lookup(&CX, &fails.root, &name(n)));
    assert!(
        there("a").is_ok() && there("b").is_err(),
        "half of it is gone again"
    );

    let named = world(&["read name=b EIO"]);
    make(&named);
    let names = [name("a"), name("b")];
    let told = block_on(named.volume.snapshot(&HEAL, &named.root, &names, 100)).unwrap();
    assert!(told[0].is_ok() && told[1].is_err());

    let whole = world(&["make_whole name=b EROFS"]);
    let answer = block_on(
        whole
            .volume
            .make_whole(&HEAL, &whole.root, &[self::whole("b")]),
    );
    assert_eq!(answer.unwrap_err().errno(), Errno::EROFS);
}

#[test]
fn a_panic_comes_so_many_times_and_before_or_after_the_deed() {
    let world = world(&["mkdir times=1 panic"]);
    let mkdir =
        |new| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.mkdir(&CX, new)));
    assert!(mkdir("a").is_err());
    assert!(!world.memory.tree().0.contains_key(&b"/a"[..]));
    assert!(mkdir("a").is_ok_and(|made| made.is_ok()));
    world.control.set(["mkdir late panic".parse().unwrap()]);
    assert!(mkdir("b").is_err());
    assert!(world.memory.tree().0.contains_key(&b"/b"[..]));
}
