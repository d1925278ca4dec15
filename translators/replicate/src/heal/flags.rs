//! Inode flags (ioctl_iflags(2)): which are carried over, and what it means when the sink has not got one.

use std::collections::BTreeMap;
use std::sync::Arc;

use hermitfs_api::{Errno, Fsx, Inode, Kind};

use super::{HEAL, Healer, hints};
use crate::loss::{Class, Gravity};
use crate::trouble::{Blame, Setback, Side, Step, Trouble};

const IMMUTABLE: u32 = 0x10;
const APPEND_ONLY: u32 = 0x20;
const ENCRYPTED: u32 = 0x800;
const VERITY: u32 = 0x10_0000;

/// Only an empty directory can get it.
pub(super) const CASEFOLD: u32 = 0x4000_0000;

/// What users have asked to be compressed.
pub(super) const COMPRESSED: u32 = 0x4;

/// Flags that forbid changes, also ours.
pub(super) const FORBIDDING: u32 = IMMUTABLE | APPEND_ONLY;

/// Flags of an encrypted object, or one with a seal: its file system alone sets them.
const SEALED: u32 = ENCRYPTED | VERITY;

/// Flags that only what is empty can get: never copied on write, compressed or never, case folded.
const AT_FIRST: u32 = 0x80_0000 | COMPRESSED | 0x400 | CASEFOLD;

/// Flags that all file systems with flags have: others are told, or asked for, where the sink has not got them.
pub(super) const COMMON: u32 = FORBIDDING | 0x8 | 0x40 | 0x80 | 0x1_0000;

/// What users set (`chattr(1)`), by class, with the letters of `lsattr(1)`. All else tells how a file system keeps an object,
/// and means nothing on another one.
const LETTERS: [(Class, u32, char); 19] = [
    (Class::Encryption, ENCRYPTED, 'E'),
    (Class::Verity, VERITY, 'V'),
    (Class::Protection, IMMUTABLE, 'i'),
    (Class::Protection, APPEND_ONLY, 'a'),
    (Class::Durability, 0x8, 'S'),
    (Class::Durability, 0x1_0000, 'D'),
    (Class::Durability, 0x4000, 'j'),
    (Class::Casefold, CASEFOLD, 'F'),
    (Class::Project, 0x2000_0000, 'P'),
    (Class::Compression, COMPRESSED, 'c'),
    (Class::Compression, 0x400, 'm'),
    (Class::NoCow, 0x80_0000, 'C'),
    (Class::Dax, 0x200_0000, 'x'),
    (Class::OtherFlags, 0x1, 's'),
    (Class::OtherFlags, 0x2, 'u'),
    (Class::OtherFlags, 0x40, 'd'),
    (Class::OtherFlags, 0x80, 'A'),
    (Class::OtherFlags, 0x8000, 't'),
    (Class::OtherFlags, 0x2_0000, 'T'),
];

/// All of them.
pub(super) const KNOWN: u32 = {
    let (mut all, mut i) = (0, 0);
    while i < LETTERS.len() {
        all |= LETTERS[i].1;
        i += 1;
    }
    all
};

/// Flags that are set on the sink as they are on the source.
pub(super) const CARRIED: u32 = KNOWN & !SEALED;

/// What file systems without flags answer.
const NO_FLAGS: [Errno; 4] = [
    Errno::ENOTTY,
    Errno::EOPNOTSUPP,
    Errno::ENOSYS,
    Errno::EINVAL,
];

/// Classes of which an image lacks something, with the letters.
fn lacks(wanted: u32, there: u32) -> Vec<(Class, String)> {
    let mut lost: Vec<(Class, String)> = Vec::new();
    for (class, bit, letter) in LETTERS {
        if wanted & bit == 0 || there & bit != 0 {
            continue;
        }
        match lost.last_mut() {
            Some((last, letters)) if *last == class => letters.push(letter),
            _ => lost.push((class, letter.into())),
        }
    }
    lost
}

/// What becomes of what is encrypted, in a sink that is encrypted itself.
const UNDER_ANOTHER_KEY: &str = "flag E: encrypted by its file system with a key of its own, with all below it: it would \
                                 arrive under that of the new brick";

