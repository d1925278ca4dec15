//! Opening a pair, or going on with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use hermitfs_api::{Errno, Inode, Role, Translator};
use parking_lot::Mutex;

use super::Replicate;
use super::doubt::{Moment, doubt};
use super::sink::{Identity, Sink, SourceName};
use super::toll::{Toll, toll};
use crate::answers::{Answers, Awaited};
use crate::backoff::Pulse;
use crate::brake::Brake;
use crate::control::OpenError;
use crate::heal::{HEAL, Healer};
use crate::journal::{Header, Journal, VERSION};
use crate::ledger::Ledger;
use crate::leg::Leg;
use crate::options::Options;
use crate::record::Trust;
use crate::tally::Amount;
use crate::timed::Timed;
use crate::users::{UserLeg, Users};
use crate::volume::{self, BrickId, Found, Marker, MarkerOn, io};

/// Threads that share one big file.
const LANES: usize = 3;

/// A brick as the volfile names it.
type Named = (String, Arc<dyn Translator>);

/// A sink that has been looked at.
#[derive(Clone)]
struct Seen {
    name: String,
    /// What people call it.
    place: String,
    sink: Arc<dyn Translator>,
    answers: Arc<Answers>,
    root: Arc<Inode>,
    id: BrickId,
    state: Found,
    /// Why it is not there.
    absent: Option<String>,
}

/// Why a brick cannot be the source, or a sink. One that will never be says so itself.
fn unfit(error: hermitfs_api::Error, place: &str) -> OpenError {
    match error.errno() {
        Errno::EOPNOTSUPP => {
            let story = error.story().map(ToString::to_string);
            OpenError::Refused(story.unwrap_or_else(|| format!("{place}: {error}")))
        }
        _ => io(place)(error),
    }
}

pub(super) async fn open(
    options: Options,
    source: Named,
    sinks: Vec<Named>,
    state_base: &Path,
) -> Result<Arc<Replicate>, OpenError> {
    let (source_name, source) = source;
    let old = options.place(&source_name);
    let role = source.role(Role::Source).await;
    role.map_err(|error| unfit(error, old))?;
    let root = source.root(&HEAL).await.map_err(io(old))?.inode;
    if volume::has_marker(&*source, &root).await.map_err(io(old))? {
        return Err(OpenError::Identity(format!(
            "{old} has a directory .hermitfs: it is, or was, the new brick of a migration. Give it as \
             the new brick, or end that migration with `hermitfs abort` or `cutover` first. Where it is \
             your own, give it another name"
        )));
    }
    let source_id = volume::brick_id(&*source, &root).await.map_err(io(old))?;
    // First look at all, then touch anything.
    let mut seen = Vec::new();
    for sink in sinks {
        let place = options.place(&sink.0).to_owned();
        let looked = look_at(sink.clone(), place.clone(), &source_id).await;
        let failed = options
            .resumed
            .then(|| missing(&sink.0, &looked, &source_id, state_base));
        seen.push(match failed.flatten() {
            Some((marker, id)) => absent(sink, place, looked, marker, id).await?,
            None => looked?,
        });
    }
    let id = migration(&seen, &source_id, &options)?;
    ask(&seen, (&*source, &root), &options).await?;
    let id = match id {
        Some(id) => id,
        None => begun(&seen, &source_id, state_base)?,
    };
    let state_dir = volume::state_dir(state_base, &id);
    let is_new = !state_dir.exists();
    let bricks: Vec<_> = seen
        .iter()
        .map(|seen| (seen.sink.clone(), seen.root.clone()))
        .collect();
    let brick = (source.clone(), root.clone());
    let taken_up = take_up(&state_dir, &id, &source_id, seen, brick, &options).await;
    let (since, brake, pulse, all) = match taken_up {
        Ok(taken_up) => taken_up,
        Err(error) => {
            // What was begun here and came to nothing leaves nothing.
            if is_new {
                for (sink, root) in bricks {
                    drop(volume::unmark(&*sink, &root).await);
                }
                drop(std::fs::remove_dir_all(&state_dir));
            }
            return Err(error);
        }
    };
    let legs = all
        .iter()
        .map(|sink| UserLeg {
            leg: sink.leg.clone(),
            held: sink.healer.held.clone(),
            copies: sink.healer.copies.clone(),
        })
        .collect();
    let timed: Arc<dyn Translator> = match options.backoff {
        true => Arc::new(Timed {
            below: source,
            pulse,
        }),
        false => source,
    };
    let users = Users {
        source: timed,
        root,
        legs,
        gate: Default::default(),
        rest: options.rest_ms,
        leases: Default::default(),
        identities: Default::default(),
    };
    Ok(Arc::new(Replicate {
        users,
        sinks: all,
        brake,
        source: SourceName {
            place: options.place(&source_name).to_owned(),
            name: source_name,
        },
        id,
        is_new,
        since: UNIX_EPOCH + Duration::from_secs(since),
        state_dir,
        workers: options.workers.clamp(1, 64),
        threads: Mutex::default(),
        stop: Arc::default(),
        drain: Arc::default(),
        counted: Mutex::default(),
    }))
}

