use std::process::{Command, Stdio};

use super::*;

#[test]
fn who_waits_in_peace_is_left_alone_and_who_is_gone_is_not() {
    let signals = Signals::default();
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let watching = signals.watch(child.id());
    let task = Context::from_waker(Waker::noop());
    thread::sleep(LOOK * 3);
    assert!(watching.poll(&task).is_pending());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut looks = 0;
    while watching.poll(&task).is_pending() {
        looks += 1;
        assert!(looks < 600, "it is gone for a minute");
        thread::sleep(LOOK);
    }
    assert_eq!(watching.poll(&task), Poll::Ready(Errno::EINTR));
    drop(watching);
    let mut looks = 0;
    while signals.0.lock().looking {
        looks += 1;
        assert!(looks < 600, "it looks at nobody");
        thread::sleep(LOOK);
    }
}

#[test]
fn a_doubt_has_to_last() {
    let mut watched = Watched {
        thread: 7,
        since: Instant::now(),
        maybe: 0,
        waker: None,
        ended: None,
    };
    for _ in 1..IN_A_ROW {
        assert!(!watched.note(Verdict::Maybe));
    }
    assert!(!watched.note(Verdict::None));
    for _ in 1..IN_A_ROW {
        assert!(!watched.note(Verdict::Maybe));
    }
    assert!(watched.note(Verdict::Maybe));
}