/// What it means to lose flags, for people.
fn story(class: Class, letters: &str) -> String {
    let means = match class {
        Class::Encryption => {
            "encrypted by its file system, with all below it: it would arrive in plain text"
        }
        Class::Verity => "sealed by fs-verity: it would arrive as an ordinary file",
        Class::Protection => "immutable or append-only: it could be changed and removed",
        Class::Durability => {
            "written synchronously: writes would come back before they are on the disk"
        }
        Class::Casefold => "names that differ in case alone are one: they would not be",
        Class::Project => "what is made in it is counted for its project: it would not be",
        Class::Compression => "how it is compressed",
        Class::NoCow => "not copied on write",
        Class::Dax => "direct access",
        _ => "a flag of chattr(1)",
    };
    format!("flag {letters}: {means}")
}

impl Healer {
    /// Whether an object may be copied: one that is encrypted only when its directory is, or when somebody has agreed
    /// that it arrives in plain text. `dir` is `None` for the root. How it is kept.
    pub(super) async fn may_copy(
        &self,
        dir: Option<&Arc<Inode>>,
        source: &Arc<Inode>,
    ) -> Step<Fsx> {
        let fsx = match self.source_fsx(source).await {
            // Told with the other attributes, and no reason to keep its content back.
            Err(Setback::Object(_)) => return Ok(Fsx::default()),
            fsx => fsx?,
        };
        if fsx.flags & ENCRYPTED == 0 {
            return Ok(fsx);
        }
        if let Some(dir) = dir
            && self.source_fsx(dir).await?.flags & ENCRYPTED != 0
        {
            return Ok(fsx);
        }
        let what = match self.sink_is_encrypted().await {
            true => UNDER_ANOTHER_KEY.into(),
            false => story(Class::Encryption, "E"),
        };
        let asked = self.ask_loss(source, Class::Encryption, what).await;
        asked.map_or(Ok(fsx), |trouble| Err(Setback::Object(trouble)))
    }

    /// Whether all that is made on the sink is encrypted by its file system, as it is in an encrypted directory.
    async fn sink_is_encrypted(&self) -> bool {
        let Ok(root) = self.sink_root() else {
            return false;
        };
        let fsx = self.sink.get_fsx(&HEAL, &root).await;
        fsx.is_ok_and(|fsx| fsx.flags & ENCRYPTED != 0)
    }

    /// How an object of the source is kept. A file system that does not tell has nothing special.
    pub(super) async fn source_fsx(&self, source: &Arc<Inode>) -> Step<Fsx> {
        if !matches!(source.kind(), Kind::File | Kind::Directory) {
            return Ok(Fsx::default());
        }
        match self.source.get_fsx(&HEAL, source).await {
            Err(error) if NO_FLAGS.contains(&error.errno()) => Ok(Fsx::default()),
            fsx => fsx.at_source("read flags"),
        }
    }

    /// Gives a new image, with nothing in it yet, what it can get only now. What does not come off is found
    /// when all is set.
    pub(super) async fn first_flags(&self, wanted: &Fsx, image: &Arc<Inode>) {
        let hinted = hints::has_any(wanted) && image.kind() == Kind::File;
        if wanted.flags & AT_FIRST == 0 && !hinted {
            return;
        }
        let Ok(there) = self.sink.get_fsx(&HEAL, image).await else {
            return;
        };
        if hinted {
            let hinted = hints::with_hints(wanted, &there);
            drop(self.sink.set_fsx(&HEAL, image, &hinted).await);
        }
        if wanted.flags & AT_FIRST != 0 {
            let first = there.flags & !AT_FIRST | wanted.flags & AT_FIRST;
            drop(self.sink.set_flags(&HEAL, image, first).await);
        }
    }

