//! Who can go on over a cut-over with what he holds, and who cannot: a decision without I/O.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::{Usage, Use, What};

/// A file that is open at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The inode number that users see.
    pub(crate) number: u64,
    /// Reads, or mappings, do not come to the door.
    pub(crate) bypasses: bool,
    /// Why who has it open cannot go on with it, if so.
    pub(crate) obstacle: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Cannot be moved.
    pub(crate) stuck: Vec<Usage>,
    /// Goes on: numbers of objects that are held and are no open files.
    pub(crate) held: Vec<u64>,
    /// Goes on: numbers of open files that somebody has locked.
    pub(crate) locked: Vec<u64>,
}

/// Which files are open the door knows; who has them, /proc. With `inside`, who has a working or
/// root directory in the mount stays there.
pub(crate) fn judge(uses: &[Use], open: &[Opened], point: &Path, inside: bool) -> Verdict {
    let mut modes: HashMap<u64, bool> = HashMap::new();
    for file in open {
        *modes.entry(file.number).or_default() |= file.bypasses;
    }
    let obstacles: HashMap<u64, &'static str> = open
        .iter()
        .filter_map(|file| Some((file.number, file.obstacle?)))
        .collect();
    let mut verdict = Verdict::default();
    let (mut held, mut blamed) = (HashSet::new(), HashSet::new());
    for one in uses {
        let mode = modes.get(&one.number);
        let obstacle = obstacles.get(&one.number);
        let how = match (one.what, mode) {
            (What::File { .. }, _) if obstacle.is_some() => obstacle.unwrap_or(&""),
            (What::File { reads: true }, Some(true)) => "open to read past the mount",
            (What::Mapping, Some(false)) | (What::File { .. }, Some(_)) => continue,
            (What::Lock, Some(false)) => {
                verdict.locked.push(one.number);
                continue;
            }
            (What::Place, _) if !inside => one.usage.how,
            (What::File { .. }, None) | (What::Held | What::Place, _) => {
                held.insert(one.number);
                held.extend(&one.above);
                continue;
            }
            (What::Mapping, _) => "mapping past the mount",
            (What::SharedMapping | What::Fifo | What::Lock | What::Fixed, _) => one.usage.how,
        };
        blamed.insert(one.number);
        verdict.stuck.push(Usage {
            how,
            ..one.usage.clone()
        });
    }
    let nobody = |number: &u64| !blamed.contains(number);
    let bypassed = modes.iter().filter(|(_, bypasses)| **bypasses);
    let bypassed = bypassed.map(|(number, _)| (*number, "open to read past the mount"));
    let known = obstacles.into_iter().chain(bypassed);
    for (number, how) in known.filter(|(number, _)| nobody(number)) {
        let seen = uses.iter().find(|one| one.number == number);
        let path = seen.map_or(point, |one| &one.usage.path).to_owned();
        let unknown = Use::of_nobody(how, path, number);
        verdict.stuck.push(unknown.usage);
    }
    verdict.stuck.sort();
    verdict.stuck.dedup();
    verdict.held.extend(held);
    verdict.held.sort_unstable();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(what: What, how: &'static str, number: u64) -> Use {
        Use {
            usage: Usage {
                pid: 7,
                process: "worker".into(),
                how,
                path: format!("/data/{number}").into(),
            },
            what,
            number,
            above: Vec::new(),
        }
    }

    fn judged(uses: &[Use], open: &[(u64, bool)]) -> (Vec<(u32, &'static str)>, Vec<u64>) {
        let open: Vec<Opened> = open
            .iter()
            .map(|&(number, bypasses)| Opened {
                number,
                bypasses,
                obstacle: None,
            })
            .collect();
        let Verdict { stuck, held, .. } = judge(uses, &open, Path::new("/data"), false);
        (stuck.iter().map(|one| (one.pid, one.how)).collect(), held)
    }

    const READER: What = What::File { reads: true };
    const WRITER: What = What::File { reads: false };

    #[test]
    fn what_comes_to_the_door_goes_on() {
        let uses = [
            used(READER, "open file", 1),
            used(WRITER, "open file", 2),
            used(What::Mapping, "mapping", 1),
            used(What::Held, "open directory", 3),
        ];
        assert_eq!(judged(&uses, &[(1, false), (2, false)]), (vec![], vec![3]));
    }

    #[test]
    fn who_reads_past_the_door_is_named_and_who_only_writes_is_not() {
        let uses = [used(READER, "open file", 1), used(WRITER, "open file", 1)];
        let (stuck, held) = judged(&uses, &[(1, true), (1, false)]);
        assert_eq!(stuck, [(7, "open to read past the mount")]);
        assert!(held.is_empty());
    }

    #[test]
    fn what_the_door_knows_counts_though_no_process_is_found() {
        let (stuck, _) = judged(&[], &[(1, true), (2, false)]);
        assert_eq!(stuck, [(0, "open to read past the mount")]);
        let (stuck, _) = judged(&[used(WRITER, "open file", 1)], &[(1, true)]);
        assert_eq!(stuck, [(0, "open to read past the mount")]);
    }

    #[test]
    fn mappings_go_on_only_through_the_mount_and_without_shared_stores() {
        let map = used(What::Mapping, "mapping", 1);
        let (stuck, _) = judged(std::slice::from_ref(&map), &[]);
        assert_eq!(stuck, [(7, "mapping past the mount")]);
        assert_eq!(judged(&[map], &[(1, false)]).0, []);
        let shared = used(What::SharedMapping, "shared mapping", 1);
        assert_eq!(judged(&[shared], &[(1, false)]).0, [(7, "shared mapping")]);
    }

    #[test]
    fn locks_go_on_with_the_files_that_they_are_on() {
        let uses = [used(What::Lock, "record lock", 1)];
        let open = [Opened {
            number: 1,
            bypasses: false,
            obstacle: None,
        }];
        let verdict = judge(&uses, &open, Path::new("/data"), false);
        assert_eq!((verdict.stuck.len(), verdict.locked), (0, vec![1]));
        // On a directory, or where reads do not come to the door.
        assert_eq!(judged(&uses, &[]).0, [(7, "record lock")]);
        assert_eq!(judged(&uses, &[(1, true)]).0, [(7, "record lock")]);
    }

    #[test]
    fn what_cannot_go_on_for_its_own_reasons_is_named_with_them() {
        let open = [Opened {
            number: 1,
            bypasses: false,
            obstacle: Some("database"),
        }];
        let how = |uses: &[Use]| {
            let stuck = judge(uses, &open, Path::new("/data"), false).stuck;
            stuck
                .iter()
                .map(|one| (one.pid, one.how))
                .collect::<Vec<_>>()
        };
        assert_eq!(how(&[used(READER, "open file", 1)]), [(7, "database")]);
        assert_eq!(how(&[used(READER, "open file", 2)]), [(0, "database")]);
    }

    #[test]
    fn nothing_moves_a_place_a_lease_or_a_fifo() {
        for (what, how) in [
            (What::Place, "working directory"),
            (What::Fixed, "lease"),
            (What::Fifo, "open fifo"),
        ] {
            let uses = [used(what, how, 1)];
            assert_eq!(judged(&uses, &[(1, false)]).0, [(7, how)]);
        }
    }

    #[test]
    fn who_may_stay_inside_keeps_the_way_up() {
        let uses = [Use {
            above: vec![4, 2],
            ..used(What::Place, "working directory", 9)
        }];
        let verdict = judge(&uses, &[], Path::new("/data"), true);
        assert_eq!((verdict.stuck, verdict.held), (vec![], vec![2, 4, 9]));
        let program = [used(What::Fixed, "running program", 1)];
        let stuck = judge(&program, &[], Path::new("/data"), true).stuck;
        assert_eq!(stuck[0].how, "running program");
    }
}
