//! A volfile in TOML.

use std::ops::Range;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::diagnostic::Finding;
use super::document::{At, Document, Options, Syntax, Text, Value, Volume};

/// Reads what can be read, and tells everything that cannot.
pub(crate) fn parse(text: &str, findings: &mut Vec<Finding>) -> Document {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        findings.push(Finding::error(first_line(error.message()), span));
    }
    let mut volumes = Vec::new();
    for (key, value) in entries(table.get_ref()) {
        if key.value != "volume" {
            findings.push(
                Finding::error(format!("`{}` does not belong here", key.value), key.span)
                    .label("not a volume")
                    .help("a volfile is made of tables `[volume.NAME]`"),
            );
            continue;
        }
        match value.get_ref() {
            DeValue::Table(table) => {
                for (name, value) in entries(table) {
                    match value.get_ref() {
                        DeValue::Table(table) => volumes.push(volume(name, table, findings)),
                        _ => findings.push(
                            Finding::error(
                                format!("`volume.{}` is not a table", name.value),
                                value.span(),
                            )
                            .help(format!(
                                "write `[volume.{}]`, its options below",
                                name.value
                            )),
                        ),
                    }
                }
            }
            _ => findings.push(
                Finding::error("`volume` is not a table", value.span())
                    .help("a volfile is made of tables `[volume.NAME]`"),
            ),
        }
    }
    // Tables come sorted by name; people think in the order of the text.
    volumes.sort_by_key(|volume| volume.name.span.start);
    Document {
        syntax: Syntax::Toml,
        volumes,
    }
}

fn volume(name: At<String>, table: &DeTable<'_>, findings: &mut Vec<Finding>) -> Volume {
    let mut volume = Volume {
        name,
        kind: None,
        options: Vec::new(),
        children: Vec::new(),
    };
    let mut typed = false;
    for (key, value) in entries(table) {
        let value = At::new(convert(value.get_ref()), value.span());
        match key.value.as_str() {
            "type" => {
                typed = true;
                volume.kind = word(value, "a kind, such as \"storage/posix\"", findings);
            }
            "subvolume" => volume
                .children
                .extend(word(value, "the name of one volume", findings)),
            "subvolumes" => match value.value {
                Value::List(list) => {
                    for item in list {
                        volume
                            .children
                            .extend(word(item, "the name of a volume", findings));
                    }
                }
                _ => findings.push(
                    Finding::error("`subvolumes` is not a list", value.span)
                        .label("expected a list of names")
                        .help(
                            "write `subvolumes = [\"a\", \"b\"]`, or `subvolume = \"a\"` for one",
                        ),
                ),
            },
            _ => volume.options.push((key, value)),
        }
    }
    if !typed {
        findings.push(
            Finding::error(
                format!("volume `{}` does not say what it is", volume.name.value),
                volume.name.span.clone(),
            )
            .label("no `type`")
            .help("add a line such as `type = \"storage/posix\"`"),
        );
    }
    volume
}

fn word(value: At<Value>, expected: &str, findings: &mut Vec<Finding>) -> Option<At<String>> {
    match value.value {
        Value::Text(text) => Some(At::new(text.text, value.span)),
        _ => {
            findings.push(
                Finding::error("this should be text in quotes", value.span)
                    .label(format!("expected {expected}")),
            );
            None
        }
    }
}

/// A table's entries in the order of the text.
fn entries<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(At<String>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| (At::new(key.get_ref().to_string(), key.span()), value))
        .collect();
    entries.sort_by_key(|(key, _)| key.span.start);
    entries
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(Text {
            text: text.to_string(),
            ..Text::default()
        }),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number that is too large"), Value::Integer),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or(Value::Other("a number that cannot be read"), Value::Float),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(array) => Value::List(
            array
                .iter()
                .map(|item| At::new(convert(item.get_ref()), item.span()))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(options(table)),
    }
}

fn options(table: &DeTable<'_>) -> Options {
    entries(table)
        .into_iter()
        .map(|(key, value)| {
            let span: Range<usize> = value.span();
            (key, At::new(convert(value.get_ref()), span))
        })
        .collect()
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("this is no TOML").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_keep_the_order_of_the_text() {
        let mut findings = Vec::new();
        let document = parse(
            "[volume.zebra]\ntype = 'storage/posix'\ndirectory = '/a'\n\
             [volume.ant]\ntype = 'debug/trace'\nsubvolume = 'zebra'\n",
            &mut findings,
        );
        assert!(findings.is_empty(), "{findings:?}");
        let names: Vec<_> = document.volumes.iter().map(|v| &v.name.value).collect();
        assert_eq!(names, ["zebra", "ant"]);
        assert_eq!(document.volumes[1].children[0].value, "zebra");
        assert_eq!(document.volumes[0].options[0].0.value, "directory");
    }

    #[test]
    fn every_mistake_of_form_is_told_at_once() {
        let mut findings = Vec::new();
        parse(
            "name = 'x'\n[volume]\nflat = 1\n[volume.a]\nsubvolumes = 'b'\n[volume.b]\ntype = 3\n",
            &mut findings,
        );
        let titles: Vec<_> = findings.iter().map(|f| f.title.as_str()).collect();
        assert_eq!(
            titles,
            [
                "`name` does not belong here",
                "`volume.flat` is not a table",
                "`subvolumes` is not a list",
                "volume `a` does not say what it is",
                "this should be text in quotes",
            ]
        );
    }

    #[test]
    fn broken_toml_is_located() {
        let mut findings = Vec::new();
        parse("[volume.a]\ntype = 'x\n", &mut findings);
        assert!(!findings.is_empty());
        assert!(findings[0].span.start >= 11);
    }
}
