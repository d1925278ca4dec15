//! Whether what is there is what was done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use super::{Deed, Report, record};

/// What is there in the end.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Contents of the files of lines.
    pub lines: BTreeMap<String, Vec<u8>>,
    /// Counters.
    pub counts: BTreeMap<String, String>,
    /// What all wanted.
    pub claims: BTreeSet<String>,
    /// What nobody has taken.
    pub spool: BTreeSet<String>,
    /// What somebody has taken: whose, and what.
    pub taken: Vec<(String, String)>,
}

impl Found {
    /// Looks at a tree.
    pub fn read(base: &Path) -> io::Result<Found> {
        let names = |place: &str| -> io::Result<BTreeSet<String>> {
            fs::read_dir(base.join(place))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let mut found = Found {
            claims: names("claims")?,
            spool: names("spool")?,
            ..Found::default()
        };
        for name in names("lines")? {
            let text = fs::read(base.join("lines").join(&name))?;
            found.lines.insert(name, text);
        }
        for name in names("counts")? {
            let text = fs::read_to_string(base.join("counts").join(&name))?;
            found.counts.insert(name, text);
        }
        for name in names("taken")? {
            let (host, what) = name
                .split_once('~')
                .ok_or_else(|| io::Error::other(format!("who took {name}?")))?;
            found.taken.push((host.into(), what.into()));
        }
        Ok(found)
    }
}

/// All that is wrong, a sentence each.
pub fn judge(report: &Report, found: &Found) -> Vec<String> {
    [lines, counts, claims, spool]
        .iter()
        .flat_map(|part| part(report, found))
        .collect()
}

fn lines(report: &Report, found: &Found) -> Vec<String> {
    let of = |list: &[Deed]| -> HashSet<(String, String)> {
        let lines = list.iter().filter_map(|deed| match deed {
            Deed::Line(file, name) => Some((file.clone(), name.clone())),
            _ => None,
        });
        lines.collect()
    };
    let (done, unknown) = (of(&report.done), of(&report.unknown));
    let mut wrong = Vec::new();
    let mut times: HashMap<(String, String), u32> = HashMap::new();
    for (file, content) in &found.lines {
        for text in content.split(|byte| *byte == b'\n') {
            let name = text.split(|byte| *byte == b' ').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let line = (file.clone(), name);
            if text.is_empty() {
                continue;
            }
            if text == record(&line.1).trim().as_bytes() {
                *times.entry(line).or_default() += 1;
                continue;
            }
            // Of a write that was never acknowledged, a part may be there.
            let part = |(of, name): &(String, String)| {
                of == file && record(name).trim().as_bytes().starts_with(text)
            };
            if !unknown.iter().any(part) {
                let text = String::from_utf8_lossy(&text[..text.len().min(80)]);
                wrong.push(format!("{file} has what nobody wrote: {text:?}"));
            }
        }
    }
    for ((file, name), times) in &times {
        let line = (file.clone(), name.clone());
        if *times > 1 {
            wrong.push(format!("{file} has line {name} {times} times"));
        }
        if !done.contains(&line) && !unknown.contains(&line) {
            wrong.push(format!("{file} has line {name}, which was not written"));
        }
    }
    for line in done.iter().filter(|line| !times.contains_key(line)) {
        wrong.push(format!("{} lacks line {}", line.0, line.1));
    }
    wrong
}

fn counts(report: &Report, found: &Found) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut given: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for deed in &report.done {
        if let Deed::Count(file, number) = deed
            && !given.entry(file).or_default().insert(*number)
        {
            wrong.push(format!("{file}: {number} was given twice"));
        }
    }
    let mut open: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for deed in &report.unknown {
        if let Deed::Count(file, number) = deed {
            open.entry(file).or_default().insert(*number);
        }
    }
    for (file, numbers) in &given {
        let text = found.counts.get(*file).map_or("nothing", String::as_str);
        let last = text.parse::<u64>().unwrap_or_default();
        let none = BTreeSet::new();
        let open = open.get(file).unwrap_or(&none);
        let is_known = |number: &u64| numbers.contains(number) || open.contains(number);
        if !is_known(&last) || numbers.last().is_some_and(|highest| *highest > last) {
            let highest = numbers.last();
            wrong.push(format!("{file} is {text}, and {highest:?} was given"));
        }
        wrong.extend(
            (1..=last)
                .filter(|number| !is_known(number))
                .map(|number| format!("{file}: nobody wrote {number}")),
        );
    }
    wrong
}

