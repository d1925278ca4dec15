//! From what is written to a kind's own options, with every mistake of every key at once.
//!
//! serde stops at the first error; so a key that was wrong is reported, taken away, and the rest
//! is tried again.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use super::diagnostic::Finding;
use super::document::{At, Options, Text, Value};

/// Decodes the options of one volume. `None` when there was a mistake, which was told.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(
    what: &At<String>,
    options: &Options,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let before = findings.len();
    let known = fields::<T>();
    let mut left: Options = Vec::new();
    for (key, value) in options {
        if let Some((first, _)) = left.iter().find(|(other, _)| other.value == key.value) {
            findings.push(
                Finding::error(format!("`{}` is said twice", key.value), key.span.clone())
                    .context(first.span.clone(), "the first time"),
            );
        } else if known.is_none_or(|known| known.contains(&key.value.as_str())) {
            left.push((key.clone(), value.clone()));
        } else {
            findings.push(unknown(what, key, known.unwrap_or_default()));
        }
    }
    loop {
        let at = Cell::new(None);
        let result = T::deserialize(Struct {
            options: &left,
            at: &at,
            fields: None,
        });
        let wrong = match result {
            Ok(decoded) => return (findings.len() == before).then_some(decoded),
            Err(wrong) => wrong,
        };
        let Some(index) = at.get().filter(|_| wrong.missing.is_none()) else {
            // A key that was wrong and taken away is not missing.
            let told = wrong
                .missing
                .is_some_and(|field| options.iter().any(|(key, _)| key.value == field));
            if !told {
                findings.push(missing(what, &wrong));
            }
            return None;
        };
        let (key, value) = left.remove(index);
        if is_open(&value.value) {
            // Nothing can be said of it; with nothing else wrong the caller only looks.
            continue;
        }
        findings.push(
            Finding::error(format!("`{}` is wrong", key.value), value.span).label(wrong.message),
        );
    }
}

fn unknown(what: &At<String>, key: &At<String>, known: &[&'static str]) -> Finding {
    let finding = Finding::error(
        format!("`{}` has no option `{}`", what.value, key.value),
        key.span.clone(),
    )
    .label("not known")
    .did_you_mean(&key.value, known.iter().copied());
    if finding.help.is_empty() && !known.is_empty() {
        return finding.help(format!("its options are: {}", known.join(", ")));
    }
    finding
}

fn missing(what: &At<String>, wrong: &Wrong) -> Finding {
    match wrong.missing {
        Some(field) => Finding::error(
            format!("`{}` needs the option `{field}`", what.value),
            what.span.clone(),
        )
        .label(format!("no `{field}`")),
        None => Finding::error(
            format!("the options of `{}` do not go together", what.value),
            what.span.clone(),
        )
        .label(&wrong.message),
    }
}

fn is_open(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.open,
        Value::List(list) => list.iter().any(|item| is_open(&item.value)),
        Value::Table(table) => table.iter().any(|(_, item)| is_open(&item.value)),
        _ => false,
    }
}

/// The keys that a type of options has; `None` when it does not say.
pub(crate) fn fields<T: for<'de> Deserialize<'de>>() -> Option<&'static [&'static str]> {
    let fields = RefCell::new(None);
    let at = Cell::new(None);
    let probe = Struct {
        options: &Options::new(),
        at: &at,
        fields: Some(&fields),
    };
    let _ = T::deserialize(probe);
    fields.into_inner()
}