    /// Makes an image's flags, hints and project equal, and tells what it cannot have.
    pub(super) async fn flags(
        &self,
        source: &Arc<Inode>,
        wanted: &Fsx,
        image: &Arc<Inode>,
        held_back: &mut Vec<Trouble>,
    ) -> Step<()> {
        if !matches!(image.kind(), Kind::File | Kind::Directory) {
            return Ok(());
        }
        let there = match self.sink.get_fsx(&HEAL, image).await {
            Ok(there) => {
                self.set_hints(wanted, &there, image).await;
                self.set_each(wanted.flags & CARRIED, there, image, held_back)
                    .await?
            }
            Err(error) if NO_FLAGS.contains(&error.errno()) => Fsx::default(),
            Err(error) => {
                let failed = Err(error).at_sink("set flags");
                return super::meta::keep(failed, b"flags", held_back);
            }
        };
        let mut lost = BTreeMap::new();
        for (class, letters) in lacks(wanted.flags, there.flags) {
            lost.insert(class, story(class, &letters));
        }
        for (class, what) in hints::lacks(wanted, &there) {
            let all: &mut String = lost.entry(class).or_default();
            if !all.is_empty() {
                all.push_str("; ");
            }
            all.push_str(&what);
        }
        // What is encrypted is asked for before it is copied, and how something is compressed is told by its
        // attributes as well.
        lost.remove(&Class::Encryption);
        let elsewhere = |class: Class| {
            class == Class::Encryption
                || class == Class::Compression && wanted.flags & COMPRESSED != 0
        };
        let classes = LETTERS.into_iter().map(|(class, ..)| class);
        let kept = classes.chain([Class::ExtentSize]);
        let kept = kept.filter(|class| !elsewhere(*class) && !lost.contains_key(class));
        self.has_all(source, kept.collect::<Vec<_>>());
        for (class, what) in lost {
            match class.gravity() {
                Gravity::Stated => self.note_loss(source, class, Some(what)).await,
                _ => held_back.extend(self.ask_loss(source, class, what).await),
            }
        }
        Ok(())
    }

    /// Sets hints and project, as far as they can be had: what cannot is found afterwards.
    async fn set_hints(&self, wanted: &Fsx, there: &Fsx, image: &Arc<Inode>) {
        for next in [
            hints::with_project(wanted, there),
            hints::with_hints(wanted, &hints::with_project(wanted, there)),
        ] {
            if next != *there
                && let Err(error) = self.sink.set_fsx(&HEAL, image, &next).await
            {
                tracing::debug!(%error, ?image, "hints or a project are not to be had");
            }
        }
    }

    /// Sets flags, all at once or, where that is refused, one by one. What is there then.
    async fn set_each(
        &self,
        wanted: u32,
        before: Fsx,
        image: &Arc<Inode>,
        held_back: &mut Vec<Trouble>,
    ) -> Step<Fsx> {
        let now = || async { self.sink.get_fsx(&HEAL, image).await.at_sink("set flags") };
        let mut there = before.flags;
        if there & CARRIED == wanted {
            // Hints may have been set.
            return now().await;
        }
        let all = there & !CARRIED | wanted;
        if let Ok(()) = self.sink.set_flags(&HEAL, image, all).await {
            // Some are left out without an error.
            return now().await;
        }
        // Those that forbid the others come last.
        let is_last = |(_, bit, _): &(Class, u32, char)| bit & FORBIDDING != 0;
        let (last, first): (Vec<_>, Vec<_>) = LETTERS.into_iter().partition(is_last);
        let mut failed = None;
        for (class, bit, _) in first.into_iter().chain(last) {
            if (there ^ wanted) & bit & CARRIED == 0 {
                continue;
            }
            match self.sink.set_flags(&HEAL, image, there ^ bit).await {
                Ok(()) => there = now().await?.flags,
                Err(error) if NO_FLAGS.contains(&error.errno()) => {}
                Err(error) if class.gravity() == Gravity::Stated => {
                    tracing::debug!(%error, ?image, class = class.name(), "a flag is not to be had");
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            super::meta::keep(Err(error).at_sink("set flags"), b"flags", held_back)?;
        } else if there & FORBIDDING & !wanted != 0 {
            let reason = "it cannot be made changeable".to_owned();
            held_back.push(Trouble::told(Side::Sink, "set flags", None, reason));
        }
        now().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_that_is_lost_is_told_by_class_and_letter() {
        let all = LETTERS.into_iter().fold(0, |all, (_, bit, _)| all | bit);
        let told: String = lacks(all, 0)
            .into_iter()
            .map(|(_, letters)| letters)
            .collect();
        assert_eq!(
            told,
            LETTERS
                .map(|(.., letter)| letter)
                .iter()
                .collect::<String>()
        );
        assert_eq!(lacks(all, all), []);
        let two = lacks(FORBIDDING | 0x4, 0x10);
        let wanted = [
            (Class::Protection, "a".to_owned()),
            (Class::Compression, "c".to_owned()),
        ];
        assert_eq!(two, wanted);
    }

    #[test]
    fn what_tells_how_blocks_are_kept_is_neither_set_nor_missed() {
        // Indexed, extents, huge, inline data.
        let kept = 0x1000 | 0x8_0000 | 0x4_0000 | 0x1000_0000;
        assert_eq!(CARRIED & kept, 0);
        assert_eq!(lacks(kept, 0), []);
        assert_eq!(CARRIED & SEALED, 0);
    }
}
