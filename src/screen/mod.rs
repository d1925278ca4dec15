//! What people see: results on the standard output, messages on the standard error, colour on a
//! terminal alone.

pub(crate) mod escape;
pub(crate) mod human;
pub(crate) mod overview;
pub(crate) mod progress;
pub(crate) mod terminal;

use std::io::{IsTerminal, Write};

/// A result. A reader that has gone away is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A message.
pub(crate) fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Why a command failed.
pub(crate) fn complain(message: &str) {
    let name = paint("hermitfs:", Paint::Bad, colour_on_stderr());
    print_error(&format!("{name} {}\n", message.trim_end()));
}

/// What is worth a thought.
pub(crate) fn warn(message: &str) {
    let word = paint("note:", Paint::Busy, colour_on_stderr());
    print_error(&format!("{word} {message}\n"));
}

/// `NO_COLOR` (no-color.org) and `TERM=dumb` are heeded.
fn colourful(terminal: bool) -> bool {
    terminal
        && terminal::moves()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub(crate) fn colour_on_stderr() -> bool {
    colourful(std::io::stderr().is_terminal())
}

pub(crate) fn colour_on_stdout() -> bool {
    colourful(std::io::stdout().is_terminal())
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Good,
    Busy,
    Bad,
    Bold,
    Dim,
}

/// Text in a colour, or as it is.
pub(crate) fn paint(text: &str, paint: Paint, colour: bool) -> String {
    if !colour {
        return text.into();
    }
    let code = match paint {
        Paint::Good => "1;32",
        Paint::Busy => "1;33",
        Paint::Bad => "1;31",
        Paint::Bold => "1",
        Paint::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
