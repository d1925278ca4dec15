//! Picking the next operation, from a generator of random numbers and the model alone: the same
//! seed gives the same work.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::model::{Body, Id, Model, join};
use super::operation::Operation;

/// What kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Builds a tree: nothing that a file system may lack, nothing held open.
    Build,
    /// Everything.
    Live,
}

const BIGGEST: usize = 200_000;
const SLOTS: usize = 4;
const NAMES: &[&str] = &[
    "a",
    "b",
    "c",
    "data",
    "log",
    "tmp",
    "index",
    "very-long-name-that-takes-some-room",
    "\u{fc}",
    "x y",
];

/// The next operation; always one that the model can say something about.
pub(super) fn choose(
    model: &Model,
    random: &mut ChaCha8Rng,
    phase: Phase,
    most_objects: usize,
) -> Operation {
    let paths = model.paths();
    loop {
        if let Some(operation) = propose(model, &paths, random, phase, most_objects) {
            return operation;
        }
    }
}

fn pick<'p>(
    model: &Model,
    paths: &'p [(String, Id)],
    random: &mut ChaCha8Rng,
    wanted: impl Fn(&Body) -> bool,
) -> Option<&'p str> {
    // Tries instead of a list: the list would cost more than the operation.
    (0..40).find_map(|_| {
        let (path, id) = &paths[random.random_range(0..paths.len())];
        wanted(&model.object(*id).body).then_some(path.as_str())
    })
}

