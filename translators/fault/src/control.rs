use std::array;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hermitfs_api::{Fop, Origin};
use parking_lot::RwLock;

use crate::{Action, Rule};

/// The rules of a [`Fault`](crate::Fault) while it is in use, and how many operations came.
#[derive(Debug)]
pub struct FaultControl {
    counts: [AtomicU64; Fop::ALL.len()],
    /// There are rules: without any, nobody takes the lock.
    armed: AtomicBool,
    rules: RwLock<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    matched: AtomicU64,
    acted: AtomicU64,
}

/// What is to happen to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: Action,
    pub(crate) late: bool,
}

impl FaultControl {
    pub(crate) fn new(rules: Vec<Rule>) -> FaultControl {
        let control = FaultControl {
            counts: array::from_fn(|_| AtomicU64::new(0)),
            armed: AtomicBool::new(false),
            rules: RwLock::default(),
        };
        control.set(rules);
        control
    }

    /// These rules from now on, in place of all before; their counts begin at 0.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        let mut all = self.rules.write();
        *all = rules.into_iter().map(Armed::new).collect();
        self.armed.store(!all.is_empty(), Ordering::Release);
    }

    /// One rule more, after those there are.
    pub fn add(&self, rule: Rule) {
        let mut all = self.rules.write();
        all.push(Armed::new(rule));
        self.armed.store(true, Ordering::Release);
    }

    /// No rules any more.
    pub fn clear(&self) {
        self.set([]);
    }

    /// How often each rule has acted, in their order.
    pub fn acted(&self) -> Vec<u64> {
        self.rules
            .read()
            .iter()
            .map(|armed| armed.acted.load(Ordering::Relaxed))
            .collect()
    }

    /// How often this operation came since the start, whatever became of it.
    pub fn count(&self, fop: Fop) -> u64 {
        self.counts
            .get(fop as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How many operations came that change something.
    pub fn changes(&self) -> u64 {
        Fop::ALL
            .iter()
            .filter(|fop| fop.changes())
            .map(|&fop| self.count(fop))
            .sum()
    }

    /// How many operations came at all.
    pub fn operations(&self) -> u64 {
        Fop::ALL.iter().map(|&fop| self.count(fop)).sum()
    }

    /// Counts an operation; whether it has to be judged.
    pub(crate) fn comes(&self, fop: Fop) -> bool {
        if let Some(count) = self.counts.get(fop as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.armed.load(Ordering::Acquire)
    }

    /// Whether there is a rule for one of these operations.
    pub(crate) fn has_rule_for(&self, fops: &[Fop], origin: Origin) -> bool {
        if !self.armed.load(Ordering::Acquire) {
            return false;
        }
        let rules = self.rules.read();
        let one = |armed: &Armed| {
            fops.iter()
                .any(|&fop| armed.rule.matches(fop, Some(origin)))
        };
        rules.iter().any(one)
    }

    /// Whether a rule for this operation asks where the object stands.
    pub(crate) fn asks_for_place(&self, fop: Fop, origin: Option<Origin>) -> bool {
        let rules = self.rules.read();
        rules
            .iter()
            .any(|armed| armed.rule.asks_for_place() && armed.rule.matches(fop, origin))
    }

    /// What is to happen; every rule that matches counts it.
    pub(crate) fn judge(
        &self,
        fop: Fop,
        origin: Option<Origin>,
        paths: &[Vec<u8>],
    ) -> Option<Verdict> {
        let mut verdict = None;
        for Armed {
            rule,
            matched,
            acted,
        } in &*self.rules.read()
        {
            if !rule.matches(fop, origin) || !rule.matches_place(paths) {
                continue;
            }
            let number = matched.fetch_add(1, Ordering::Relaxed);
            let last = rule
                .times
                .map_or(u64::MAX, |times| rule.after.saturating_add(times));
            if verdict.is_none() && (rule.after..last).contains(&number) {
                acted.fetch_add(1, Ordering::Relaxed);
                verdict = Some(Verdict {
                    action: rule.action,
                    late: rule.late,
                });
            }
        }
        verdict
    }
}

impl Armed {
    fn new(rule: Rule) -> Armed {
        Armed {
            rule,
            matched: AtomicU64::new(0),
            acted: AtomicU64::new(0),
        }
    }
}
