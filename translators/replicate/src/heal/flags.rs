//! Inode flags (ioctl_iflags(2)): which are carried over, and what it means when the sink has not got one.

use std::sync::Arc;

use hermitfs_api::{Errno, Inode, Kind};

use super::{HEAL, Healer};
use crate::loss::{Class, Gravity};
use crate::trouble::{Blame, Setback, Side, Step, Trouble};

const IMMUTABLE: u32 = 0x10;
const APPEND_ONLY: u32 = 0x20;
const ENCRYPTED: u32 = 0x800;
const VERITY: u32 = 0x10_0000;

/// Only an empty directory can get it.
pub(super) const CASEFOLD: u32 = 0x4000_0000;

/// Flags that forbid changes, also ours.
pub(super) const FORBIDDING: u32 = IMMUTABLE | APPEND_ONLY;

/// Flags of an encrypted object, or one with a seal: its file system alone sets them.
const SEALED: u32 = ENCRYPTED | VERITY;

/// Flags that only what is empty can get: never copied on write, compressed or never, case folded.
const AT_FIRST: u32 = 0x80_0000 | 0x4 | 0x400 | CASEFOLD;

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
    (Class::Compression, 0x4, 'c'),
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
    /// that it arrives in plain text. `dir` is `None` for the root. Its flags.
    pub(super) async fn may_copy(
        &self,
        dir: Option<&Arc<Inode>>,
        source: &Arc<Inode>,
    ) -> Step<u32> {
        let flags = match self.source_flags(source).await {
            // Told with the other attributes, and no reason to keep its content back.
            Err(Setback::Object(_)) => return Ok(0),
            flags => flags?,
        };
        if flags & ENCRYPTED == 0 {
            return Ok(flags);
        }
        if let Some(dir) = dir
            && self.source_flags(dir).await? & ENCRYPTED != 0
        {
            return Ok(flags);
        }
        let what = story(Class::Encryption, "E");
        let asked = self.ask_loss(source, Class::Encryption, what).await;
        asked.map_or(Ok(flags), |trouble| Err(Setback::Object(trouble)))
    }

    /// All flags of an object of the source. A file system without any has none.
    pub(super) async fn source_flags(&self, source: &Arc<Inode>) -> Step<u32> {
        if !matches!(source.kind(), Kind::File | Kind::Directory) {
            return Ok(0);
        }
        match self.source.get_flags(&HEAL, source).await {
            Err(error) if NO_FLAGS.contains(&error.errno()) => Ok(0),
            flags => flags.at_source("read flags"),
        }
    }

    /// Gives a new image, with nothing in it yet, the flags that it can get only now. What does not come off is found
    /// when all flags are set.
    pub(super) async fn first_flags(&self, wanted: u32, image: &Arc<Inode>) {
        if wanted & AT_FIRST != 0
            && let Ok(there) = self.sink.get_flags(&HEAL, image).await
        {
            let first = there & !AT_FIRST | wanted & AT_FIRST;
            drop(self.sink.set_flags(&HEAL, image, first).await);
        }
    }

    /// Makes an image's flags equal, and tells what it cannot have.
    pub(super) async fn flags(
        &self,
        source: &Arc<Inode>,
        wanted: u32,
        image: &Arc<Inode>,
        held_back: &mut Vec<Trouble>,
    ) -> Step<()> {
        if !matches!(image.kind(), Kind::File | Kind::Directory) {
            return Ok(());
        }
        let there = match self.sink.get_flags(&HEAL, image).await {
            Ok(there) => {
                self.set_each(wanted & CARRIED, there, image, held_back)
                    .await?
            }
            Err(error) if NO_FLAGS.contains(&error.errno()) => 0,
            Err(error) => {
                return super::meta::keep(Err(error).at_sink("set flags"), b"flags", held_back);
            }
        };
        let lost = lacks(wanted, there);
        // What is encrypted is asked for before it is copied.
        let lost = lost.iter().filter(|(class, _)| *class != Class::Encryption);
        for (class, letters) in lost.clone() {
            let what = story(*class, letters);
            match class.gravity() {
                Gravity::Stated => self.note_loss(source, *class, Some(what)).await,
                _ => held_back.extend(self.ask_loss(source, *class, what).await),
            }
        }
        let classes = LETTERS.into_iter().map(|(class, ..)| class);
        let kept = classes.filter(|class| {
            *class != Class::Encryption && !lost.clone().any(|(its, _)| its == class)
        });
        self.has_all(source, kept);
        Ok(())
    }

    /// Sets flags, all at once or, where that is refused, one by one. What is there then.
    async fn set_each(
        &self,
        wanted: u32,
        there: u32,
        image: &Arc<Inode>,
        held_back: &mut Vec<Trouble>,
    ) -> Step<u32> {
        let mut there = there;
        if there & CARRIED == wanted {
            return Ok(there);
        }
        let all = there & !CARRIED | wanted;
        if let Ok(()) = self.sink.set_flags(&HEAL, image, all).await {
            // Some are left out without an error.
            return self.sink.get_flags(&HEAL, image).await.at_sink("set flags");
        }
        // Those that forbid the others come last.
        let others = LETTERS
            .into_iter()
            .filter(|(_, bit, _)| bit & FORBIDDING == 0);
        let last = LETTERS
            .into_iter()
            .filter(|(_, bit, _)| bit & FORBIDDING != 0);
        let mut failed = None;
        for (class, bit, _) in others.chain(last) {
            if (there ^ wanted) & bit & CARRIED == 0 {
                continue;
            }
            let next = there ^ bit;
            match self.sink.set_flags(&HEAL, image, next).await {
                Ok(()) => {
                    there = self
                        .sink
                        .get_flags(&HEAL, image)
                        .await
                        .at_sink("set flags")?
                }
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
        Ok(there)
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
