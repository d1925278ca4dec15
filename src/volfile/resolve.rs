//! Variables: `${name}` in a value becomes what `--set name=value` or the environment says.
//! `$$` is a dollar sign.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::diagnostic::Finding;
use super::document::{At, Document, Text, Value};

/// Where variables get their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    /// From `--set`; these win.
    pub(crate) set: BTreeMap<String, String>,
    /// The environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Takes a variable without a value as something that will be said later (for looking at a
    /// volfile by itself), instead of as a mistake.
    pub(crate) allow_open: bool,
}

impl Variables {
    /// `--set` values, and what the environment has.
    pub(crate) fn with_environment(set: BTreeMap<String, String>) -> Variables {
        Variables {
            set,
            environment: Variables::environment(),
            allow_open: false,
        }
    }

    /// What the environment has for variables.
    pub(crate) fn environment() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.set.get(name).or_else(|| self.environment.get(name));
        found.map(String::as_str)
    }
}

/// Puts the values in. Returns the variables that have none.
pub(crate) fn resolve(
    document: &mut Document,
    source: &str,
    variables: &Variables,
    findings: &mut Vec<Finding>,
) -> BTreeSet<String> {
    let mut resolver = Resolver {
        source,
        variables,
        findings,
        used: BTreeSet::new(),
        open: BTreeSet::new(),
    };
    for volume in &mut document.volumes {
        for (_, value) in &mut volume.options {
            resolver.value(value);
        }
    }
    let Resolver { used, open, .. } = resolver;
    for name in variables.set.keys().filter(|name| !used.contains(*name)) {
        findings.push(
            Finding::warning(format!("`--set {name}=...` sets nothing"), 0..0)
                .label(format!("no `${{{name}}}` in this file"))
                .did_you_mean(name, used.iter().map(String::as_str)),
        );
    }
    open
}

struct Resolver<'a> {
    source: &'a str,
    variables: &'a Variables,
    findings: &'a mut Vec<Finding>,
    used: BTreeSet<String>,
    open: BTreeSet<String>,
}

impl Resolver<'_> {
    fn value(&mut self, value: &mut At<Value>) {
        match &mut value.value {
            Value::Text(text) => self.text(text, &value.span),
            Value::List(list) => list.iter_mut().for_each(|item| self.value(item)),
            Value::Table(table) => table.iter_mut().for_each(|(_, item)| self.value(item)),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Other(_) => {}
        }
    }

    fn text(&mut self, text: &mut Text, span: &Range<usize>) {
        if !text.text.contains('$') {
            return;
        }
        let mut out = String::new();
        let mut rest = text.text.as_str();
        while let Some(dollar) = rest.find('$') {
            out.push_str(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            if let Some(tail) = after.strip_prefix('$') {
                out.push('$');
                rest = tail;
            } else if let Some(inner) = after.strip_prefix('{') {
                let Some(close) = inner.find('}') else {
                    self.findings.push(
                        Finding::error("a variable without its end", self.place("${", span))
                            .label("no closing brace"),
                    );
                    return;
                };
                let name = &inner[..close];
                self.used.insert(name.into());
                match self.variables.get(name) {
                    Some(value) => {
                        out.push_str(value);
                        text.loose = true;
                    }
                    None => {
                        out.push_str(&format!("${{{name}}}"));
                        text.open = true;
                        self.open.insert(name.into());
                        self.undefined(name, span);
                    }
                }
                rest = &inner[close + 1..];
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
        text.text = out;
    }

    fn undefined(&mut self, name: &str, span: &Range<usize>) {
        if self.variables.allow_open {
            return;
        }
        let place = self.place(&format!("${{{name}}}"), span);
        let finding = Finding::error(format!("`${{{name}}}` has no value"), place)
            .label("not set, and not in the environment")
            .help(format!("give it with `--set {name}=...`"));
        let set = self.variables.set.keys().map(String::as_str);
        self.findings.push(finding.did_you_mean(name, set));
    }

    /// Where a piece of a value stands in the source; the whole value where escapes hide it.
    fn place(&self, piece: &str, span: &Range<usize>) -> Range<usize> {
        let found = self
            .source
            .get(span.clone())
            .and_then(|written| written.find(piece));
        match found {
            Some(offset) => span.start + offset..span.start + offset + piece.len(),
            None => span.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::toml;

    fn run(
        text: &str,
        set: &[(&str, &str)],
        allow_open: bool,
    ) -> (String, Vec<Finding>, Vec<String>) {
        let mut findings = Vec::new();
        let mut document = toml::parse(text, &mut findings);
        let variables = Variables {
            set: set
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            environment: [("HOME".to_string(), "/root".to_string())].into(),
            allow_open,
        };
        let open = resolve(&mut document, text, &variables, &mut findings);
        let value = match &document.volumes[0].options[0].1.value {
            Value::Text(text) => text.text.clone(),
            other => panic!("{other:?}"),
        };
        (value, findings, open.into_iter().collect())
    }

    const TEXT: &str = "[volume.a]\ntype = 'x'\ndirectory = '${old}/sub/${HOME}/$$5'\n";

    #[test]
    fn a_variable_comes_from_set_or_the_environment() {
        let (value, findings, _) = run(TEXT, &[("old", "/srv")], false);
        assert_eq!(value, "/srv/sub//root/$5");
        assert!(findings.is_empty());
    }

    #[test]
    fn a_variable_without_a_value_is_pointed_at_and_the_near_one_is_named() {
        let (_, findings, _) = run(TEXT, &[("olt", "/srv")], false);
        assert_eq!(findings.len(), 2);
        assert_eq!(&TEXT[findings[0].span.clone()], "${old}");
        assert!(
            findings[0]
                .help
                .contains(&"did you mean `olt`?".to_string())
        );
        assert!(findings[1].title.contains("sets nothing"));
    }

    #[test]
    fn a_volfile_by_itself_may_have_open_variables() {
        let (value, findings, open) = run(TEXT, &[], true);
        assert_eq!(value, "${old}/sub//root/$5");
        assert!(findings.is_empty());
        assert_eq!(open, ["old"]);
    }
}
