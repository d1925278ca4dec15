//! What a volfile says, whatever syntax it is written in, with where it says it.

use std::ops::Range;

/// Something, and where it stands in the text (in bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

impl<T> At<T> {
    pub(crate) fn new(value: T, span: Range<usize>) -> At<T> {
        At { value, span }
    }
}

/// The two ways to write a volfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    Toml,
    /// GlusterFS' own: `volume`, `type`, `option`, `subvolumes`, `end-volume`.
    Classic,
}

/// All volumes, in the order of the text.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) syntax: Syntax,
    pub(crate) volumes: Vec<Volume>,
}

/// One translator as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) name: At<String>,
    /// `None` when it was forgotten or wrong; that was reported where it was seen.
    pub(crate) kind: Option<At<String>>,
    pub(crate) options: Options,
    /// What `subvolume` and `subvolumes` name.
    pub(crate) children: Vec<At<String>>,
}

/// Keys and values, in the order of the text.
pub(crate) type Options = Vec<(At<String>, At<Value>)>;

/// The value of an option.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(Text),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<At<Value>>),
    Table(Options),
    /// A type that no option has (a date), by its name.
    Other(&'static str),
}

/// Text, and how much of a type it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) text: String,
    /// It may stand for a number or a truth value: it comes from the classic syntax, where all is
    /// text, or from a variable.
    pub(crate) loose: bool,
    /// A variable in it has no value yet: nothing can be said about its content.
    pub(crate) open: bool,
}
