//! Whether everything that was answered is what was done.

use std::collections::BTreeMap;

use hermitfs_api::{Errno, Fop};

use super::recorder::{Event, Told};

/// Twice is another thing.
fn once(fop: Fop) -> bool {
    use Fop::*;
    matches!(
        fop,
        Mknod | Mkdir | Symlink | Link | Unlink | Rmdir | Rename | Create | Removexattr
    )
}

/// What is wrong. `sure`: no server was killed, and no line was cut for longer than is waited for. Call 0
/// is whoever is at work beside the callers: what a layer between looked at for them, and healed.
pub(crate) fn judge(events: &[(u32, Event)], sure: bool) -> Vec<String> {
    let mut calls: BTreeMap<u32, Vec<(usize, &Event)>> = BTreeMap::new();
    for (at, (call, event)) in events.iter().enumerate() {
        calls.entry(*call).or_default().push((at, event));
    }
    let looks = calls.remove(&0).unwrap_or_default();
    let mut wrong = Vec::new();
    for (call, events) in &calls {
        if let Some(why) = wrong_with(events, &looks, sure) {
            wrong.push(format!("call {call}: {why}: {events:?}"));
        }
    }
    wrong
}

fn wrong_with(
    events: &[(usize, &Event)],
    looks: &[(usize, &Event)],
    sure: bool,
) -> Option<&'static str> {
    let asked = events.first().map_or(0, |(at, _)| *at);
    let answer = events.iter().find_map(|(at, event)| match event {
        Event::Answered(told) => Some((*at, told)),
        Event::Asked | Event::Done(..) => None,
    });
    let done = done_of(events);
    // Opening something again, for an answer that was lost, changes nothing.
    let changed = |&&(_, fop, told): &&(usize, Fop, &Told)| changes(fop, told);
    let count = done.iter().filter(changed).count();
    let is_once = done.iter().any(|(_, fop, _)| once(*fop));
    let Some((at, answer)) = answer else {
        return Some("was never answered");
    };
    if is_once && count > 1 {
        return Some("was done more than once");
    }
    match answer {
        // Nobody knows.
        Err(Errno::EIO | Errno::ENOTCONN) if sure => Some("nothing was in doubt"),
        Err(Errno::EIO | Errno::ENOTCONN) => None,
        // Of ESTALE: what it was done to is gone meanwhile, which the brick has told.
        Err(errno) if count > 0 && *errno != Errno::ESTALE => {
            Some("was done, and answered with an error")
        }
        Err(errno) => {
            let tells = |told: &Told| *told == Err(*errno);
            let is_told = done.iter().any(|(_, _, told)| tells(told));
            let looked = done_of(looks);
            let mut meanwhile = looked
                .iter()
                .filter(|(when, ..)| (asked..at).contains(when));
            let is_seen = meanwhile.any(|(_, _, told)| tells(told));
            (!is_told && !is_seen).then_some("an error that nobody told")
        }
        Ok(_) if !done.iter().any(|(_, _, told)| *told == answer) => {
            Some("an answer that nobody gave")
        }
        Ok(_) if done.iter().filter(changed).any(|(when, ..)| *when > at) => {
            Some("was done again after it was answered")
        }
        Ok(_) => None,
    }
}

fn done_of<'a>(events: &[(usize, &'a Event)]) -> Vec<(usize, Fop, &'a Told)> {
    let done = events.iter().filter_map(|(at, event)| match event {
        Event::Done(fop, told) => Some((*at, *fop, told)),
        Event::Asked | Event::Answered(_) => None,
    });
    done.collect()
}

/// Whether anything is another way afterwards.
pub(crate) fn changes(fop: Fop, told: &Told) -> bool {
    fop.changes() && fop != Fop::Open && told.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> Told {
        Ok("done".into())
    }

    fn done(fop: Fop) -> Event {
        Event::Done(fop, ok())
    }

    /// What is wrong with one call that is asked, and then comes to this.
    fn told(sure: bool, events: &[Event]) -> Vec<String> {
        let mut all = vec![(1, Event::Asked)];
        all.extend(events.iter().map(|event| (1, event.clone())));
        judge(&all, sure)
    }

    #[track_caller]
    fn is_wrong(why: &str, events: &[Event]) {
        for sure in [true, false] {
            let wrong = told(sure, events);
            assert!(wrong.len() == 1 && wrong[0].contains(why), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_done_once_and_answered_so_is_right() {
        for fop in [Fop::Mkdir, Fop::Write, Fop::Lookup] {
            let events = [done(fop), Event::Answered(ok())];
            assert_eq!(told(true, &events), [""; 0]);
        }
        let refused = Err(Errno::EEXIST);
        let events = [
            Event::Done(Fop::Mkdir, refused.clone()),
            Event::Answered(refused),
        ];
        assert_eq!(told(true, &events), [""; 0]);
        let twice = [done(Fop::Write), done(Fop::Write), Event::Answered(ok())];
        assert_eq!(told(true, &twice), [""; 0], "which is as good as once");
    }

    #[test]
    fn what_was_answered_and_not_done_is_found() {
        is_wrong("nobody gave", &[Event::Answered(ok())]);
        let refused = Event::Done(Fop::Unlink, Err(Errno::ENOENT));
        is_wrong("nobody gave", &[refused, Event::Answered(ok())]);
    }

    #[test]
    fn another_answer_than_the_bricks_is_found() {
        let read = Event::Done(Fop::Read, Ok("new".into()));
        is_wrong("nobody gave", &[read, Event::Answered(Ok("old".into()))]);
    }

    #[test]
    fn what_was_done_twice_is_found() {
        let unlink = || done(Fop::Unlink);
        is_wrong(
            "more than once",
            &[unlink(), unlink(), Event::Answered(ok())],
        );
        let unknown = [unlink(), unlink(), Event::Answered(Err(Errno::EIO))];
        assert_eq!(told(false, &unknown).len(), 1, "also when nobody knows");
    }

    #[test]
    fn what_was_done_again_after_its_answer_is_found() {
        let events = [done(Fop::Write), Event::Answered(ok()), done(Fop::Write)];
        is_wrong("after it was answered", &events);
    }

    #[test]
    fn an_error_for_what_was_done_is_found() {
        let events = [done(Fop::Mkdir), Event::Answered(Err(Errno::EEXIST))];
        is_wrong("answered with an error", &events);
    }

    #[test]
    fn an_error_that_nobody_told_is_found() {
        is_wrong("nobody told", &[Event::Answered(Err(Errno::ENOENT))]);
        // A layer between may have been told it, but only meanwhile.
        let look = (0, Event::Done(Fop::Lookup, Err(Errno::ENOENT)));
        let call = |event| (1, event);
        let answer = || call(Event::Answered(Err(Errno::ENOENT)));
        let meanwhile = [call(Event::Asked), look.clone(), answer()];
        assert_eq!(judge(&meanwhile, true), [""; 0]);
        let before = [look, call(Event::Asked), answer()];
        assert_eq!(judge(&before, true).len(), 1);
    }

    #[test]
    fn a_doubt_is_allowed_only_where_there_can_be_one() {
        for errno in [Errno::EIO, Errno::ENOTCONN] {
            let events = [done(Fop::Mkdir), Event::Answered(Err(errno))];
            assert_eq!(told(false, &events), [""; 0]);
            assert!(told(true, &events)[0].contains("in doubt"));
        }
    }

    #[test]
    fn what_is_never_answered_is_found() {
        is_wrong("never answered", &[]);
        is_wrong("never answered", &[done(Fop::Mkdir)]);
    }
}
