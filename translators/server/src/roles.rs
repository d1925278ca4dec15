//! Who has a volume as the source or the sink of his pair: one at a time, so that one keeps the
//! marks and heals. As long as he has it nobody else changes anything there.
//!
//! It is kept in a file, so that it outlives the process. Who falls silent for longer than the grace
//! can have it again as he had it, until somebody else has claimed it, or changed something: after
//! that his marks are not the whole truth, and he has to begin anew. Who cannot have outlived the last server, or its
//! machine's last boot, is not waited for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermitfs_api::{Errno, Error, Result, Role};
use hermitfs_proto::brick::v1;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, sleep, timeout};

use crate::sessions::EndsWith;
use crate::state;

/// A client, as it calls itself.
type Client = [u8; 16];

/// For so long a claim waits for changes by others that are under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether somebody lives.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) struct Roles {
    path: PathBuf,
    /// This one of the machine.
    boot: String,
    grace: Duration,
    volumes: BTreeMap<String, Volume>,
    /// One after the other.
    writing: Mutex<()>,
}

struct Volume {
    claim: Mutex<Claim>,
    /// Held by whoever changes something; another one's claim comes when there is nobody. What the last
    /// one had asked for is done by then, or never: it could not be found by the next one's comparing.
    changes: RwLock<()>,
}

/// What is kept of a volume. Nobody has it when `client` is empty.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(string, tag = "1")]
    volume: String,
    /// Counts all claims of this volume.
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(bytes = "vec", tag = "3")]
    client: Vec<u8>,
    #[prost(int32, tag = "4")]
    role: i32,
    #[prost(message, optional, tag = "5")]
    process: Option<v1::Process>,
    /// Seconds since 1970.
    #[prost(uint64, tag = "6")]
    since: u64,
    /// The server's boot, when the client cannot have outlived that.
    #[prost(string, tag = "7")]
    boot: String,
    /// Nor the server.
    #[prost(bool, tag = "8")]
    is_near: bool,
}

impl Kept {
    /// Whether whoever has it is dead, seen from another server, in this boot.
    fn is_over(&self, boot: &str) -> bool {
        self.is_near || !self.boot.is_empty() && self.boot != boot
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(message, repeated, tag = "1")]
    volumes: Vec<Kept>,
}

#[derive(Clone)]
struct Claim {
    kept: Kept,
    there: There,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    Yes,
    /// He had it from the last server, and has until then to come back.
    Until(Instant),
    /// He had it, and is dead. Whoever claims it has it; until then nobody else changes anything, so that the next
    /// one of the same pair misses nothing.
    Dead(Instant),
    /// He was silent for too long.
    No,
}

/// What a client asks for.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) role: Role,
    /// The number of the claim that he has, or 0.
    pub(crate) had: u64,
    /// The claim of one who is known to be dead, or 0.
    pub(crate) instead_of: u64,
    pub(crate) process: v1::Process,
    pub(crate) ends_with: EndsWith,
}

/// What he gets.
#[derive(Debug)]
pub(crate) enum Given {
    /// It is his, by this number.
    Claim(u64),
    /// Somebody else has it.
    Taken(Client, v1::Holder),
}