/// What serde had to say.
#[derive(Debug)]
struct Wrong {
    message: String,
    missing: Option<&'static str>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Wrong {
        Wrong {
            message: message.to_string(),
            missing: None,
        }
    }

    fn missing_field(field: &'static str) -> Wrong {
        Wrong {
            message: format!("no `{field}`"),
            missing: Some(field),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Wrong {
        let known = expected.join("`, `");
        Self::custom(format!("`{variant}` is none of `{known}`"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Wrong {
        let known = expected.join("`, `");
        Self::custom(format!("there is no `{field}` here, only `{known}`"))
    }
}

fn wrong(message: impl Into<String>) -> Wrong {
    Wrong {
        message: message.into(),
        missing: None,
    }
}

/// All options of a volume as one struct.
struct Struct<'a> {
    options: &'a Options,
    /// Which key is being read.
    at: &'a Cell<Option<usize>>,
    fields: Option<&'a RefCell<Option<&'static [&'static str]>>>,
}

impl<'de> Deserializer<'de> for Struct<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(Entries {
            options: self.options,
            next: 0,
            at: self.at,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        if let Some(cell) = self.fields {
            cell.replace(Some(fields));
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Entries<'a> {
    options: &'a Options,
    next: usize,
    at: &'a Cell<Option<usize>>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((key, _)) = self.options.get(self.next) else {
            self.at.set(None);
            return Ok(None);
        };
        self.at.set(Some(self.next));
        self.next += 1;
        let key: StrDeserializer<'_, Wrong> = key.value.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        match self.next.checked_sub(1).and_then(|at| self.options.get(at)) {
            Some((_, value)) => seed.deserialize(One(&value.value)),
            None => Err(wrong("a value without a key")),
        }
    }
}

/// One value.
struct One<'a>(&'a Value);

impl One<'_> {
    fn unexpected(&self, expected: &str) -> Wrong {
        wrong(match self.0 {
            Value::Text(text) => format!("expected {expected}, not `{}`", text.text),
            Value::Integer(number) => format!("expected {expected}, not {number}"),
            Value::Float(number) => format!("expected {expected}, not {number}"),
            Value::Boolean(truth) => format!("expected {expected}, not {truth}"),
            Value::List(_) => format!("expected {expected}, not a list"),
            Value::Table(_) => format!("expected {expected}, not a table"),
            Value::Other(what) => format!("expected {expected}, not {what}"),
        })
    }

    fn loose(&self) -> Option<&str> {
        match self.0 {
            Value::Text(Text {
                text, loose: true, ..
            }) => Some(text),
            _ => None,
        }
    }

    fn integer<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Wrong> {
        let number = match (self.0, self.loose()) {
            (Value::Integer(number), _) => Some(*number),
            (_, Some(text)) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => visitor
                .visit_i64(number)
                .map_err(|_: Wrong| wrong(format!("{number} is out of range"))),
            None => Err(self.unexpected("a whole number")),
        }
    }

    fn float<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Wrong> {
        let number = match (self.0, self.loose()) {
            (Value::Integer(number), _) => Some(*number as f64),
            (Value::Float(number), _) => Some(*number),
            (_, Some(text)) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.unexpected("a number")),
        }
    }
}

