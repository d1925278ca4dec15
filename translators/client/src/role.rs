//! What the brick is for, as the layer above has said: asked of the server, and asked again of the next one.

use std::fs;

use hermitfs_api::{Errno, Error, Result, Role};
use hermitfs_proto::brick::v1;

use crate::here;
use crate::line::Line;

/// The role, and the number by which the server knows that it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Played {
    pub(crate) role: Role,
    pub(crate) claim: u64,
}

/// How the server answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ours(u64),
    /// Another one's claim, who is dead: to be asked for once more, instead of that.
    Dead(u64),
    /// Another one's, in the server's words.
    Theirs(String),
}

impl Line {
    /// To ask for a role.
    pub(crate) fn role_request(&self, role: Role, instead_of: u64) -> v1::RoleRequest {
        v1::RoleRequest {
            head: None,
            role: v1::Role::number(role),
            had: self.played().map_or(0, |played| played.claim),
            instead_of,
            process: Some(v1::Process {
                boot_id: here::boot_id(),
                pid_namespace: here::pid_namespace(),
                pid: std::process::id(),
                who: here::who(),
            }),
        }
    }
}

pub(crate) fn outcome(reply: v1::RoleReply) -> Outcome {
    match reply.holder {
        None => Outcome::Ours(reply.claim),
        Some(holder) if holder.process.as_ref().is_some_and(is_dead) => Outcome::Dead(holder.claim),
        Some(holder) => Outcome::Theirs(holder.refusal),
    }
}

pub(crate) fn refused(words: String) -> Error {
    Error::with_story(Errno::EBUSY, words)
}

/// Whether it was a process of this machine, and is no more. Of others nobody here can know.
fn is_dead(process: &v1::Process) -> bool {
    let ours = !process.boot_id.is_empty()
        && process.boot_id == here::boot_id()
        && process.pid_namespace == here::pid_namespace();
    if !ours || process.pid == 0 {
        return false;
    }
    match fs::read_to_string(format!("/proc/{}/stat", process.pid)) {
        Ok(stat) => {
            // What follows the name, which may have anything in it: a zombie does nothing more.
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            matches!(state, Some('Z' | 'X'))
        }
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The claim that a role has; none for those that claim nothing.
pub(crate) fn played(role: Role, claim: u64) -> Option<Played> {
    match role {
        Role::Plain => None,
        Role::Source | Role::Sink | Role::Away => Some(Played { role, claim }),
    }
}

/// What a brick's number in an answer is worth.
pub(crate) fn claimed(outcome: Outcome) -> Result<u64> {
    match outcome {
        Outcome::Ours(claim) => Ok(claim),
        Outcome::Dead(_) => Err(refused("another one has claimed it just now".into())),
        Outcome::Theirs(words) => Err(refused(words)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn process(pid: u32) -> v1::Process {
        v1::Process {
            boot_id: here::boot_id(),
            pid_namespace: here::pid_namespace(),
            pid,
            who: String::new(),
        }
    }

    #[test]
    fn only_what_was_here_and_is_gone_is_dead() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_dead(&process(child.id())));
        assert!(!is_dead(&process(std::process::id())));
        child.kill().unwrap();
        // Before it is waited for it is a zombie, once it has got the signal.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_dead(&process(child.id())) {
            assert!(std::time::Instant::now() < end);
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_dead(&process(child.id())));
        let elsewhere = v1::Process {
            boot_id: "another".into(),
            ..process(child.id())
        };
        assert!(!is_dead(&elsewhere));
    }
}
