use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use hermitfs_api::{Errno, Fop, Origin};
use serde::Deserialize;

/// Which operations something happens to, and what. Reads from a line of text as the
/// [crate's page](crate) has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule {
    /// These operations.
    pub on: BTreeSet<Fop>,
    /// Only of this origin.
    pub origin: Option<Origin>,
    /// Only where the last name matches this glob.
    pub name: Option<Vec<u8>>,
    /// Only where the path from the root matches this glob.
    pub path: Option<Vec<u8>>,
    /// So many that match pass first.
    pub after: u64,
    /// Acts so many times; `None`: always.
    pub times: Option<u64>,
    /// What happens.
    pub action: Action,
    /// After the operation was carried out, instead of before.
    pub late: bool,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The operation fails.
    Fail(Errno),
    /// The operation waits.
    Delay(Duration),
    /// The process ends; the operation is never answered.
    Stop,
    /// The thread that carries it out panics, as by a bug.
    Panic,
}

/// Why a line is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// An operation that there is not.
    #[error("`{0}` is no operation: give names such as `write`, or `changes`, or `all`")]
    Operation(String),
    /// A word that means nothing here.
    #[error(
        "`{0}` means nothing in a rule: an errno's name, `delay=MS`, `stop`, `panic`, `late`, `origin=`, `name=`, `path=`, `after=` or `times=` would"
    )]
    Word(String),
    /// A value of the wrong kind.
    #[error("`{0}`: {1}")]
    Value(String, &'static str),
    /// It does not say what is to happen.
    #[error("`{0}` does not say what is to happen: an errno's name, `delay=MS`, `stop` or `panic`")]
    NoAction(String),
    /// It says two things.
    #[error("`{0}` says twice what is to happen")]
    TwoActions(String),
}

impl Rule {
    /// What happens to these operations, always.
    pub fn new(on: impl IntoIterator<Item = Fop>, action: Action) -> Rule {
        Rule {
            on: on.into_iter().collect(),
            origin: None,
            name: None,
            path: None,
            after: 0,
            times: None,
            action,
            late: false,
        }
    }

    /// An operation fails.
    pub fn fail(fop: Fop, errno: Errno) -> Rule {
        Rule::new([fop], Action::Fail(errno))
    }

    /// Every change fails.
    pub fn fail_changes(errno: Errno) -> Rule {
        Rule::new(changes(), Action::Fail(errno))
    }

    /// The process stops at the n-th change (0 is the first), before it is carried out.
    pub fn stop_at_change(n: u64) -> Rule {
        Rule::new(changes(), Action::Stop).after(n)
    }

    /// So many that match pass first.
    pub fn after(mut self, n: u64) -> Rule {
        self.after = n;
        self
    }

    /// Acts so many times.
    pub fn times(mut self, n: u64) -> Rule {
        self.times = Some(n);
        self
    }

    /// Only operations of this origin.
    pub fn of(mut self, origin: Origin) -> Rule {
        self.origin = Some(origin);
        self
    }

    /// Only where the last name matches this glob.
    pub fn named(mut self, glob: &str) -> Rule {
        self.name = Some(glob.into());
        self
    }

    /// Only where the path matches this glob.
    pub fn at(mut self, glob: &str) -> Rule {
        self.path = Some(glob.into());
        self
    }

    /// The operation is carried out first.
    pub fn late(mut self) -> Rule {
        self.late = true;
        self
    }

    /// Whether it has to be known where the object stands.
    pub(crate) fn asks_for_place(&self) -> bool {
        self.name.is_some() || self.path.is_some()
    }

    pub(crate) fn matches(&self, fop: Fop, origin: Option<Origin>) -> bool {
        self.on.contains(&fop) && (self.origin.is_none() || self.origin == origin)
    }

    /// Whether one of these paths (with a leading slash) is meant.
    pub(crate) fn matches_place(&self, paths: &[Vec<u8>]) -> bool {
        let last = |path: &[u8]| path.rsplit(|&b| b == b'/').next().map(<[u8]>::to_vec);
        let like = |glob: &Option<Vec<u8>>, text: Option<Vec<u8>>| match (glob, text) {
            (None, _) => true,
            (Some(glob), Some(text)) => glob_matches(glob, &text),
            (Some(_), None) => false,
        };
        !self.asks_for_place()
            || paths
                .iter()
                .any(|p| like(&self.name, last(p)) && like(&self.path, Some(p.clone())))
    }
}

fn changes() -> impl Iterator<Item = Fop> {
    Fop::ALL.iter().copied().filter(|fop| fop.changes())
}

