//! What the terminal at hand can show: its size, whether its cursor moves, which letters it has.

use std::ffi::OsString;

use console::Term;

/// A terminal that pictures can be drawn on again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Lines.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) columns: usize,
}

/// The standard output's window as it is now; `None` where it is none, or its cursor cannot move.
pub(crate) fn window() -> Option<Window> {
    let term = Term::stdout();
    let (rows, columns) = term.size_checked().filter(|_| moves())?;
    Some(Window {
        rows: rows.into(),
        columns: columns.into(),
    })
}

/// Whether the terminal obeys more than line breaks (terminfo(5): `dumb` does not).
pub(crate) fn moves() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Whether more than ASCII can be shown: what locale(7) says of characters.
pub(crate) fn is_utf8() -> bool {
    is_utf8_by(|name| std::env::var_os(name))
}

/// The first of the variables that is set decides; with none it is the C locale.
fn is_utf8_by(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty());
    set.is_some_and(|locale| {
        let locale = locale.to_string_lossy().to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// A picture cut to a window: no line is folded by the terminal, and none scrolls away.
pub(crate) fn fit(text: &str, window: Window) -> String {
    let most = window.rows.saturating_sub(1).max(1);
    let more = if is_utf8() { "…" } else { ">" };
    let mut out = String::new();
    for line in text.lines().take(most) {
        out.push_str(&console::truncate_str(line, window.columns, more));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_says_which_letters_there_are() {
        let by = |set: &'static [(&str, &str)]| {
            is_utf8_by(|name| {
                let found = set.iter().find(|(key, _)| *key == name)?;
                Some(found.1.into())
            })
        };
        assert!(!by(&[]) && !by(&[("LANG", "C")]) && !by(&[("LANG", "POSIX")]));
        assert!(by(&[("LANG", "de_DE.UTF-8")]) && by(&[("LC_CTYPE", "C.utf8")]));
        assert!(!by(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(by(&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8")]));
    }

    #[test]
    fn a_picture_is_cut_to_the_window_and_colour_is_no_width() {
        let window = Window {
            rows: 3,
            columns: 5,
        };
        let text = "\x1b[1;32mready\x1b[0m\n123456\nthird\nfourth\n";
        let fitted = fit(text, window);
        let mut lines = fitted.lines();
        assert_eq!(lines.next(), Some("\x1b[1;32mready\x1b[0m"));
        assert!(lines.next().is_some_and(|line| line.starts_with("1234")));
        assert_eq!(lines.next(), None, "{fitted}");
    }
}