/// Since when it has been going on, what holds healing back, and the sinks.
type TakenUp = (u64, Arc<Brake>, Arc<Pulse>, Vec<Arc<Sink>>);

/// Begins with the sinks, or goes on with them: from here on something is written.
async fn take_up(
    state_dir: &Path,
    id: &str,
    source_id: &BrickId,
    seen: Vec<Seen>,
    brick: (Arc<dyn Translator>, Arc<Inode>),
    options: &Options,
) -> Result<TakenUp, OpenError> {
    let (since, numbers) = keep_record(state_dir, id, source_id, &seen)?;
    let pulse = Arc::new(Pulse::default());
    let brake = Arc::new(match options.backoff {
        true => Brake::watching(options.limit, pulse.clone()),
        false => Brake::new(options.limit),
    });
    let mut all = Vec::new();
    for (number, seen) in numbers.into_iter().zip(seen) {
        let journal = number.journal(state_dir)?;
        let marker = Marker {
            version: 1,
            id: id.to_owned(),
            role: volume::SINK.to_owned(),
            source: source_id.clone(),
            dirty: false,
        };
        let sink = go_on(seen, &brick, &journal, &marker, &brake, options.continuous).await?;
        sink.leg.ledger(|ledger| ledger.set_resting(!options.crawl));
        all.push(Arc::new(sink));
    }
    Ok((since, brake, pulse, all))
}

/// What is known of a sink that the state says is this source's, and that is not found at its place; `None` when it is
/// there, or when it may have taken the source's place.
fn missing(
    name: &str,
    looked: &Result<Seen, OpenError>,
    source: &BrickId,
    state_base: &Path,
) -> Option<(Marker, BrickId)> {
    if let Ok(Seen {
        state: Found::Marked(_),
        ..
    }) = looked
    {
        return None;
    }
    let mut records = volume::records(state_base).into_iter();
    let record = records.find(|record| record.source == *source && !record.cutting_over)?;
    let (_, id) = record.sinks.iter().find(|(known, _)| known == name)?;
    // Killed before the marker was there.
    if looked.as_ref().is_ok_and(|seen| seen.id == *id) {
        return None;
    }
    let marker = Marker {
        version: 1,
        id: record.id,
        role: volume::SINK.to_owned(),
        source: source.clone(),
        dirty: false,
    };
    Some((marker, id.clone()))
}

/// A sink that is to be taken up when it is back.
async fn absent(
    (name, sink): Named,
    place: String,
    looked: Result<Seen, OpenError>,
    marker: Marker,
    id: BrickId,
) -> Result<Seen, OpenError> {
    let why = match &looked {
        Ok(_) => "it is not mounted at its place".to_owned(),
        Err(error) => error.to_string(),
    };
    let root = match looked {
        Ok(seen) => seen.root,
        // Of no use but to stand for one.
        Err(error) => match sink.root(&HEAL).await {
            Ok(entry) => entry.inode,
            Err(_) => return Err(error),
        },
    };
    tracing::warn!(place, why, "users are served without this new brick");
    let answers = Arc::new(Answers::default());
    Ok(Seen {
        name,
        place,
        sink: Arc::new(Awaited {
            below: sink,
            answers: answers.clone(),
        }),
        answers,
        root,
        id,
        state: Found::Marked(marker),
        absent: Some(why),
    })
}

async fn look_at((name, sink): Named, place: String, source: &BrickId) -> Result<Seen, OpenError> {
    let what = &place;
    let answers = Arc::new(Answers::default());
    let sink: Arc<dyn Translator> = Arc::new(Awaited {
        below: sink,
        answers: answers.clone(),
    });
    let role = sink.role(Role::Sink).await;
    role.map_err(|error| unfit(error, what))?;
    let root = sink.root(&HEAL).await.map_err(io(what))?.inode;
    let id = volume::brick_id(&*sink, &root).await.map_err(io(what))?;
    if id == *source {
        return Err(OpenError::Refused(format!(
            "{what} is the old brick itself, by another name"
        )));
    }
    let state = volume::inspect(&*sink, &root).await.map_err(io(what))?;
    Ok(Seen {
        name,
        place,
        sink,
        answers,
        root,
        id,
        state,
        absent: None,
    })
}