impl Roles {
    pub(crate) fn open<'a>(
        state: &Path,
        boot: &str,
        grace: Duration,
        volumes: impl Iterator<Item = &'a String>,
    ) -> io::Result<Roles> {
        let path = state.join("roles");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let file = File::decode(&bytes[..]).map_err(io::Error::other)?;
        let end = Instant::now() + grace;
        let volume = |name: &String| {
            let kept = file.volumes.iter().find(|kept| kept.volume == *name);
            let kept = kept.cloned().unwrap_or_else(|| Kept {
                volume: name.clone(),
                ..Kept::default()
            });
            let there = match kept.is_over(boot) {
                true => There::Dead(end),
                false => There::Until(end),
            };
            let claim = Claim { kept, there };
            let volume = Volume {
                claim: Mutex::new(claim),
                changes: RwLock::default(),
            };
            (name.clone(), volume)
        };
        Ok(Roles {
            path,
            boot: boot.to_owned(),
            grace,
            volumes: volumes.map(volume).collect(),
            writing: Mutex::default(),
        })
    }

    fn volume(&self, name: &str) -> Result<&Volume> {
        Ok(self.volumes.get(name).ok_or(Errno::EIO)?)
    }

    /// Somebody wants to have a volume, or has it and says so.
    pub(crate) async fn claim(&self, name: &str, client: Client, asked: Asked) -> Result<Given> {
        let volume = self.volume(name)?;
        let is_new = |claim: &Claim| !claim.is_of(client);
        let as_it_is = volume.claim.lock().clone();
        if asked.had == 0 && is_new(&as_it_is) && as_it_is.keeps_out(&asked) {
            return Ok(as_it_is.taken(self.grace));
        }
        let _nobody = match is_new(&as_it_is) && asked.had == 0 {
            false => None,
            true => Some(
                timeout(PATIENCE, volume.changes.write())
                    .await
                    .map_err(|_| {
                        let story = format!(
                            "changes of `{name}` are under way, and come to no end: try again"
                        );
                        Error::with_story(Errno::EBUSY, story)
                    })?,
            ),
        };
        let mut claim = volume.claim.lock();
        if asked.had != 0 && (is_new(&claim) || claim.kept.number != asked.had) {
            let story = format!(
                "`{name}` was changed by others, or was another pair's, while this one was silent for \
                 longer than {} s: unmount this one and mount it again, which compares everything",
                self.grace.as_secs()
            );
            return Err(Error::with_story(Errno::ESTALE, story));
        }
        if is_new(&claim) {
            if claim.keeps_out(&asked) {
                return Ok(claim.taken(self.grace));
            }
            let taken = Kept {
                volume: name.to_owned(),
                number: claim.kept.number + 1,
                client: client.to_vec(),
                role: v1::Role::number(asked.role),
                process: Some(asked.process),
                since: now(),
                boot: match asked.ends_with {
                    EndsWith::Process | EndsWith::Boot => self.boot.clone(),
                    EndsWith::Unknown => String::new(),
                },
                is_near: asked.ends_with == EndsWith::Process,
            };
            self.keep(&mut claim, taken)?;
        } else if asked.role != Role::Away {
            claim.kept.role = v1::Role::number(asked.role);
        }
        claim.there = There::Yes;
        Ok(Given::Claim(claim.kept.number))
    }

    /// The same for one who is in no hurry. When somebody else has the volume who may be dead, the answer comes when
    /// that is known: with his next sign of life, or when his time is over. So a machine that has booted again does
    /// not have to ask twice. Who can see for himself has his answer at once.
    pub(crate) async fn claim_when_known(
        &self,
        name: &str,
        client: Client,
        asked: Asked,
        has_signed_since: impl Fn(Client, Instant) -> bool,
    ) -> Result<Given> {
        let begun = Instant::now();
        loop {
            let given = self.claim(name, client, asked.clone()).await?;
            let Given::Taken(holder, told) = &given else {
                return Ok(given);
            };
            let seen = told
                .process
                .as_ref()
                .is_none_or(|it| sees(&asked.process, it));
            let is_over = begun.elapsed() > self.grace + PATIENCE;
            if seen || is_over || has_signed_since(*holder, begun) {
                return Ok(given);
            }
            if begun.elapsed() < LOOK {
                tracing::info!(of = name, "waits for a sign of life: {}", told.refusal);
            }
            sleep(LOOK).await;
        }
    }

    /// Whether it is his.
    pub(crate) fn has(&self, name: &str, client: Client) -> bool {
        let volume = self.volumes.get(name);
        volume.is_some_and(|volume| volume.claim.lock().is_of(client))
    }

    /// Somebody wants a volume no more. EBUSY when it is another one's.
    pub(crate) fn release(&self, name: &str, client: Client) -> Result<()> {
        let mut claim = self.volume(name)?.claim.lock();
        if claim.is_of(client) {
            return self.clear(&mut claim);
        }
        match claim.is_kept() {
            true => Err(Error::with_story(Errno::EBUSY, claim.words(self.grace))),
            false => Ok(()),
        }
    }

    /// A client has ended, or is silent for too long.
    pub(crate) fn gone(&self, name: &str, client: Client, bye: bool) {
        let Ok(volume) = self.volume(name) else {
            return;
        };
        let mut claim = volume.claim.lock();
        if !claim.is_of(client) {
            return;
        }
        claim.there = There::No;
        if bye && let Err(error) = self.clear(&mut claim) {
            tracing::warn!("that {name} is nobody's: {error}");
        }
    }

    /// Before a client changes something; until what is returned is dropped, nobody else claims the
    /// volume. EROFS when it is another one's.
    pub(crate) async fn change(
        &self,
        name: &str,
        client: Client,
    ) -> Result<RwLockReadGuard<'_, ()>> {
        let volume = self.volume(name)?;
        let under_way = volume.changes.read().await;
        let mut claim = volume.claim.lock();
        if claim.is_of(client) {
            return Ok(under_way);
        }
        if claim.is_kept() {
            return Err(Error::with_story(Errno::EROFS, claim.words(self.grace)));
        }
        if !claim.kept.client.is_empty() {
            self.clear(&mut claim)?;
        }
        Ok(under_way)
    }

    fn clear(&self, claim: &mut Claim) -> Result<()> {
        let nobodys = Kept {
            volume: claim.kept.volume.clone(),
            number: claim.kept.number,
            ..Kept::default()
        };
        self.keep(claim, nobodys)
    }

    /// Durably, before anybody acts upon it.
    fn keep(&self, claim: &mut Claim, kept: Kept) -> Result<()> {
        let _one = self.writing.lock();
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        };
        let written = bytes.and_then(|bytes| {
            let mut file = File::decode(&bytes[..]).map_err(io::Error::other)?;
            file.volumes.retain(|known| known.volume != kept.volume);
            file.volumes.push(kept.clone());
            state::replace(&self.path, &file.encode_to_vec())
        });
        written.map_err(|error| {
            let story = format!("{}: {error}", self.path.display());
            Error::with_story(Errno::EIO, story)
        })?;
        claim.kept = kept;
        Ok(())
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Claim {
    fn is_of(&self, client: Client) -> bool {
        self.kept.client == client
    }

    /// Whether somebody who asks for the first time is refused.
    fn keeps_out(&self, asked: &Asked) -> bool {
        let is_dead = matches!(self.there, There::Dead(_));
        self.is_kept() && !is_dead && asked.instead_of != self.kept.number
    }

    fn is_kept(&self) -> bool {
        !self.kept.client.is_empty()
            && match self.there {
                There::Yes => true,
                There::Until(end) | There::Dead(end) => Instant::now() < end,
                There::No => false,
            }
    }

    fn words(&self, grace: Duration) -> String {
        let Kept {
            volume, process, ..
        } = &self.kept;
        let role = match v1::Role::read(self.kept.role) {
            Ok(Role::Source) => "source",
            _ => "sink",
        };
        let who = process.as_ref().map_or("?", |process| &process.who);
        format!(
            "`{volume}` is the {role} of a pair that {who} has had mounted for {} s, and only that one changes it: \
             work there, or unmount it there first; a dead one's can be had {} s after its last sign of life",
            now().saturating_sub(self.kept.since),
            grace.as_secs()
        )
    }

    fn taken(&self, grace: Duration) -> Given {
        let holder = v1::Holder {
            claim: self.kept.number,
            process: self.kept.process.clone(),
            refusal: self.words(grace),
        };
        let client = Client::try_from(&self.kept.client[..]);
        Given::Taken(client.unwrap_or_default(), holder)
    }
}