/// `*` is any run of bytes, slashes too; `?` any byte.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob, text) {
        ([], text) => text.is_empty(),
        ([b'*', rest @ ..], text) => (0..=text.len()).any(|i| glob_matches(rest, &text[i..])),
        ([_, ..], []) => false,
        ([g, rest @ ..], [t, text @ ..]) => (*g == b'?' || g == t) && glob_matches(rest, text),
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(line: &str) -> Result<Rule, BadRule> {
        let mut words = line.split_whitespace();
        let mut rule = Rule::new(operations(words.next().unwrap_or(""))?, Action::Stop);
        let mut actions = Vec::new();
        for word in words {
            let number = |text: &str| {
                text.parse::<u64>()
                    .map_err(|_| BadRule::Value(word.into(), "a number is missing"))
            };
            match word.split_once('=') {
                None if word == "late" => rule.late = true,
                None if word == "stop" => actions.push(Action::Stop),
                None if word == "panic" => actions.push(Action::Panic),
                None => match Errno::from_name(word) {
                    Some(errno) => actions.push(Action::Fail(errno)),
                    None => return Err(BadRule::Word(word.into())),
                },
                Some(("delay", ms)) => {
                    actions.push(Action::Delay(Duration::from_millis(number(ms)?)))
                }
                Some(("after", n)) => rule.after = number(n)?,
                Some(("times", n)) => rule.times = Some(number(n)?),
                Some(("name", glob)) => rule.name = Some(glob.into()),
                Some(("path", glob)) => rule.path = Some(glob.into()),
                Some(("origin", "any")) => rule.origin = None,
                Some(("origin", "user")) => rule.origin = Some(Origin::User),
                Some(("origin", "heal")) => rule.origin = Some(Origin::Heal),
                Some(("origin", "verify")) => rule.origin = Some(Origin::Verify),
                Some(("origin", "admin")) => rule.origin = Some(Origin::Admin),
                Some(("origin", _)) => {
                    let known = "an origin is user, heal, verify, admin or any";
                    return Err(BadRule::Value(word.into(), known));
                }
                Some(_) => return Err(BadRule::Word(word.into())),
            }
        }
        match actions[..] {
            [] => Err(BadRule::NoAction(line.into())),
            [action] => Ok(Rule { action, ..rule }),
            _ => Err(BadRule::TwoActions(line.into())),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = BadRule;

    fn try_from(line: String) -> Result<Rule, BadRule> {
        line.parse()
    }
}

fn operations(list: &str) -> Result<BTreeSet<Fop>, BadRule> {
    let mut on = BTreeSet::new();
    for name in list.split(',') {
        match name {
            "all" => on.extend(Fop::ALL),
            "changes" => on.extend(changes()),
            name => match Fop::ALL.iter().find(|fop| fop.name() == name) {
                Some(&fop) => drop(on.insert(fop)),
                None => return Err(BadRule::Operation(name.into())),
            },
        }
    }
    Ok(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_builder_says() {
        let rule: Rule = "write origin=heal after=100 times=3 name=*.db late ENOSPC"
            .parse()
            .unwrap();
        let built = Rule::fail(Fop::Write, Errno::ENOSPC)
            .of(Origin::Heal)
            .after(100)
            .times(3);
        assert_eq!(rule, built.named("*.db").late());
        assert_eq!("changes after=7 stop".parse(), Ok(Rule::stop_at_change(7)));
        let all: Rule = "all delay=20".parse().unwrap();
        assert_eq!(
            (all.on.len(), all.action),
            (Fop::ALL.len(), Action::Delay(Duration::from_millis(20)))
        );
    }

    #[test]
    fn a_bad_line_is_told_what_is_wrong() {
        let bad = |line: &str| line.parse::<Rule>().unwrap_err();
        assert_eq!(bad("wriet EIO"), BadRule::Operation("wriet".into()));
        assert_eq!(bad("write EOI"), BadRule::Word("EOI".into()));
        assert_eq!(
            bad("write after=3"),
            BadRule::NoAction("write after=3".into())
        );
        assert_eq!(
            bad("write stop EIO"),
            BadRule::TwoActions("write stop EIO".into())
        );
        assert!(matches!(bad("write after=x EIO"), BadRule::Value(..)));
        assert!(matches!(bad("write origin=me EIO"), BadRule::Value(..)));
        assert_eq!(bad(""), BadRule::Operation("".into()));
    }

    #[test]
    fn globs_match_names_and_paths() {
        let name = Rule::fail(Fop::Read, Errno::EIO).named("*.db");
        assert!(name.matches_place(&[b"/a/b.db".to_vec()]));
        assert!(!name.matches_place(&[b"/a.db/b".to_vec()]) && !name.matches_place(&[]));
        let path = Rule::fail(Fop::Read, Errno::EIO).at("/a/?/*");
        assert!(path.matches_place(&[b"/x".to_vec(), b"/a/b/c/d".to_vec()]));
        assert!(!path.matches_place(&[b"/a/bb/c".to_vec()]));
    }
}
