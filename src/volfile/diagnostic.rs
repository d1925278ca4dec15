//! Mistakes in a volfile, shown as a compiler shows them.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// A text and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The volume cannot be built.
    Error,
    /// It can, but not quite as somebody may expect.
    Warning,
}

/// One mistake, where it is, and what to do about it.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) title: String,
    pub(crate) span: Range<usize>,
    pub(crate) label: String,
    /// Other places that belong to it.
    pub(crate) context: Vec<(Range<usize>, String)>,
    pub(crate) help: Vec<String>,
}

impl Finding {
    pub(crate) fn error(title: impl Into<String>, span: Range<usize>) -> Finding {
        Finding {
            severity: Severity::Error,
            title: title.into(),
            span,
            label: String::new(),
            context: Vec::new(),
            help: Vec::new(),
        }
    }

    pub(crate) fn warning(title: impl Into<String>, span: Range<usize>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::error(title, span)
        }
    }

    /// What is said right beside the caret.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Finding {
        self.label = label.into();
        self
    }

    pub(crate) fn context(mut self, span: Range<usize>, label: impl Into<String>) -> Finding {
        self.context.push((span, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Finding {
        self.help.push(help.into());
        self
    }

    /// Adds "did you mean", when something among the candidates is close enough.
    pub(crate) fn did_you_mean<'a>(
        self,
        wrong: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Finding {
        match closest(wrong, candidates) {
            Some(close) => self.help(format!("did you mean `{close}`?")),
            None => self,
        }
    }
}

/// The candidate that is most like `wrong`, if any is much like it.
pub(crate) fn closest<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            let (wrong, right) = (wrong.to_lowercase(), candidate.to_lowercase());
            // Jaro and Winkler see nothing in common between short words with two letters swapped.
            let likeness = strsim::jaro_winkler(&wrong, &right)
                .max(strsim::normalized_damerau_levenshtein(&wrong, &right) + 0.15);
            (likeness, candidate)
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// All findings, in the order of the text.
pub(crate) fn render(source: &Source, findings: &[Finding], colour: bool) -> String {
    let renderer = if colour {
        Renderer::styled().decor_style(DecorStyle::Unicode)
    } else {
        Renderer::plain()
    };
    let mut ordered: Vec<&Finding> = findings.iter().collect();
    ordered.sort_by_key(|finding| (finding.span.start, finding.span.end));
    let mut out = String::new();
    for finding in ordered {
        out.push_str(&renderer.render(&report(source, finding)));
        out.push_str("\n\n");
    }
    out.truncate(out.trim_end().len());
    out
}

fn report<'a>(source: &'a Source, finding: &'a Finding) -> Vec<Group<'a>> {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut snippet = Snippet::source(&source.text).path(&source.name).annotation(
        AnnotationKind::Primary
            .span(visible(&source.text, &finding.span))
            .label(&finding.label),
    );
    for (span, label) in &finding.context {
        snippet = snippet.annotation(
            AnnotationKind::Context
                .span(visible(&source.text, span))
                .label(label),
        );
    }
    let mut group = level.primary_title(&finding.title).element(snippet);
    for help in &finding.help {
        group = group.element(Level::HELP.message(help));
    }
    vec![group]
}

/// A span within the text, on character borders.
fn visible(text: &str, span: &Range<usize>) -> Range<usize> {
    let border = |at: usize| {
        let at = at.min(text.len());
        (0..=at)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0)
    };
    let start = border(span.start);
    start..border(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_word_is_offered_and_a_far_one_is_not() {
        let known = ["directory", "handles"];
        assert_eq!(closest("directroy", known), Some("directory"));
        assert_eq!(closest("Directory", known), Some("directory"));
        assert_eq!(closest("colour", known), None);
        assert_eq!(closest("nwe", ["old", "new"]), Some("new"));
        assert_eq!(closest("a", ["b"]), None);
    }

    #[test]
    fn a_finding_shows_file_line_caret_and_hint() {
        let source = Source {
            name: "my.vol".into(),
            text: "[volume.old]\ntipe = 'x'\n".into(),
        };
        let finding = Finding::error("unknown key `tipe`", 13..17)
            .label("not known here")
            .did_you_mean("tipe", ["type"]);
        let text = render(&source, &[finding], false);
        assert!(text.contains("my.vol:2:1"), "{text}");
        assert!(text.contains("^^^^ not known here"), "{text}");
        assert!(text.contains("did you mean `type`?"), "{text}");
    }

    #[test]
    fn a_span_past_the_end_does_no_harm() {
        let source = Source {
            name: "x".into(),
            text: "ü".into(),
        };
        assert!(!render(&source, &[Finding::error("end", 1..99)], false).is_empty());
    }
}
