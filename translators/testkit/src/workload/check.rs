use hermitfs_api::{Context, Origin, Translator, block_on};

use super::{Answer, Op};
use crate::{Memory, Tree};

/// Runs operations on a volume and on a model, and compares every answer, what stands at the
/// operation's paths after it, and both trees at the end (their times aside, which two clocks set).
///
/// # Errors
/// Says which operation, and what differed.
pub fn run_against_model(
    volume: &dyn Translator,
    model: &Memory,
    ops: impl IntoIterator<Item = Op>,
) -> Result<(), String> {
    let cx = Context::internal(Origin::User);
    for (number, op) in ops.into_iter().enumerate() {
        let looks = [Some(op.path()), op.new_path()].into_iter().flatten();
        let looks = looks.map(|path| Op::Look { path: path.into() });
        for op in [op.clone()].into_iter().chain(looks) {
            let (found, expected) = (block_on(op.on(volume, &cx)), block_on(op.on(model, &cx)));
            if found != expected {
                return Err(difference(number, &op, &found, &expected));
            }
        }
    }
    let found =
        Tree::of(volume, &[]).map_err(|error| format!("the tree cannot be read: {error}"))?;
    let lines = Tree::diff(&found.without_times(), &model.tree().without_times());
    if lines.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "the trees differ at the end:\n  {}",
            lines.join("\n  ")
        ))
    }
}

pub(super) fn difference(number: usize, op: &Op, found: &Answer, expected: &Answer) -> String {
    let what = match (found, expected) {
        (Answer::Seen(found), Answer::Seen(expected)) => found.diff(expected).join("; "),
        _ => format!("{found:?} | {expected:?}"),
    };
    format!("operation {number}, {op:?}: {what}")
}

/// The shortest part of some operations that still fails, as far as leaving out runs of them
/// leads there. Each attempt starts from scratch.
pub fn shrink(mut ops: Vec<Op>, mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut chunk = ops.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            if fails(&fewer) {
                ops = fewer;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    ops
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::workload::{Disk, Mix, Ops};
    use hermitfs_api::Errno;

    /// The first difference between a directory on disk and the model.
    fn differs_on_disk(ops: &[Op]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let (disk, model) = (Disk::open(dir.path()).unwrap(), Memory::new());
        let cx = Context::internal(Origin::User);
        for (number, op) in ops.iter().enumerate() {
            let looks = [Some(op.path()), op.new_path()].into_iter().flatten();
            let looks = looks.map(|path| Op::Look { path: path.into() });
            for op in [op.clone()].into_iter().chain(looks) {
                let (found, expected) = (op.on_disk(&disk), block_on(op.on(&model, &cx)));
                if found != expected {
                    return Some(difference(number, &op, &found, &expected));
                }
            }
        }
        let on_disk = Tree::of_dir(dir.path(), &[]).unwrap().without_times();
        let mut lines = Tree::diff(&on_disk, &model.tree().without_times());
        lines.retain(|line| !line.starts_with("/: mode"));
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    #[test]
    fn the_model_answers_as_a_file_system_does() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let mix = Mix::default().fit_for(|op| op.on_disk(&disk));
        for seed in 0..6 {
            let ops: Vec<Op> = Ops::new(seed, mix.clone()).take(1500).collect();
            if differs_on_disk(&ops).is_some() {
                let least = shrink(ops, |ops| differs_on_disk(ops).is_some());
                let why = differs_on_disk(&least).unwrap_or_default();
                panic!("seed {seed}, disk | model: {why}\nin {least:#?}");
            }
        }
    }

    #[test]
    fn most_kinds_of_operations_succeed_and_fail() {
        let model = Memory::new();
        let cx = Context::internal(Origin::User);
        let mut seen = std::collections::BTreeMap::<String, [u32; 2]>::new();
        for op in Ops::new(1, Mix::default()).take(5000) {
            let refused = matches!(block_on(op.on(&model, &cx)), Answer::Refused(_));
            let name = format!("{op:?}")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_string();
            seen.entry(name).or_default()[usize::from(refused)] += 1;
        }
        assert_eq!(seen.len(), 19, "{seen:?}");
        assert!(
            seen.values().all(|count| count[0] > 20 && count[1] > 0),
            "{seen:?}"
        );
    }

    #[test]
    fn two_models_agree_and_a_faulty_one_is_found_and_shrunk() {
        let ops = || Ops::new(3, Mix::default()).take(300);
        run_against_model(&Memory::new(), &Memory::new(), ops()).unwrap();
        let faulty = |ops: &[Op]| {
            let volume = Arc::new(Memory::new());
            volume.set(|settings| settings.max_links = 2);
            run_against_model(&*volume, &Memory::new(), ops.to_vec()).is_err()
        };
        let least = shrink(ops().collect(), faulty);
        // A directory in the root is one link too many already.
        assert_eq!(least.len(), 1, "{least:?}");
        let answer = block_on(least[0].on(&Memory::new(), &Context::default()));
        assert_ne!(answer, Answer::Refused(Errno::EMLINK));
    }
}
