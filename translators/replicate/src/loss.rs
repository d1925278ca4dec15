//! What the sink does not get of an object: classes, and which of them stop a cut-over.
//!
//! A *loss* is a class, an object and a few words. Who heals an object finds it out, and tells it in one of two ways,
//! which its class decides ([`Class::gravity`]):
//!
//! - **Stated**: told once, and nothing waits for it. [`Healer::note_loss`](crate::heal::Healer::note_loss) with
//!   what was lost, each time that the object is looked at; with `None` when nothing is, which takes back what an
//!   earlier look may have told.
//! - **Asked**: an error on the object, until an administrator agrees to it.
//!   [`Healer::ask_loss`](crate::heal::Healer::ask_loss) gives the trouble to fail with, or `None` when it was agreed to
//!   (then it is noted like one that is stated).
//!
//! What merely failed, and may come off another time, has a class as well ([`Gravity::Fault`]): that is an ordinary
//! [`Trouble`](crate::trouble::Trouble).

use serde::{Deserialize, Serialize};

use crate::record::Locator;

/// What of an object it is. The order is that of listings; the journal keeps the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Class {
    /// The object itself: it has no name on the sink, or one too many.
    Name,
    /// Its bytes.
    Content,
    /// Owner or group.
    Owner,
    /// Permissions.
    Mode,
    /// Times.
    Time,
    /// Extended attributes, with access control lists.
    Xattr,
    /// Inode flags could not be read or set.
    Flags,
    /// Encrypted by its file system (fscrypt): it would arrive in plain text.
    Encryption,
    /// Checked by its file system (fs-verity): it would arrive as an ordinary file.
    Verity,
    /// Append-only or immutable: it would arrive without that protection.
    Protection,
    /// Synchronous writes or journalled data: what is promised at the end of a write(2).
    Durability,
    /// Names that differ in case alone are one.
    Casefold,
    /// The project that it is counted for.
    Project,
    /// Compression, or never.
    Compression,
    /// Never copied on write.
    NoCow,
    /// Extent size hints.
    ExtentSize,
    /// Direct access to persistent memory.
    Dax,
    /// All other flags.
    OtherFlags,
    /// Space that was reserved ahead.
    Reserved,
    /// Blocks that it shares with other files.
    Shared,
}

impl std::str::FromStr for Class {
    type Err = String;

    fn from_str(name: &str) -> Result<Class, String> {
        Class::of_name(name).ok_or_else(|| {
            let names = Class::ALL.map(Class::name).join(", ");
            format!("there is no class `{name}`, only: {names}")
        })
    }
}

/// What a class means for who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// Something failed; it is tried again, and no cut-over comes before it came off or was waived.
    Fault,
    /// The sink cannot have it; no cut-over before somebody has agreed.
    Asked,
    /// The sink cannot have it; told, and no more.
    Stated,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 20] = [
        Class::Name,
        Class::Content,
        Class::Owner,
        Class::Mode,
        Class::Time,
        Class::Xattr,
        Class::Flags,
        Class::Encryption,
        Class::Verity,
        Class::Protection,
        Class::Durability,
        Class::Casefold,
        Class::Project,
        Class::Compression,
        Class::NoCow,
        Class::ExtentSize,
        Class::Dax,
        Class::OtherFlags,
        Class::Reserved,
        Class::Shared,
    ];

    /// As a command takes and shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Name => "name",
            Class::Content => "content",
            Class::Owner => "owner",
            Class::Mode => "mode",
            Class::Time => "time",
            Class::Xattr => "xattr",
            Class::Flags => "flags",
            Class::Encryption => "encryption",
            Class::Verity => "verity",
            Class::Protection => "protection",
            Class::Durability => "durability",
            Class::Casefold => "casefold",
            Class::Project => "project",
            Class::Compression => "compression",
            Class::NoCow => "nocow",
            Class::ExtentSize => "extent-size",
            Class::Dax => "dax",
            Class::OtherFlags => "other-flags",
            Class::Reserved => "reserved-space",
            Class::Shared => "shared-blocks",
        }
    }

    /// The class of this name.
    pub fn of_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Whether it stops a cut-over.
    pub const fn gravity(self) -> Gravity {
        match self {
            Class::Name
            | Class::Content
            | Class::Owner
            | Class::Mode
            | Class::Time
            | Class::Xattr
            | Class::Flags => Gravity::Fault,
            Class::Encryption
            | Class::Verity
            | Class::Protection
            | Class::Durability
            | Class::Casefold
            | Class::Project => Gravity::Asked,
            Class::Compression
            | Class::NoCow
            | Class::ExtentSize
            | Class::Dax
            | Class::OtherFlags
            | Class::Reserved
            | Class::Shared => Gravity::Stated,
        }
    }

    /// Whether a waiver of attributes leaves it alone: it has to be named.
    pub const fn is_content(self) -> bool {
        matches!(self, Class::Name | Class::Content)
    }

    /// The class of a step of healing that failed.
    pub(crate) fn of_step(operation: &str) -> Class {
        match operation {
            "read" | "write" | "open" | "set size" | "punch a hole" | "take a lease" => {
                Class::Content
            }
            "set owner" => Class::Owner,
            "set mode" => Class::Mode,
            "set time" => Class::Time,
            "read xattrs" | "set xattr" | "remove xattr" => Class::Xattr,
            "read flags" | "set flags" => Class::Flags,
            _ => Class::Name,
        }
    }
}

/// A loss that is told but stops nothing: stated, or agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loss {
    /// For people: what it had, and what it has.
    pub(crate) what: String,
    /// How to find its object, which has no mark.
    pub(crate) locator: Locator,
    /// Somebody has agreed to it.
    pub(crate) agreed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_name_of_its_own_and_the_journal_knows_its_number() {
        for (number, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number, "{class:?}");
            assert_eq!(Class::of_name(class.name()), Some(class));
        }
        assert_eq!(Class::of_name("colour"), None);
    }

    #[test]
    fn what_cannot_be_undone_by_users_is_asked_for() {
        for class in Class::ALL {
            if class.is_content() {
                assert_eq!(class.gravity(), Gravity::Fault);
            }
        }
        assert_eq!(Class::Encryption.gravity(), Gravity::Asked);
        assert_eq!(Class::Compression.gravity(), Gravity::Stated);
    }
}