fn propose(
    model: &Model,
    paths: &[(String, Id)],
    random: &mut ChaCha8Rng,
    phase: Phase,
    most_objects: usize,
) -> Option<Operation> {
    use Operation::*;
    let file = |random: &mut ChaCha8Rng| {
        pick(model, paths, random, |body| matches!(body, Body::File(_))).map(str::to_owned)
    };
    let directory = |random: &mut ChaCha8Rng| {
        pick(model, paths, random, |body| {
            matches!(body, Body::Directory(_))
        })
        .map(str::to_owned)
    };
    let any = |random: &mut ChaCha8Rng| {
        let path = pick(model, paths, random, |_| true)?;
        (!path.is_empty()).then(|| path.to_owned())
    };
    // What chmod and friends follow links for is a matter of the target, so not through links.
    let solid = |random: &mut ChaCha8Rng| {
        pick(model, paths, random, |body| {
            !matches!(body, Body::Symlink(_))
        })
        .map(str::to_owned)
    };
    let name = |random: &mut ChaCha8Rng| -> Option<String> {
        let directory = directory(random)?;
        if directory.matches('/').count() > 6 {
            return None;
        }
        let stem = NAMES[random.random_range(0..NAMES.len())];
        Some(join(
            &directory,
            &format!("{stem}{}", random.random_range(0..6)),
        ))
    };
    let length = |random: &mut ChaCha8Rng| match random.random_range(0..10) {
        0 => 1,
        1..5 => random.random_range(1..5000),
        5..9 => random.random_range(1..40_000),
        _ => random.random_range(1..BIGGEST / 2),
    };
    let offset = |random: &mut ChaCha8Rng, len: usize| {
        let at = random.random_range(0..BIGGEST);
        let at = if random.random_bool(0.5) {
            at % 20_000
        } else {
            at
        };
        at.min(BIGGEST.saturating_sub(len))
    };
    let modes = [0o600, 0o644, 0o755, 0o700, 0o640, 0o777, 0o444];
    let mode = modes[random.random_range(0..modes.len())];
    let fill = random.random::<u64>();
    let crowded = paths.len() > most_objects;

    Some(
        match random.random_range(0..if phase == Phase::Build { 60 } else { 125 }) {
            0..14 if !crowded => Create {
                path: name(random)?,
                mode,
            },
            14..20 if !crowded => Mkdir {
                path: name(random)?,
                mode: mode | 0o700,
            },
            20..22 if !crowded => Symlink {
                path: name(random)?,
                target: format!("../t{}", fill % 1000),
            },
            22 if !crowded => Fifo {
                path: name(random)?,
                mode,
            },
            23..27 if !crowded => Link {
                from: pick(model, paths, random, |body| {
                    !matches!(body, Body::Directory(_))
                })?
                .to_owned(),
                to: name(random)?,
            },
            0..27 => match any(random)? {
                path if matches!(
                    model.object(model.find(&path).ok()?).body,
                    Body::Directory(_)
                ) =>
                {
                    Rmdir { path }
                }
                path => Unlink { path },
            },
            27..40 => {
                let len = length(random);
                Write {
                    path: file(random)?,
                    at: offset(random, len),
                    len,
                    fill,
                }
            }
            40..44 => {
                let path = file(random)?;
                let len = length(random);
                (model.file(&path).ok()?.len() + len <= BIGGEST).then_some(Append {
                    path,
                    len,
                    fill,
                })?
            }
            44..46 => Truncate {
                path: file(random)?,
                len: random.random_range(0..60_000),
            },
            46..48 => Overwrite {
                path: file(random)?,
                len: length(random),
                fill,
            },
            48..51 => Chmod {
                path: solid(random)?,
                mode: mode | 0o600,
            },
            51..53 => Chown {
                path: any(random)?,
                uid: (fill % 5000) as u32,
                gid: (fill % 7000) as u32,
            },
            53..56 => {
                let namespace = if fill.is_multiple_of(4) {
                    "trusted"
                } else {
                    "user"
                };
                SetXattr {
                    path: pick(model, paths, random, |body| {
                        matches!(body, Body::File(_) | Body::Directory(_))
                    })?
                    .to_owned(),
                    name: format!("{namespace}.x{}", fill % 3),
                    len: random.random_range(0..120),
                    fill,
                }
            }
            56..58 => SetAcl {
                path: pick(model, paths, random, |body| {
                    matches!(body, Body::File(_) | Body::Directory(_))
                })?
                .to_owned(),
                user: 1000 + (fill % 9) as u32,
                permissions: (fill % 8) as u16,
                mode: mode | 0o600,
            },
            58..60 => Times {
                path: any(random)?,
                seconds: (fill % 2_000_000_000) as i64,
                nanoseconds: (fill % 999_999_999) as i64,
            },
            60..70 => Rename {
                from: any(random)?,
                to: name(random)?,
            },
            70..74 => Rename {
                from: any(random)?,
                to: any(random)?,
            },
            // Whole trees, into each other's places.
            74..79 => Rename {
                from: directory(random).filter(|path| !path.is_empty())?,
                to: name(random)?,
            },
            79..81 => RenameNoReplace {
                from: any(random)?,
                to: name(random)?,
            },
            81..86 => {
                let (a, b) = (any(random)?, any(random)?);
                (a != b).then_some(Exchange { a, b })?
            }
            86..91 => Unlink {
                path: pick(model, paths, random, |body| {
                    !matches!(body, Body::Directory(_))
                })?
                .to_owned(),
            },
            91..93 => Rmdir {
                path: directory(random).filter(|path| !path.is_empty())?,
            },
            93..97 => Punch {
                path: file(random)?,
                at: random.random_range(0..60_000),
                len: random.random_range(1..50_000),
            },
            97..99 => {
                let len = random.random_range(1..30_000);
                Zero {
                    path: file(random)?,
                    at: offset(random, len),
                    len,
                }
            }
            99..105 => {
                let path = file(random)?;
                let size = model.file(&path).ok()?.len();
                let at = random.random_range(0..size.max(1));
                let len = random.random_range(1..20_000).min(size.checked_sub(at)?);
                (len > 0).then_some(Map {
                    path,
                    at,
                    len,
                    fill,
                })?
            }
            105..107 => {
                let (from, to) = (file(random)?, file(random)?);
                let same = model.find(&from) == model.find(&to);
                let len = random.random_range(1..60_000);
                (!same).then_some(CopyRange {
                    from,
                    to,
                    at: offset(random, len),
                    len,
                })?
            }
            107..109 => Fsync {
                path: pick(model, paths, random, |body| {
                    matches!(body, Body::File(_) | Body::Directory(_))
                })?
                .to_owned(),
            },
            109..111 => {
                let path = solid(random)?;
                let object = model.object(model.find(&path).ok()?);
                let names: Vec<_> = object
                    .xattrs
                    .keys()
                    .filter(|name| !name.starts_with("system."))
                    .collect();
                let name = names.get(random.random_range(0..names.len().max(1)))?;
                RemoveXattr {
                    path: path.clone(),
                    name: (*name).clone(),
                }
            }
            111 => RemoveAcl {
                path: pick(model, paths, random, |body| {
                    matches!(body, Body::File(_) | Body::Directory(_))
                })?
                .to_owned(),
            },
            112..115 => {
                let slot = random.random_range(0..SLOTS);
                (!model.held.contains_key(&slot)).then_some(())?;
                Hold {
                    path: file(random)?,
                    slot,
                }
            }
            115..121 => {
                let slot = random.random_range(0..SLOTS);
                model.held.get(&slot)?;
                let len = length(random);
                HeldWrite {
                    slot,
                    at: offset(random, len),
                    len,
                    fill,
                }
            }
            121 => {
                let slot = random.random_range(0..SLOTS);
                model.held.get(&slot)?;
                HeldTruncate {
                    slot,
                    len: random.random_range(0..60_000),
                }
            }
            _ => {
                let slot = random.random_range(0..SLOTS);
                model.held.get(&slot)?;
                HeldClose { slot }
            }
        },
    )
}
