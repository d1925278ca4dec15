//! Command lines for people to copy: a word is quoted where a shell would change it.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// One of our own commands.
pub(crate) fn hermitfs(words: &[&dyn AsRef<OsStr>]) -> String {
    let mut line = String::from("hermitfs");
    for given in words {
        line.push(' ');
        line.push_str(&word(given));
    }
    line
}

/// One word. What cannot be seen, and bytes that are no UTF-8, come in the form `$'\033'` (POSIX.1-2024), so that
/// nothing that is shown moves the cursor.
pub(crate) fn word(given: impl AsRef<OsStr>) -> String {
    let bytes = given.as_ref().as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Ok(text) if !text.chars().any(is_unseen) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => in_numbers(bytes),
    }
}

fn is_plain(c: char) -> bool {
    !is_unseen(c) && (c.is_alphanumeric() || "-_./=:,@%+".contains(c))
}

fn is_unseen(c: char) -> bool {
    crate::screen::escape::is_unseen(c)
}

fn in_numbers(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => out.extend(['\\', c]),
                c if is_unseen(c) => octal(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut out),
                c => out.push(c),
            }
        }
        octal(chunk.invalid(), &mut out);
    }
    out.push('\'');
    out
}

/// Always three digits: what follows is no part of the number.
fn octal(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        assert_eq!(word("/srv/old-1.0"), "/srv/old-1.0");
        assert_eq!(word("/srv/my data"), "'/srv/my data'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word(""), "''");
        assert_eq!(word("a\n1"), r"$'a\0121'");
        assert_eq!(
            hermitfs(&[&"status", &std::path::Path::new("/my data")]),
            "hermitfs status '/my data'"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn bash_makes_the_same_of_it(name in proptest::collection::vec(1u8.., 0..24)) {
            let name = OsStr::from_bytes(&name);
            let quoted = word(name);
            prop_assert!(!quoted.chars().any(char::is_control));
            let script = format!("printf %s {quoted}");
            let told = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(OsStr::from_bytes(&told.stdout), name);
        }
    }
}
