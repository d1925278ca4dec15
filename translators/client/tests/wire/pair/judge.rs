//! What must be true of a pair.

use hermitfs_api::Fop;
use hermitfs_replicate::Status;
use hermitfs_testkit::Tree;

use crate::network::judge::changes;
use crate::network::recorder::Event;

/// Whoever changed something at a brick where he has nothing to change: only users (who have numbers) change the
/// source, and nobody but the healer (who has none) a sink.
pub(crate) fn strangers(source: &[(u32, Event)], sink: &[(u32, Event)]) -> Vec<String> {
    let changed = |event: &Event| match event {
        Event::Done(fop, told) if changes(*fop, told) => Some(*fop),
        _ => None,
    };
    let mut wrong = Vec::new();
    let mut find = |events: &[(u32, Event)], is_wrong: fn(u32) -> bool, words: &str| {
        let found = events.iter().filter(|(call, _)| is_wrong(*call));
        let found: Vec<Fop> = found.filter_map(|(_, event)| changed(event)).collect();
        if let Some(first) = found.first() {
            wrong.push(format!("{words}: {first:?}, and {} more", found.len() - 1));
        }
    };
    find(
        source,
        |call| call == 0,
        "the source was changed by no user",
    );
    find(sink, |call| call != 0, "the sink was changed by a user");
    wrong
}

/// Whether everything is said to be done.
pub(crate) fn says_ready(status: &Status) -> bool {
    status.ready && status.pending == 0
}

/// What is wrong with two bricks of which everything is said to be done.
pub(crate) fn unlike(when: &str, [source, sink]: &[Tree; 2]) -> Option<String> {
    let lines = Tree::diff(source, sink);
    (!lines.is_empty()).then(|| format!("ready {when}, and the bricks differ: {lines:#?}"))
}

#[cfg(test)]
mod tests {
    use hermitfs_api::*;
    use hermitfs_testkit::Memory;

    use super::*;

    fn done(call: u32, fop: Fop) -> (u32, Event) {
        (call, Event::Done(fop, Ok("done".into())))
    }

    #[test]
    fn a_source_that_was_changed_by_no_user_is_found() {
        let users = [
            done(7, Fop::Write),
            done(0, Fop::Lookup),
            done(0, Fop::Open),
        ];
        assert_eq!(strangers(&users, &[]), [""; 0]);
        assert_eq!(strangers(&[done(0, Fop::Unlink)], &[]).len(), 1);
        let refused = (0, Event::Done(Fop::Unlink, Err(Errno::EROFS)));
        assert_eq!(strangers(&[refused], &[]), [""; 0]);
    }

    #[test]
    fn a_sink_that_was_changed_by_a_user_is_found() {
        assert_eq!(strangers(&[], &[done(0, Fop::Create)]), [""; 0]);
        assert_eq!(strangers(&[], &[done(7, Fop::Create)]).len(), 1);
    }

    #[test]
    fn ready_is_what_is_ready_and_has_nothing_pending() {
        let status = |ready, pending| Status {
            ready,
            pending,
            ..Status::default()
        };
        assert!(says_ready(&status(true, 0)));
        assert!(!says_ready(&status(true, 1)) && !says_ready(&status(false, 0)));
    }

    #[test]
    fn any_difference_of_bricks_that_are_ready_is_found() {
        let cx = Context::internal(Origin::User);
        let name = |name: &'static str| Name::new(name.as_bytes()).unwrap();
        let brick = |change: &dyn Fn(&Memory, &std::sync::Arc<Inode>, &std::sync::Arc<File>)| {
            let memory = Memory::new();
            memory.set(|settings| settings.clock_stands = true);
            let root = block_on(memory.root(&cx)).unwrap().inode;
            let made = memory.create(&cx, &root, name("a"), OpenFlags::WRITE, 0o600, 0);
            let (_, file) = block_on(made).unwrap();
            block_on(memory.write(&cx, &file, 0, b"one")).unwrap();
            block_on(memory.link(&cx, file.inode(), &root, name("b"))).unwrap();
            change(&memory, &root, &file);
            memory.tree().without_times()
        };
        let whole = brick(&|_, _, _| {});
        assert_eq!(unlike("now", &[whole.clone(), brick(&|_, _, _| {})]), None);
        let others = [
            brick(&|brick, _, file| {
                block_on(brick.write(&cx, file, 0, b"two")).unwrap();
            }),
            brick(&|brick, _, file| {
                block_on(brick.write(&cx, file, 3, b"!")).unwrap();
            }),
            brick(&|brick, root, _| block_on(brick.unlink(&cx, root, name("b"))).unwrap()),
            brick(&|brick, root, _| {
                block_on(brick.unlink(&cx, root, name("b"))).unwrap();
                let made = brick.create(&cx, root, name("b"), OpenFlags::WRITE, 0o600, 0);
                let (_, file) = block_on(made).unwrap();
                block_on(brick.write(&cx, &file, 0, b"one")).unwrap();
            }),
            brick(&|brick, root, _| {
                drop(block_on(brick.mkdir(&cx, root, name("c"), 0o700, 0)).unwrap())
            }),
            brick(&|brick, _, file| {
                let set = SetAttr {
                    mode: Some(0o644),
                    ..SetAttr::default()
                };
                block_on(brick.setattr(&cx, file.inode(), None, &set)).unwrap();
            }),
            brick(&|brick, _, file| {
                let set = brick.setxattr(&cx, file.inode(), b"user.x", b"1", XattrFlags::Any);
                block_on(set).unwrap();
            }),
        ];
        for (n, other) in others.into_iter().enumerate() {
            assert!(unlike("now", &[whole.clone(), other]).is_some(), "{n}");
        }
    }
}
