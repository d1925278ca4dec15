//! What was done, and how a process tells it: a line each in a file of its own.

use std::fs;
use std::io;
use std::path::Path;

/// One thing that has a result which can be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Appended the line of this name to this file.
    Line(String, String),
    /// Wrote this number to this counter.
    Count(String, u64),
    /// Created what all want.
    Claim(String),
    /// Put a file of this name into the spool.
    Put(String),
    /// Took it out for this host.
    Take(String, String),
}

impl Deed {
    /// As it is told.
    pub fn text(&self) -> String {
        match self {
            Deed::Line(file, name) => format!("line {file} {name}"),
            Deed::Count(file, number) => format!("count {file} {number}"),
            Deed::Claim(name) => format!("claim {name}"),
            Deed::Put(name) => format!("put {name}"),
            Deed::Take(name, host) => format!("take {name} {host}"),
        }
    }

    fn of(text: &str) -> Option<Deed> {
        let words: Vec<&str> = text.split(' ').collect();
        Some(match words[..] {
            ["line", file, name] => Deed::Line(file.into(), name.into()),
            ["count", file, number] => Deed::Count(file.into(), number.parse().ok()?),
            ["claim", name] => Deed::Claim(name.into()),
            ["put", name] => Deed::Put(name.into()),
            ["take", name, host] => Deed::Take(name.into(), host.into()),
            _ => return None,
        })
    }
}

/// What processes told: what was acknowledged to them, and of what they heard nothing.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// It has happened.
    pub done: Vec<Deed>,
    /// It has happened once, or not at all.
    pub unknown: Vec<Deed>,
}

impl Report {
    /// Adds what a process told.
    pub fn read(&mut self, path: &Path) -> io::Result<()> {
        for line in fs::read_to_string(path)?.lines() {
            let told = line.split_once(' ').and_then(|(outcome, text)| {
                let list = match outcome {
                    "done" => &mut self.done,
                    "unknown" => &mut self.unknown,
                    _ => return None,
                };
                list.push(Deed::of(text)?);
                Some(())
            });
            told.ok_or_else(|| io::Error::other(format!("what is `{line}`?")))?;
        }
        Ok(())
    }
}
