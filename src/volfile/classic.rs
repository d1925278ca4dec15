//! A volfile in GlusterFS' own syntax.
//!
//! ```text
//! file   := volume+
//! volume := "volume" WORD "type" WORD ("option" WORD WORD | "subvolumes" WORD+)* "end-volume"
//! WORD   := one or more of anything but white space, quotes and backslash | "..." with \ escapes
//! ```
//! `#` begins a comment where a word could begin. White space of any kind parts words and means
//! nothing else. Backticks, which GlusterFS gives to a shell, are refused. What GlusterFS accepts
//! by accident (an empty or unfinished string, a value with a stray word after it, an option
//! twice, a subvolume that is not there) is a mistake here.

use std::ops::Range;

use super::diagnostic::Finding;
use super::document::{At, Document, Syntax, Text, Value, Volume};

/// Whether a text is written like this, as against TOML: its first word is `volume`.
pub(crate) fn is_classic(text: &str) -> bool {
    let mut words = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::split_whitespace);
    words.next() == Some("volume") && words.next() != Some("=")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyword {
    Volume,
    Type,
    Option,
    Subvolumes,
    EndVolume,
}

impl Keyword {
    fn of(word: &str) -> Option<Keyword> {
        Some(match word {
            "volume" => Keyword::Volume,
            "type" => Keyword::Type,
            "option" => Keyword::Option,
            "subvolumes" | "subvolumeS" => Keyword::Subvolumes,
            "end-volume" => Keyword::EndVolume,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
enum Token {
    Keyword(Keyword),
    Word(String),
}

/// Reads what can be read, and tells everything that cannot.
pub(crate) fn parse(text: &str, findings: &mut Vec<Finding>) -> Document {
    let tokens = lex(text, findings);
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        end: text.trim_end().len(),
        findings,
    };
    Document {
        syntax: Syntax::Classic,
        volumes: parser.file(),
    }
}

fn lex(text: &str, findings: &mut Vec<Finding>) -> Vec<At<Token>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'#' => at += line_rest(bytes, at),
            b'"' => {
                let (word, end) = quoted(text, at, findings);
                if let Some(word) = word {
                    refuse_backticks(text, at..end, findings);
                    tokens.push(At::new(Token::Word(word), at..end));
                }
                at = end;
            }
            b'\\' => {
                findings.push(
                    Finding::error("a backslash outside of a string", at..at + 1)
                        .help("put the value in double quotes"),
                );
                at += 1;
            }
            _ => {
                let end = at
                    + bytes[at..]
                        .iter()
                        .position(|b| b" \t\r\n\"\\".contains(b))
                        .unwrap_or(bytes.len() - at);
                refuse_backticks(text, at..end, findings);
                let word = &text[at..end];
                let token = match Keyword::of(word) {
                    Some(keyword) => Token::Keyword(keyword),
                    None => Token::Word(word.into()),
                };
                tokens.push(At::new(token, at..end));
                at = end;
            }
        }
    }
    tokens
}

fn line_rest(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
}

/// The word of a string that begins at `at`, and where it ends.
fn quoted(text: &str, at: usize, findings: &mut Vec<Finding>) -> (Option<String>, usize) {
    let mut word = String::new();
    let mut escaped = false;
    for (offset, c) in text[at + 1..].char_indices() {
        let end = at + 1 + offset + c.len_utf8();
        match c {
            '\n' => break,
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' if word.is_empty() => {
                findings.push(Finding::error("an empty string", at..end).label("nothing in it"));
                return (None, end);
            }
            '"' => return (Some(word), end),
            _ => word.push(c),
        }
    }
    let end = at + line_rest(text.as_bytes(), at);
    findings.push(
        Finding::error("a string without its end", at..end).label("no closing quote on this line"),
    );
    (None, end)
}

fn refuse_backticks(text: &str, span: Range<usize>, findings: &mut Vec<Finding>) {
    if let Some(offset) = text[span.clone()].find('`') {
        let at = span.start + offset;
        findings.push(
            Finding::error("backticks are refused", at..at + 1)
                .label("GlusterFS would run a command here")
                .help("write the value out, or use `${name}` with `--set name=value`"),
        );
    }
}