/// Whether one process can see for itself whether the other one lives.
fn sees(process: &v1::Process, other: &v1::Process) -> bool {
    let place = |process: &v1::Process| (process.boot_id.clone(), process.pid_namespace);
    !process.boot_id.is_empty() && place(process) == place(other)
}

#[cfg(test)]
mod tests {
    use hermitfs_api::block_on;

    use super::*;

    const A: Client = [1; 16];
    const B: Client = [2; 16];
    const GRACE: Duration = Duration::from_secs(3600);

    fn open(state: &Path, grace: Duration) -> Roles {
        open_in("this boot", state, grace)
    }

    fn open_in(boot: &str, state: &Path, grace: Duration) -> Roles {
        Roles::open(state, boot, grace, ["old".to_owned()].iter()).unwrap()
    }

    fn asks(had: u64, instead_of: u64) -> Asked {
        Asked {
            role: Role::Source,
            had,
            instead_of,
            process: v1::Process {
                who: "a host".into(),
                ..v1::Process::default()
            },
            ends_with: EndsWith::Unknown,
        }
    }

    fn claim(roles: &Roles, client: Client, had: u64) -> Result<Given> {
        block_on(roles.claim("old", client, asks(had, 0)))
    }

    #[track_caller]
    fn gets(roles: &Roles, client: Client, had: u64) -> u64 {
        match claim(roles, client, had).unwrap() {
            Given::Claim(number) => number,
            Given::Taken(_, holder) => panic!("{holder:?}"),
        }
    }