/// The id of the migration that the sinks belong to; `None` when they belong to none yet.
fn migration(
    sinks: &[Seen],
    source: &BrickId,
    options: &Options,
) -> Result<Option<String>, OpenError> {
    let mut id = None;
    for Seen { place, state, .. } in sinks {
        match state {
            Found::Marked(marker) => {
                if marker.source != *source {
                    return Err(OpenError::Identity(format!(
                        "{place} belongs to the migration {} of another old brick: that one \
                         is file system {} (root {}), this one is file system {} (root {})",
                        marker.id, marker.source.fsid, marker.source.root, source.fsid, source.root
                    )));
                }
                // While the mount of that time is still there, though dead, nobody has seen the sink.
                if marker.role == volume::SUCCESSOR && !options.continuous {
                    return Err(OpenError::Identity(format!(
                        "{place} has taken the old brick's place: a cut-over was killed in its \
                         last moment, and what is on it may be newer. It is complete: use it \
                         as it is, without its directory .hermitfs"
                    )));
                }
                if !volume::is_id(&marker.id) {
                    return Err(OpenError::Identity(format!(
                        "the marker on {place} is damaged: its id is {:?}",
                        marker.id
                    )));
                }
                if id.as_ref().is_some_and(|id| *id != marker.id) {
                    return Err(OpenError::Identity(
                        "the new bricks belong to different migrations".to_owned(),
                    ));
                }
                id = Some(marker.id.clone());
            }
            Found::Foreign if !options.adopt => {
                return Err(OpenError::Refused(format!(
                    "{place} is not empty. Give an empty directory, or say --adopt to have all that \
                     is in it compared, changed and removed until it is as {} is",
                    options.place(options.source.as_deref().unwrap_or("the old brick"))
                )));
            }
            Found::Taken => {
                return Err(OpenError::Refused(format!(
                    "{place}/.hermitfs is not hermitfs' own, which keeps its marker under that name and takes it away \
                     at the end. Move it elsewhere, or remove it"
                )));
            }
            Found::Empty | Found::Foreign => {}
        }
    }
    Ok(id)
}

/// Counts what adopting would cost, and asks for a second word where that is more than an earlier
/// copy explains.
async fn ask(
    sinks: &[Seen],
    source: (&dyn Translator, &Arc<Inode>),
    options: &Options,
) -> Result<(), OpenError> {
    let old = options.place(options.source.as_deref().unwrap_or("the old brick"));
    for seen in sinks {
        if !matches!(seen.state, Found::Foreign) {
            continue;
        }
        let new = &seen.place;
        let (from, to) = (
            (source.0, source.1.clone()),
            (&*seen.sink, seen.root.clone()),
        );
        let toll = toll(from, to).await.map_err(io(new))?;
        let Toll {
            sink,
            surplus,
            newer,
            ..
        } = toll;
        tracing::warn!(
            new,
            in_it = %sink, to_be_removed = %surplus, newer_than_old = %newer,
            "what is in the new brick is adopted"
        );
        let Some(why) = toll.alarm().filter(|_| !options.delete_from_sink) else {
            continue;
        };
        return Err(OpenError::Refused(format!(
            "{old} {why} To make {new} the same, of {sink} in it these would be removed: {surplus}; and \
             these replaced, that are newer than in {old}: {newer}. Nothing has been changed. If all \
             that may go, say --delete-from-new as well"
        )));
    }
    Ok(())
}

/// The id for sinks that have no marker yet. The state knows what this source was to be moved to:
/// where that was something else, a disk is not mounted, most likely.
fn begun(sinks: &[Seen], source: &BrickId, state_base: &Path) -> Result<String, OpenError> {
    let given = || sinks.iter().map(|seen| &seen.id);
    for record in volume::records(state_base) {
        if record.source != *source {
            continue;
        }
        if given().all(|given| record.sinks.iter().any(|(_, id)| id == given)) {
            // Killed before the marker was there.
            return Ok(record.id);
        }
        let to: Vec<String> = record
            .sinks
            .iter()
            .map(|(name, id)| format!("{name}: file system {} (root {})", id.fsid, id.root))
            .collect();
        let now: Vec<String> = given()
            .map(|id| format!("file system {} (root {})", id.fsid, id.root))
            .collect();
        return Err(OpenError::Identity(format!(
            "this old brick is in a migration already ({}), to {}; what is given as its new brick is {}, \
             without our marker. Is the new disk mounted? To give that migration up and begin \
             another, remove {}",
            record.id,
            to.join(", "),
            now.join(", "),
            volume::state_dir(state_base, &record.id).display()
        )));
    }
    volume::new_id()
}