struct Parser<'a> {
    tokens: &'a [At<Token>],
    at: usize,
    end: usize,
    findings: &'a mut Vec<Finding>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&At<Token>> {
        self.tokens.get(self.at)
    }

    fn keyword(&self) -> Option<Keyword> {
        match self.peek()?.value {
            Token::Keyword(keyword) => Some(keyword),
            Token::Word(_) => None,
        }
    }

    fn here(&self) -> Range<usize> {
        self.peek()
            .map_or(self.end..self.end, |token| token.span.clone())
    }

    fn word(&mut self) -> Option<At<String>> {
        match self.peek() {
            Some(At {
                value: Token::Word(word),
                span,
            }) => {
                let word = At::new(word.clone(), span.clone());
                self.at += 1;
                Some(word)
            }
            _ => None,
        }
    }

    /// A word, or a finding that says what should have been here.
    fn expect(&mut self, expected: &str) -> Option<At<String>> {
        let word = self.word();
        if word.is_none() {
            let mut finding = Finding::error(format!("expected {expected}"), self.here());
            if self.keyword().is_some() {
                finding = finding.help("a word that is also a keyword has to be in double quotes");
            }
            self.findings.push(finding);
        }
        word
    }

    fn file(&mut self) -> Vec<Volume> {
        let mut volumes = Vec::new();
        while self.peek().is_some() {
            if self.keyword() == Some(Keyword::Volume) {
                self.at += 1;
                volumes.extend(self.volume());
            } else {
                self.findings.push(
                    Finding::error("expected `volume`", self.here())
                        .label("this is outside of any volume"),
                );
                while self.peek().is_some() && self.keyword() != Some(Keyword::Volume) {
                    self.at += 1;
                }
            }
        }
        volumes
    }

    fn volume(&mut self) -> Option<Volume> {
        let opened = self.tokens[self.at - 1].span.clone();
        let name = self.expect("the volume's name")?;
        let mut volume = Volume {
            name,
            kind: None,
            options: Vec::new(),
            children: Vec::new(),
        };
        let mut typed = false;
        let mut listed: Option<Range<usize>> = None;
        loop {
            let at = self.here();
            let Some(keyword) = self.keyword() else {
                if self.peek().is_none() {
                    self.findings.push(
                        Finding::error(
                            format!("volume `{}` has no `end-volume`", volume.name.value),
                            opened,
                        )
                        .label("begins here"),
                    );
                    break;
                }
                self.stray();
                continue;
            };
            if keyword == Keyword::Volume {
                self.findings.push(
                    Finding::error("a volume within a volume", at)
                        .context(opened, format!("`{}` begins here", volume.name.value))
                        .help("end the first one with `end-volume`"),
                );
                break;
            }
            self.at += 1;
            match keyword {
                Keyword::EndVolume => break,
                Keyword::Type => {
                    if typed {
                        self.findings.push(Finding::error("a second `type`", at));
                    }
                    typed = true;
                    let kind = self.expect("a kind, such as `storage/posix`");
                    volume.kind = volume.kind.or(kind);
                }
                Keyword::Option => {
                    let Some(key) = self.expect("an option's name") else {
                        continue;
                    };
                    let Some(value) = self.expect("the option's value") else {
                        continue;
                    };
                    let text = Text {
                        text: value.value,
                        loose: true,
                        open: false,
                    };
                    volume
                        .options
                        .push((key, At::new(Value::Text(text), value.span)));
                }
                Keyword::Subvolumes => {
                    if let Some(first) = listed.replace(at.clone()) {
                        self.findings.push(
                            Finding::error("a second `subvolumes`", at)
                                .context(first, "the first is here"),
                        );
                    }
                    volume.children.extend(self.expect("the name of a volume"));
                    while let Some(child) = self.word() {
                        volume.children.push(child);
                    }
                }
                Keyword::Volume => {}
            }
        }
        if !typed {
            self.findings.push(
                Finding::error(
                    format!("volume `{}` does not say what it is", volume.name.value),
                    volume.name.span.clone(),
                )
                .label("no `type`")
                .help("add a line such as `type storage/posix`"),
            );
        }
        Some(volume)
    }

    /// Words where a keyword should be: most often a value with a space in it.
    fn stray(&mut self) {
        let span = self.here();
        let help = match self.word() {
            Some(word) => match super::diagnostic::closest(
                &word.value,
                ["type", "option", "subvolumes", "end-volume"],
            ) {
                Some(close) => format!("did you mean `{close}`?"),
                None => "a value of more than one word has to be in double quotes".into(),
            },
            None => String::new(),
        };
        while self.word().is_some() {}
        self.findings.push(
            Finding::error(
                "expected `type`, `option`, `subvolumes` or `end-volume`",
                span,
            )
            .help(help),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> Document {
        let mut findings = Vec::new();
        let document = parse(text, &mut findings);
        assert!(findings.is_empty(), "{findings:#?}");
        document
    }

    fn titles(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        parse(text, &mut findings);
        findings.into_iter().map(|finding| finding.title).collect()
    }

    #[test]
    fn the_two_syntaxes_are_told_apart_by_their_first_word() {
        assert!(is_classic(
            "# [volume.a]\n\n volume a # x\ntype x\nend-volume"
        ));
        assert!(!is_classic("# volume\n[volume.a]\ntype = 'x'"));
        assert!(!is_classic("volume = 1"));
        assert!(!is_classic(""));
    }

    #[test]
    fn a_local_pair_is_read() {
        let document = good(
            "volume a\r\n  type storage/posix\r\n  option directory /srv/a#1 # comment\r\nend-volume\n\
             volume b type storage/posix option directory \"/srv/my \\\"b\\\"\" end-volume\n\
             volume pair type cluster/replicate option x \"option\" subvolumes a b option y 1 end-volume",
        );
        assert_eq!(document.volumes.len(), 3);
        let value = |volume: usize, option: usize| match &document.volumes[volume].options[option]
            .1
            .value
        {
            Value::Text(text) => text.text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(value(0, 0), "/srv/a#1");
        assert_eq!(value(1, 0), "/srv/my \"b\"");
        assert_eq!(value(2, 0), "option");
        let children: Vec<_> = document.volumes[2]
            .children
            .iter()
            .map(|c| &c.value)
            .collect();
        assert_eq!(children, ["a", "b"]);
    }

    #[test]
    fn words_that_only_begin_like_keywords_are_words() {
        let document = good("volume volume-1 type types option options volumes end-volume");
        assert_eq!(document.volumes[0].name.value, "volume-1");
    }

    #[test]
    fn backticks_are_refused_also_in_strings_but_not_in_comments() {
        assert_eq!(
            titles("# `date`\nvolume a type x option k `id` end-volume"),
            ["backticks are refused"]
        );
        assert_eq!(
            titles("volume a type x option k \"`id`\" end-volume"),
            ["backticks are refused"]
        );
        assert!(titles("# `date`\nvolume a type x end-volume").is_empty());
    }

    #[test]
    fn every_mistake_of_form_is_told_at_once() {
        assert_eq!(
            titles(
                "foo\nvolume a\n option k v w\n option\nend-volume\n\
                 volume b\n type x\n type y\n subvolumes\n subvolumes c\nend-volume\n\
                 volume d\n type \"open\nend-volume\nvolume e type x"
            ),
            [
                "a string without its end",
                "expected `volume`",
                "expected `type`, `option`, `subvolumes` or `end-volume`",
                "expected an option's name",
                "volume `a` does not say what it is",
                "a second `type`",
                "expected the name of a volume",
                "a second `subvolumes`",
                "expected a kind, such as `storage/posix`",
                "volume `e` has no `end-volume`",
            ]
        );
    }

    #[test]
    fn what_glusterfs_swallows_is_a_mistake() {
        assert!(
            titles("volume a type x option k \"\" end-volume").contains(&"an empty string".into())
        );
        assert_eq!(
            titles("volume a type x option k \\b end-volume"),
            ["a backslash outside of a string"]
        );
    }
}