    #[track_caller]
    fn is_refused(roles: &Roles, client: Client) -> v1::Holder {
        match claim(roles, client, 0).unwrap() {
            Given::Claim(number) => panic!("it got {number}"),
            Given::Taken(_, holder) => holder,
        }
    }

    fn change(roles: &Roles, client: Client) -> Option<Errno> {
        let changed = block_on(roles.change("old", client));
        changed.err().map(|error| error.errno())
    }

    fn tokio() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    }

    #[test]
    fn one_has_it_and_alone_changes_it_until_its_end() {
        let (state, tokio) = (tempfile::tempdir().unwrap(), tokio());
        let _inside = tokio.enter();
        let roles = open(state.path(), GRACE);
        assert_eq!(change(&roles, B), None, "it is nobody's");
        let first = gets(&roles, A, 0);
        assert_eq!(gets(&roles, A, 0), first, "its answer was lost");
        assert_eq!(gets(&roles, A, first), first);
        let refusal = is_refused(&roles, B).refusal;
        assert!(refusal.contains("a host"), "{refusal}");
        assert_eq!(change(&roles, A), None);
        assert_eq!(change(&roles, B), Some(Errno::EROFS));
        assert!(roles.release("old", B).is_err());
        roles.gone("old", B, true);
        is_refused(&roles, B);
        roles.gone("old", A, true);
        assert_eq!(gets(&roles, B, 0), first + 1);
        assert_eq!(change(&roles, A), Some(Errno::EROFS));
        roles.release("old", B).unwrap();
        assert_eq!(change(&roles, A), None);
    }

    #[test]
    fn who_was_silent_has_it_again_only_if_nobody_did_anything_meanwhile() {
        let (state, tokio) = (tempfile::tempdir().unwrap(), tokio());
        let _inside = tokio.enter();
        let roles = open(state.path(), GRACE);
        let first = gets(&roles, A, 0);
        roles.gone("old", A, false);
        assert_eq!(gets(&roles, A, first), first, "nobody came");
        roles.gone("old", A, false);
        assert_eq!(change(&roles, B), None, "nobody has it");
        let error = claim(&roles, A, first).unwrap_err();
        assert_eq!(error.errno(), Errno::ESTALE, "its marks are not all");
        let second = gets(&roles, A, 0);
        assert!(second > first, "begun anew");
        roles.gone("old", A, false);
        let third = gets(&roles, B, 0);
        assert_eq!(claim(&roles, A, second).unwrap_err().errno(), Errno::ESTALE);
        roles.gone("old", B, true);
        let error = claim(&roles, A, second).unwrap_err();
        assert_eq!(error.errno(), Errno::ESTALE, "also when {third} is over");
    }

    #[test]
    fn another_server_keeps_it_for_who_had_it_but_not_for_ever() {
        let (state, tokio) = (tempfile::tempdir().unwrap(), tokio());
        let _inside = tokio.enter();
        let first = gets(&open(state.path(), GRACE), A, 0);
        let second = open(state.path(), GRACE);
        is_refused(&second, B);
        assert_eq!(change(&second, B), Some(Errno::EROFS));
        assert_eq!(gets(&second, A, first), first);
        let third = open(state.path(), Duration::ZERO);
        assert_eq!(gets(&third, B, 0), first + 1);
        let fourth = open(state.path(), Duration::ZERO);
        assert_eq!(claim(&fourth, A, first).unwrap_err().errno(), Errno::ESTALE);
    }

    #[test]
    fn nobody_waits_for_who_cannot_have_outlived_the_server_or_the_boot() {
        let tokio = tokio();
        let _inside = tokio.enter();
        for (ends_with, boot, is_waited_for) in [
            (EndsWith::Process, "this boot", false),
            (EndsWith::Process, "the next boot", false),
            (EndsWith::Boot, "this boot", true),
            (EndsWith::Boot, "the next boot", false),
            (EndsWith::Unknown, "the next boot", true),
        ] {
            let state = tempfile::tempdir().unwrap();
            let asked = Asked {
                ends_with,
                ..asks(0, 0)
            };
            let first = open(state.path(), GRACE);
            assert!(matches!(
                block_on(first.claim("old", A, asked)).unwrap(),
                Given::Claim(_)
            ));
            is_refused(&first, B);
            let next = open_in(boot, state.path(), GRACE);
            let refused = change(&next, B);
            assert_eq!(refused, Some(Errno::EROFS), "the next one would not know");
            match is_waited_for {
                true => drop(is_refused(&next, B)),
                false => assert_eq!(gets(&next, B, 0), 2, "{ends_with:?}, {boot}"),
            }
        }
    }

    #[test]
    fn the_claim_of_one_who_is_known_to_be_dead_is_had_at_once() {
        let (state, tokio) = (tempfile::tempdir().unwrap(), tokio());
        let _inside = tokio.enter();
        let roles = open(state.path(), GRACE);
        let first = gets(&roles, A, 0);
        let dead = is_refused(&roles, B).claim;
        assert_eq!(dead, first);
        let instead = block_on(roles.claim("old", B, asks(0, dead))).unwrap();
        assert!(matches!(instead, Given::Claim(number) if number == first + 1));
        let late = block_on(roles.claim("old", A, asks(0, dead))).unwrap();
        assert!(matches!(late, Given::Taken(..)), "that one is another's");
    }

    #[test]
    fn who_cannot_see_whether_the_other_one_lives_waits_until_that_is_known() {
        const SHORT: Duration = Duration::from_secs(60);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let tokio = builder.enable_time().start_paused(true).build().unwrap();
        let of = |boot: &str| {
            let mut asked = asks(0, 0);
            asked.process.boot_id = boot.to_owned();
            asked
        };
        // Whether he who has it gives a sign after 20 s, or dies for good; who asks; when he is answered, and how.
        for (lives, asking, seconds, gets) in [
            (true, "another machine", 20, false),
            (false, "another machine", 60, true),
            (true, "a machine", 0, false),
            (false, "a machine", 0, false),
        ] {
            let state = tempfile::tempdir().unwrap();
            tokio.block_on(async {
                let roles = open(state.path(), SHORT);
                roles.claim("old", A, of("a machine")).await.unwrap();
                let begun = Instant::now();
                let ends = async {
                    sleep(SHORT).await;
                    roles.gone("old", A, false);
                    std::future::pending::<()>().await;
                };
                let has_signed = |client, _| {
                    assert_eq!(client, A);
                    lives && begun.elapsed().as_secs() >= 20
                };
                let given = tokio::select! {
                    given = roles.claim_when_known("old", B, of(asking), has_signed) => given,
                    () = ends => unreachable!(),
                };
                assert_eq!(matches!(given, Ok(Given::Claim(_))), gets, "{given:?}");
                assert_eq!(begun.elapsed().as_secs(), seconds);
            });
        }
    }

    #[test]
    fn who_is_silent_and_has_it_all_the_same_is_not_waited_for_for_ever() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let tokio = builder.enable_time().start_paused(true).build().unwrap();
        let state = tempfile::tempdir().unwrap();
        tokio.block_on(async {
            let roles = open(state.path(), Duration::from_secs(5));
            roles.claim("old", A, asks(0, 0)).await.unwrap();
            let given = roles
                .claim_when_known("old", B, asks(0, 0), |_, _| false)
                .await;
            assert!(matches!(given, Ok(Given::Taken(..))), "{given:?}");
        });
    }

    #[test]
    fn a_claim_waits_for_changes_that_are_under_way() {
        let state = tempfile::tempdir().unwrap();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let tokio = builder.enable_time().start_paused(true).build().unwrap();
        tokio.block_on(async {
            let roles = open(state.path(), GRACE);
            let changing = roles.change("old", B).await.unwrap();
            let busy = roles.claim("old", A, asks(0, 0)).await.unwrap_err();
            assert_eq!(busy.errno(), Errno::EBUSY);
            drop(changing);
            let Ok(Given::Claim(first)) = roles.claim("old", A, asks(0, 0)).await else {
                panic!("it is nobody's");
            };
            // What the dead one had asked for is at work still.
            let changing = roles.change("old", A).await.unwrap();
            let late = roles.claim("old", B, asks(0, first)).await.unwrap_err();
            assert_eq!(late.errno(), Errno::EBUSY);
            // Who is refused anyway waits for nobody, and keeps nobody waiting.
            let refused = roles.claim("old", B, asks(0, 0)).await.unwrap();
            assert!(matches!(refused, Given::Taken(..)));
            drop(changing);
            roles.claim("old", B, asks(0, first)).await.unwrap();
            let after = roles.change("old", A).await;
            assert_eq!(after.unwrap_err().errno(), Errno::EROFS);
        });
    }
}