/// Writes down who belongs to this migration; since when it has been going on, in seconds.
fn keep_record(
    state_dir: &Path,
    id: &str,
    source: &BrickId,
    sinks: &[Seen],
) -> Result<(u64, Vec<Number>), OpenError> {
    let old = volume::read_record(state_dir)?;
    let before = old.clone();
    if let Some(old) = &old
        && old.source != *source
    {
        return Err(OpenError::Identity(format!(
            "the recorded source of this migration is file system {} (root {}), the one given is \
             file system {} (root {})",
            old.source.fsid, old.source.root, source.fsid, source.root
        )));
    }
    let since = old
        .as_ref()
        .map_or(volume::seconds_now() as u64, |old| old.since);
    let mut known = old.map(|old| old.sinks).unwrap_or_default();
    let given = sinks
        .iter()
        .map(|seen| (seen.name.clone(), seen.id.clone()));
    let numbers = number(&mut known, given);
    let record = volume::Record {
        version: 1,
        id: id.to_owned(),
        since,
        source: source.clone(),
        sinks: known,
        // All that are here were looked at.
        cutting_over: false,
    };
    // Where there is no room any more, what stands there already is as good.
    if before.as_ref() != Some(&record) {
        volume::write_record(state_dir, &record)?;
    }
    Ok((since, numbers))
}

/// A sink's number in the record, which is its journal's as well: the order in a volfile may
/// change, and disks may change places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    number: usize,
    /// The record had it before.
    known: bool,
}

impl Number {
    /// Its journal. One of somebody unknown tells nothing of this sink, and is taken away.
    fn journal(self, state_dir: &Path) -> Result<PathBuf, OpenError> {
        let path = state_dir.join(format!("journal.{}", self.number));
        if self.known {
            return Ok(path);
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(OpenError::Io(format!("{}: {error}", path.display())))
            }
            _ => Ok(path),
        }
    }
}

/// The numbers of these sinks, by what they are; new ones come to the end of the record.
fn number(
    record: &mut Vec<(String, BrickId)>,
    sinks: impl Iterator<Item = (String, BrickId)>,
) -> Vec<Number> {
    let mut one = |(name, id): (String, BrickId)| {
        if let Some(number) = record.iter().position(|(_, old)| *old == id) {
            record[number].0 = name;
            return Number {
                number,
                known: true,
            };
        }
        record.push((name, id));
        Number {
            number: record.len() - 1,
            known: false,
        }
    };
    sinks.map(&mut one).collect()
}

