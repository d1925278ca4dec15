//! Files that are read and made together, with a user in the middle of it.

use super::*;

/// Unseen by any healer: all of it is healed together.
const BEFORE: &[Act] = &[
    Act::Mkdir("d"),
    Act::Create("d/a"),
    Act::Write("d/a", 0, 1),
    Act::Xattr("d/a", 7),
    Act::Create("d/b"),
    Act::Write("d/b", 0, 2),
    Act::Create("d/c"),
];

const ACTS: &[Act] = &[
    Act::Write("d/a", 5, 9),
    Act::Truncate("d/b", 3),
    Act::Chmod("d/b", 0o604),
    Act::Xattr("d/a", 8),
    Act::Unlink("d/a"),
    Act::Rename("d/a", "d/b"),
    Act::Rename("d/b", "a"),
    Act::Exchange("d/a", "d/b"),
    Act::Link("d/b", "d/l"),
    Act::Create("d/n"),
    Act::Rename("d", "e"),
];

/// Begun at every step, held after every one of its own operations while healing goes on, and
/// then brought to its end, or killed.
#[test]
fn an_operation_held_half_way_while_its_file_is_made_together_with_others() {
    let mut runs = 0;
    for act in ACTS {
        let mut at = 0;
        loop {
            let mut world = World::new(BEFORE);
            let more = (0..at).all(|_| world.step_heal(1));
            for half in 0..6 {
                for on in [2, 7, 40] {
                    for kill in [false, true] {
                        let mut world = World::new(BEFORE);
                        (0..at).for_each(|_| {
                            world.step_heal(1);
                        });
                        world.begin(act.clone());
                        world.step_user(half);
                        (0..on).for_each(|_| {
                            world.step_heal(1);
                        });
                        match kill {
                            true => world = world.kill(),
                            false => world.finish_users(),
                        }
                        world.settle();
                        let wrong = world.check();
                        assert!(
                            wrong.is_empty(),
                            "{act:?} at {at}, held after {half} for {on}, {kill}: {wrong:#?}"
                        );
                        runs += 1;
                    }
                }
            }
            if !more {
                break;
            }
            at += 1;
        }
    }
    println!("{runs} runs");
}

/// A first crawl takes the short way: fewer operations than one for each attribute of each file.
#[test]
fn what_is_new_is_read_and_made_together() {
    let counted = Arc::new(Counted::new(Memory::with_dev(7)));
    let root = block_on(counted.root(&ROOT)).unwrap().inode;
    let sink = Arc::new(Counted::new(Memory::with_dev(8)));
    let sink_root = block_on(sink.root(&ROOT)).unwrap().inode;
    for n in 0..150 {
        let name = NameBuf::new(format!("file-{n}").as_bytes()).unwrap();
        let flags = OpenFlags::WRITE;
        let made = counted.below.create(&ROOT, &root, &name, flags, 0o640, 0);
        let (_, file) = block_on(made).unwrap();
        let content = vec![n as u8; n * 60];
        block_on(counted.below.write(&ROOT, &file, 0, &content)).unwrap();
    }
    block_on(counted.role(Role::Source)).unwrap();
    let leg = Arc::new(Leg::in_memory(Ledger::default(), Vec::new()));
    let healer = Healer::new(
        (counted.clone(), root.clone()),
        (sink.clone(), sink_root.clone(), sink_root),
        leg.clone(),
        Arc::default(),
        1,
    );
    let known = block_on(healer.known(&root));
    leg.ledger(|ledger| ledger.plant_tree(&known, Trust::ALL, 0));
    while let Ok(work) = leg.ledger(|ledger| ledger.claim_next(0, true)) {
        block_on(heal(&healer, work));
    }
    let wrong = hermitfs_testkit::Tree::diff(&counted.below.tree(), &sink.below.tree());
    assert_eq!(wrong, [""; 0]);
    let calls = [&counted, &sink].map(|brick| brick.calls.load(Ordering::Relaxed));
    assert!(calls.iter().all(|calls| *calls < 30), "{calls:?} calls");
}

/// Counts what comes; a compound is one.
struct Counted {
    below: Memory,
    calls: AtomicI64,
}

impl Counted {
    fn new(below: Memory) -> Counted {
        Counted {
            below,
            calls: AtomicI64::new(0),
        }
    }
}

macro_rules! counted {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Counted {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                // These ask no disk and cross no wire.
                if !matches!(Fop::$fop, Fop::Handle | Fop::Whence) {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                }
                self.below.$name($($arg),*).await
            })*
        }
    };
}
with_operations!(counted);
