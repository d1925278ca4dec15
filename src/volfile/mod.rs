//! From a volfile's text to a graph that can be built: parse, resolve, decode, check.
//!
//! Each step reports all that it finds. A step that cannot trust what the one before it made is
//! not begun: a mistake is told once, where it was made.

mod check;
mod classic;
mod decode;
mod diagnostic;
mod document;
mod draw;
mod overlap;
mod resolve;
mod stand_in;
mod toml;

use std::collections::BTreeSet;

pub(crate) use check::Graph;
pub(crate) use decode::decode;
#[cfg(test)]
pub(crate) use decode::fields;
pub(crate) use diagnostic::{Finding, Severity, Source, render};
pub(crate) use document::{At, Options, Syntax, Text, Value, Volume};
pub(crate) use draw::draw;
pub(crate) use resolve::Variables;
pub(crate) use stand_in::load_to_look;

/// What became of a volfile.
pub(crate) struct Loaded {
    /// `None` when there were mistakes.
    pub(crate) graph: Option<Graph>,
    /// Mistakes and warnings.
    pub(crate) findings: Vec<Finding>,
    /// Variables that have no value, where those were allowed.
    pub(crate) open: BTreeSet<String>,
}

impl Loaded {
    /// How many mistakes there are.
    pub(crate) fn errors(&self) -> usize {
        let errors = self.findings.iter();
        errors.filter(|f| f.severity == Severity::Error).count()
    }
}

/// Reads a volfile of either syntax.
pub(crate) fn load(source: &Source, variables: &Variables) -> Loaded {
    let text = source.text.as_str();
    let mut findings = Vec::new();
    let mut document = if classic::is_classic(text) {
        classic::parse(text, &mut findings)
    } else {
        toml::parse(text, &mut findings)
    };
    let open = resolve::resolve(&mut document, text, variables, &mut findings);
    let graph = check::check(&document, text, &mut findings);
    if let Some(graph) = &graph {
        overlap::check(graph, &mut findings);
    }
    let failed = findings.iter().any(|f| f.severity == Severity::Error);
    Loaded {
        graph: graph.filter(|_| !failed),
        findings,
        open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worked_example_says_when_to_use_it_and_is_good() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/volfiles");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("# "),
                "{name} does not open with when to use it"
            );
            let source = Source { name, text };
            let by_itself = Variables {
                allow_open: true,
                ..Variables::default()
            };
            let open = load(&source, &by_itself).open;
            for variable in &open {
                let told = format!("--set {variable}=");
                assert!(
                    source.text.contains(&told),
                    "{} does not tell {told}",
                    source.name
                );
            }
            let set = open
                .into_iter()
                .map(|name| match &*name {
                    "address" => (name, "10.0.0.1:24007".into()),
                    _ => (name.clone(), format!("/{name}")),
                })
                .collect();
            let loaded = load(
                &source,
                &Variables {
                    set,
                    ..Variables::default()
                },
            );
            assert_eq!(
                loaded.errors(),
                0,
                "{}",
                render(&source, &loaded.findings, false)
            );
            assert!(loaded.graph.is_some());
            seen += 1;
        }
        assert!(seen >= 5, "only {seen} examples");
    }
}