/// Takes up one sink where its journal left it, or begins with it.
async fn go_on(
    seen: Seen,
    source: &(Arc<dyn Translator>, Arc<Inode>),
    path: &Path,
    marker: &Marker,
    brake: &Arc<Brake>,
    continuous: bool,
) -> Result<Sink, OpenError> {
    let what = seen.place.clone();
    let journal_io = |error: std::io::Error| OpenError::Io(format!("{}: {error}", path.display()));
    let mut ledger = Ledger::default();
    let journal = Journal::read(path).map_err(journal_io)?;
    let moment = Moment::of_now();
    let doubt = doubt(&seen.state, journal.as_ref(), continuous, &moment);
    // Nobody knows what becomes of it before it is back.
    let doubt = match (&seen.absent, doubt) {
        (Some(_), None) => Some(Trust::before(volume::now())),
        (_, doubt) => doubt,
    };
    let same_boot = journal
        .as_ref()
        .is_some_and(|journal| journal.header.boot == moment.boot);
    // Where all is looked at again all is counted again.
    let healed = match (&journal, doubt) {
        (Some(journal), None) => (journal.header.files, journal.header.bytes),
        _ => (0, 0),
    };
    let suspect = journal
        .as_ref()
        .is_some_and(|found| found.header.suspect && found.header.boot == moment.boot);
    if let (Found::Marked(_), Some(found)) = (&seen.state, journal) {
        ledger.replay(found.records);
    }
    let known = crate::heal::known(&*source.0, &Default::default(), &source.1).await;
    // Where the source has no handles, marks do not lead back: the whole tree is compared.
    let doubt = match ledger.has_unfindable() {
        true => Some(Trust::NOTHING),
        false => doubt,
    };
    if let Some(trust) = doubt {
        ledger.doubt(&known, trust, same_boot);
    }
    drop(ledger.take_records());
    let header = Header {
        version: VERSION,
        boot: moment.boot,
        clean: false,
        calm: false,
        served: moment.now,
        uptime: moment.uptime,
        all_dirty: false,
        suspect,
        files: healed.0,
        bytes: healed.1,
    };
    let (journal, lost) = match Journal::create(path, header.clone(), &ledger.dump()) {
        Ok(journal) => (journal, None),
        // Users are served all the same.
        Err(error) => match Journal::take_over(path, header) {
            Ok(journal) => (journal, Some(error)),
            Err(_) => return Err(journal_io(error)),
        },
    };
    let staging = match &seen.absent {
        Some(_) => seen.root.clone(),
        None => volume::mark(&*seen.sink, &seen.root, marker)
            .await
            .map_err(io(&what))?,
    };
    let marker = Arc::new(MarkerOn::new(seen.sink.clone(), marker.clone()));
    let leg = Arc::new(Leg::new(ledger, journal, marker.clone()));
    if let Some(error) = lost {
        leg.lose(&error);
    }
    let sink = (seen.sink, seen.root, staging);
    let (source, brake) = (source.clone(), brake.clone());
    let healer = Arc::new(Healer::new(source, sink, leg.clone(), brake, LANES));
    match doubt {
        Some(_) => healer.tally.begin(),
        None => {
            let (files, bytes) = healed;
            let pending = leg.ledger(|ledger| ledger.pending() > 0);
            healer.tally.go_on(Amount { files, bytes }, pending);
        }
    }
    healer.suspect.store(suspect, Ordering::Relaxed);
    if seen.absent.is_none()
        && let Err(setback) = healer.sweep_unknown().await
    {
        tracing::warn!(?setback, "the staging space could not be swept");
    }
    let identity = Identity {
        marker,
        brick: seen.id,
    };
    let called = (seen.name, seen.place);
    let sink = Sink::new(called, identity, leg, healer, seen.answers);
    if let Some(why) = seen.absent {
        sink.begin_away(why);
    }
    Ok(sink)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(name: &str, fsid: &str) -> (String, BrickId) {
        let id = BrickId {
            fsid: fsid.to_owned(),
            root: "root".to_owned(),
        };
        (name.to_owned(), id)
    }

    fn numbers(record: &mut Vec<(String, BrickId)>, sinks: &[(&str, &str)]) -> Vec<(usize, bool)> {
        let sinks = sinks.iter().map(|(name, fsid)| sink(name, fsid));
        let numbers = number(record, sinks);
        numbers.iter().map(|n| (n.number, n.known)).collect()
    }

    #[test]
    fn a_sink_keeps_its_number_whatever_it_is_called_and_wherever_it_stands() {
        let mut record = Vec::new();
        let first = numbers(&mut record, &[("a", "1"), ("b", "2")]);
        assert_eq!(first, [(0, false), (1, false)]);
        assert_eq!(
            numbers(&mut record, &[("b", "2"), ("a", "1")]),
            [(1, true), (0, true)]
        );
        // Two disks that changed places, and one that is left out for a while.
        assert_eq!(
            numbers(&mut record, &[("a", "2"), ("b", "1")]),
            [(1, true), (0, true)]
        );
        assert_eq!(numbers(&mut record, &[("b", "2")]), [(1, true)]);
        assert_eq!(
            numbers(&mut record, &[("c", "3"), ("a", "1")]),
            [(2, false), (0, true)]
        );
        assert_eq!(record, [sink("a", "1"), sink("b", "2"), sink("c", "3")]);
    }

    #[test]
    fn a_journal_that_nobody_is_known_by_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.1");
        std::fs::write(&path, "of another sink").unwrap();
        let number = |known| Number { number: 1, known };
        assert_eq!(number(true).journal(dir.path()).unwrap(), path);
        assert!(path.exists());
        assert_eq!(number(false).journal(dir.path()).unwrap(), path);
        assert!(!path.exists());
        number(false).journal(dir.path()).unwrap();
    }
}