/// As GlusterFS takes truth values.
fn truth(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "1" | "on" | "yes" | "true" | "enable" => Some(true),
        "0" | "off" | "no" | "false" | "disable" => Some(false),
        _ => None,
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.integer(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for One<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Text(text) => visitor.visit_str(&text.text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(truth) => visitor.visit_bool(*truth),
            Value::List(list) => visitor.visit_seq(Items(list.iter())),
            Value::Table(table) => visitor.visit_map(Entries {
                options: table,
                next: 0,
                at: &Cell::new(None),
            }),
            Value::Other(_) => Err(self.unexpected("text, a number or a list")),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.float(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.float(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let truth = match (self.0, self.loose()) {
            (Value::Boolean(truth), _) => Some(*truth),
            (_, Some(text)) => truth(text),
            _ => None,
        };
        match truth {
            Some(truth) => visitor.visit_bool(truth),
            None => Err(self.unexpected("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Text(text) => visitor.visit_str(&text.text),
            _ => Err(self.unexpected("text in quotes")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if let Value::List(list) = self.0 {
            return visitor.visit_seq(Items(list.iter()));
        }
        match self.loose() {
            // The classic syntax has no lists: parts are parted by semicolons, as a part may well
            // have commas and blanks in it.
            Some(text) => {
                let words: Vec<At<Value>> = text
                    .split(';')
                    .map(str::trim)
                    .filter(|word| !word.is_empty())
                    .map(|word| {
                        let text = Text {
                            text: word.into(),
                            loose: true,
                            open: false,
                        };
                        At::new(Value::Text(text), Range::default())
                    })
                    .collect();
                visitor.visit_seq(Items(words.iter()))
            }
            None => Err(self.unexpected("a list in brackets")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Text(text) => {
                let variant: StrDeserializer<'_, Wrong> = text.text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            _ => Err(self.unexpected("a word in quotes")),
        }
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, At<Value>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Wrong> {
        match self.0.next() {
            Some(item) => seed.deserialize(One(&item.value)).map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::{classic, toml};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Sample {
        directory: String,
        #[serde(default)]
        worker_count: u8,
        #[serde(default)]
        adopt: bool,
        #[serde(default)]
        sinks: Vec<String>,
        #[serde(default)]
        mode: Mode,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        Fast,
        VerySlow,
    }

    fn from_toml(options: &str) -> Result<Sample, Vec<String>> {
        let mut findings = Vec::new();
        let text = format!("[volume.a]\ntype = 'x'\n{options}");
        let document = toml::parse(&text, &mut findings);
        finish(document, findings)
    }

    fn from_classic(options: &str) -> Result<Sample, Vec<String>> {
        let mut findings = Vec::new();
        let text = format!("volume a type x {options} end-volume");
        let document = classic::parse(&text, &mut findings);
        finish(document, findings)
    }

    fn finish(
        document: crate::volfile::document::Document,
        mut findings: Vec<Finding>,
    ) -> Result<Sample, Vec<String>> {
        let volume = &document.volumes[0];
        decode(&volume.name, &volume.options, &mut findings).ok_or_else(|| {
            findings
                .into_iter()
                .map(|f| format!("{}: {}{}", f.title, f.label, f.help.join("; ")))
                .collect()
        })
    }

    #[test]
    fn typed_values_are_taken_as_they_are() {
        let sample = from_toml(
            "directory = '/a'\nworker-count = 3\nadopt = true\nsinks = ['b', 'c']\nmode = 'very-slow'",
        );
        let expected = Sample {
            directory: "/a".into(),
            worker_count: 3,
            adopt: true,
            sinks: vec!["b".into(), "c".into()],
            mode: Mode::VerySlow,
        };
        assert_eq!(sample.unwrap(), expected);
    }

    #[test]
    fn classic_text_becomes_the_type_that_is_wanted() {
        let sample = from_classic(
            "option directory /a option worker-count 3 option adopt on option sinks \"b; c\" option mode very-slow",
        );
        let sample = sample.unwrap();
        assert_eq!((sample.worker_count, sample.adopt), (3, true));
        assert_eq!(sample.sinks, ["b", "c"]);
    }

    #[test]
    fn every_wrong_key_is_told_at_once() {
        let told = from_toml(
            "directroy = '/a'\nworker-count = 'many'\nadopt = 1\nsinks = 'b'\nmode = 'slow'",
        )
        .unwrap_err();
        assert_eq!(
            told,
            [
                "`a` has no option `directroy`: not knowndid you mean `directory`?",
                "`worker-count` is wrong: expected a whole number, not `many`",
                "`adopt` is wrong: expected true or false, not 1",
                "`sinks` is wrong: expected a list in brackets, not `b`",
                "`mode` is wrong: `slow` is none of `fast`, `very-slow`",
                "`a` needs the option `directory`: no `directory`",
            ]
        );
    }

    #[test]
    fn a_number_out_of_range_is_said_to_be_so() {
        let told = from_toml("directory = '/a'\nworker-count = 300").unwrap_err();
        assert_eq!(told, ["`worker-count` is wrong: 300 is out of range"]);
    }

    #[test]
    fn an_option_twice_is_a_mistake() {
        let told = from_classic("option directory /a option directory /b").unwrap_err();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("`directory` is said twice"));
    }
}