fn claims(report: &Report, found: &Found) -> Vec<String> {
    let mut owners: BTreeMap<&str, u32> = BTreeMap::new();
    for deed in &report.done {
        if let Deed::Claim(name) = deed {
            *owners.entry(name).or_default() += 1;
        }
    }
    let open: HashSet<&str> = report
        .unknown
        .iter()
        .filter_map(|deed| match deed {
            Deed::Claim(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let twice = owners.iter().filter(|(_, owners)| **owners > 1);
    let twice = twice.map(|(name, owners)| format!("{owners} have created {name} alone"));
    let gone = owners.keys().filter(|name| !found.claims.contains(**name));
    let gone = gone.map(|name| format!("{name} was created, and is not there"));
    let unowned =
        |name: &&String| !owners.contains_key(name.as_str()) && !open.contains(name.as_str());
    let unowned = found.claims.iter().filter(unowned);
    let unowned = unowned.map(|name| format!("{name} is there, and nobody was told so"));
    twice.chain(gone).chain(unowned).collect()
}

fn spool(report: &Report, found: &Found) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut places: HashMap<&str, Vec<&str>> = HashMap::new();
    for name in &found.spool {
        places.entry(name).or_default().push("");
    }
    for (host, name) in &found.taken {
        places.entry(name).or_default().push(host);
    }
    for (name, places) in &places {
        if places.len() > 1 {
            wrong.push(format!("{name} is in several places: {places:?}"));
        }
    }
    let is_open = |wanted: &str| {
        let same = |deed: &Deed| matches!(deed, Deed::Take(name, _) if name == wanted);
        report.unknown.iter().any(same)
    };
    for deed in &report.done {
        match deed {
            Deed::Put(name) if !places.contains_key(name.as_str()) => {
                wrong.push(format!("{name} was put into the spool, and is nowhere"));
            }
            Deed::Take(name, host) => {
                let there = places.get(name.as_str());
                if !there.is_some_and(|places| places.contains(&host.as_str())) {
                    wrong.push(format!("{name} was taken by {host}, who does not have it"));
                }
            }
            _ => {}
        }
    }
    for (host, name) in &found.taken {
        let told = Deed::Take(name.clone(), host.clone());
        if !report.done.contains(&told) && !is_open(name) {
            wrong.push(format!("{host} has {name}, and was not told so"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> (Report, Found) {
        let line = |name: &str| Deed::Line("f".into(), name.into());
        let report = Report {
            done: vec![
                line("a-1"),
                line("b-1"),
                Deed::Count("c".into(), 1),
                Deed::Count("c".into(), 3),
                Deed::Claim("7".into()),
                Deed::Put("a-2".into()),
                Deed::Put("a-3".into()),
                Deed::Take("a-2".into(), "b".into()),
            ],
            unknown: vec![
                line("a-4"),
                line("a-5"),
                Deed::Count("c".into(), 2),
                Deed::Claim("8".into()),
            ],
        };
        let torn = &record("a-5")[..9];
        let text = [&*record("a-1"), &record("a-4"), torn, &record("b-1")].concat();
        let found = Found {
            lines: [("f".into(), text.into_bytes())].into(),
            counts: [("c".into(), format!("{:020}", 3))].into(),
            claims: ["7".into(), "8".into()].into(),
            spool: ["a-3".into()].into(),
            taken: vec![("b".into(), "a-2".into())],
        };
        (report, found)
    }

    #[track_caller]
    fn finds(words: &str, spoil: impl FnOnce(&mut Report, &mut Found)) {
        let (mut report, mut found) = sound();
        spoil(&mut report, &mut found);
        let wrong = judge(&report, &found);
        assert!(
            wrong.iter().any(|sentence| sentence.contains(words)),
            "{wrong:?}"
        );
    }

    #[test]
    fn what_is_sound_is_not_complained_of() {
        let (report, found) = sound();
        assert_eq!(judge(&report, &found), [""; 0]);
    }

    #[test]
    fn every_loss_is_found() {
        let lines = |found: &mut Found, text: String| {
            found.lines.insert("f".into(), text.into_bytes());
        };
        finds("lacks line b-1", |_, found| lines(found, record("a-1")));
        finds("a-1 2 times", |_, found| {
            lines(found, record("a-1").repeat(2));
        });
        finds("nobody wrote", |_, found| {
            lines(found, record("b-1")[..9].into());
        });
        finds("not written", |_, found| lines(found, record("z-9")));
        finds("given twice", |report, _| {
            report.done.push(Deed::Count("c".into(), 3));
        });
        finds("c is", |report, _| {
            report.done.push(Deed::Count("c".into(), 4));
        });
        finds("nobody wrote 2", |report, _| {
            report
                .unknown
                .retain(|deed| !matches!(deed, Deed::Count(..)));
        });
        finds("2 have created 7", |report, _| {
            report.done.push(Deed::Claim("7".into()));
        });
        finds("7 was created, and is not there", |_, found| {
            found.claims.remove("7");
        });
        finds("nobody was told", |report, _| report.unknown.clear());
        finds("a-3 was put into the spool, and is nowhere", |_, found| {
            found.spool.clear();
        });
        finds("several places", |_, found| {
            found.taken.push(("a".into(), "a-2".into()));
        });
        finds("does not have it", |_, found| {
            found.taken[0].0 = "a".into();
        });
        finds("was not told so", |report, _| {
            report.done.retain(|deed| !matches!(deed, Deed::Take(..)));
        });
    }
}
