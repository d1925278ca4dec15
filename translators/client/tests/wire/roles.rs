//! One pair at a time has a brick as its source or sink, and alone changes it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hermitfs_api::{Context, Errno, Name, Origin, Result, Role, Translator, block_on};
use hermitfs_client::Client;
use hermitfs_testkit::Memory;

use crate::common::Wire;

const CX: Context = Context::internal(Origin::User);

fn mkdir(client: &Client, name: &str) -> Result<()> {
    block_on(async {
        let root = client.root(&CX).await?.inode;
        let name = Name::new(name.as_bytes()).unwrap();
        client.mkdir(&CX, &root, name, 0o700, 0).await.map(drop)
    })
}

fn play(client: &Client, role: Role) -> Result<()> {
    block_on(client.role(role))
}

#[track_caller]
fn is(result: Result<()>, errno: Errno) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.errno(), errno, "{error}");
    error.to_string()
}

#[test]
fn one_pair_has_a_brick_and_nobody_else_changes_it() {
    let wire = Wire::new(Arc::new(Memory::new()));
    let (first, second) = (&wire.client, wire.another_client());
    mkdir(&second, "nobodys").unwrap();
    play(first, Role::Source).unwrap();
    let words = is(play(&second, Role::Source), Errno::EBUSY);
    let pid = format!("pid {}", std::process::id());
    assert!(words.contains("source") && words.contains(&pid), "{words}");
    is(play(&second, Role::Sink), Errno::EBUSY);
    is(play(&second, Role::Plain), Errno::EBUSY);
    is(play(&second, Role::Away), Errno::EBUSY);
    is(mkdir(&second, "behind-its-back"), Errno::EROFS);
    block_on(second.root(&CX)).unwrap();
    mkdir(first, "its-own").unwrap();
    play(first, Role::Plain).unwrap();
    mkdir(&second, "nobodys-again").unwrap();
    play(&second, Role::Sink).unwrap();
    is(mkdir(first, "late"), Errno::EROFS);
    drop(second);
    mkdir(first, "after-its-end").unwrap();
}

#[test]
fn a_pair_has_its_brick_again_from_the_next_server_before_anybody_else() {
    let mut wire = Wire::new(Arc::new(Memory::new()));
    play(&wire.client, Role::Source).unwrap();
    for _ in 0..2 {
        wire.stop();
        wire.start();
        let second = wire.another_client();
        is(play(&second, Role::Source), Errno::EBUSY);
        is(mkdir(&second, "behind-its-back"), Errno::EROFS);
        mkdir(&wire.client, "d").unwrap();
        block_on(async {
            let root = wire.client.root(&CX).await.unwrap().inode;
            let name = Name::new(b"d").unwrap();
            wire.client.rmdir(&CX, &root, name).await.unwrap();
        });
    }
}

#[test]
fn a_pair_that_does_not_come_back_is_followed_by_another_and_then_does_nothing_more() {
    let memory = Arc::new(Memory::new());
    let mut wire = Wire::new(memory);
    play(&wire.client, Role::Source).unwrap();
    wire.stop();
    // Seconds; the first is kept away for longer by its own server's absence.
    wire.grace = Some(1);
    wire.start_elsewhere();
    let second = wire.client_elsewhere();
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = play(&second, Role::Source) {
        assert_eq!(error.errno(), Errno::EBUSY, "{error}");
        assert!(Instant::now() < end, "{error}");
        thread::sleep(Duration::from_millis(50));
    }
    mkdir(&second, "d").unwrap();
    drop(second);
    wire.stop();
    wire.start();
    let words = is(mkdir(&wire.client, "e"), Errno::EIO);
    assert!(words.contains("mount it again"), "{words}");
}

/// Where the process below is told to look.
const SOCKET: &str = "HERMITFS_TEST_CLAIM_AT";

#[test]
fn the_brick_of_a_process_that_was_killed_on_this_machine_is_had_at_once() {
    if let Ok(address) = std::env::var(SOCKET) {
        // The process that is killed: another run of this test. It makes nothing that it would leave.
        let options = hermitfs_client::Options::new(address.parse().unwrap(), "brick");
        let client = Client::open(&options).unwrap();
        play(&client, Role::Source).unwrap();
        thread::sleep(Duration::from_secs(3600));
        return;
    }
    let wire = Wire::new(Arc::new(Memory::new()));
    let name = "roles::the_brick_of_a_process_that_was_killed_on_this_machine_is_had_at_once";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(SOCKET, wire.address().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    // Until it has claimed the brick.
    while mkdir(&wire.client, "d").is_ok() {
        assert!(Instant::now() < end);
        block_on(async {
            let root = wire.client.root(&CX).await.unwrap().inode;
            let name = Name::new(b"d").unwrap();
            // It may be claimed in between.
            drop(wire.client.rmdir(&CX, &root, name).await);
        });
        thread::sleep(Duration::from_millis(20));
    }
    let refused = play(&wire.client, Role::Source);
    child.kill().unwrap();
    child.wait().unwrap();
    is(refused, Errno::EBUSY);
    play(&wire.client, Role::Source).unwrap();
    drop(mkdir(&wire.client, "d"));
    mkdir(&wire.client, "e").unwrap();
}
