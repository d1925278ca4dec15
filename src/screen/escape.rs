//! Names, which may be any bytes, as text on one line that can be given back.
//!
//! A backslash is `\\`, a newline `\n`, and so on; other control characters, and bytes that are no UTF-8, are `\x1b`;
//! characters that change how the text around them looks are `\u{202e}`. All else is as it is. Nothing that is shown
//! moves the cursor, and [`bytes`] leads back to the very same name.

use std::fmt::Write;

/// As shown.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_ascii_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
                c if is_unseen(c) => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Characters that are not seen themselves, or reorder what is.
pub(crate) fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// What was shown as this; `None` where this was never shown.
pub(crate) fn bytes(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if first != b'\\' {
            out.push(first);
            rest = after;
            continue;
        }
        let (&kind, after) = after.split_first()?;
        rest = after;
        match kind {
            b'\\' => out.push(b'\\'),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'x' => {
                let (digits, after) = after.split_at_checked(2)?;
                out.push(u8::try_from(number(digits)?).ok()?);
                rest = after;
            }
            b'u' => {
                let inside = after.strip_prefix(b"{")?;
                let end = inside.iter().position(|byte| *byte == b'}')?;
                let (digits, after) = inside.split_at_checked(end)?;
                let c = char::from_u32(number(digits)?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after.get(1..)?;
            }
            _ => return None,
        }
    }
    Some(out)
}

fn number(digits: &[u8]) -> Option<u32> {
    let all = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| all)?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_shown_is_plain_and_on_one_line() {
        let shown = |name: &[u8]| text(name);
        assert_eq!(shown("/Zürich/a b".as_bytes()), "/Zürich/a b");
        assert_eq!(shown(b"/new\nline\xff\x1b[2J"), "/new\\nline\\xff\\x1b[2J");
        assert_eq!(shown(b"/back\\slash"), "/back\\\\slash");
        assert_eq!(shown("/\u{202e}txt.exe".as_bytes()), "/\\u{202e}txt.exe");
    }

    #[test]
    fn what_was_never_shown_leads_nowhere() {
        for wrong in [
            "\\",
            "\\q",
            "\\x1",
            "\\xgg",
            "\\x+1",
            "\\u{110000}",
            "\\u{12",
            "\\u12",
        ] {
            assert_eq!(bytes(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_name_can_be_given_back(name in proptest::collection::vec(any::<u8>(), 0..64)) {
            let shown = text(&name);
            prop_assert!(!shown.chars().any(|c| c.is_control()));
            prop_assert_eq!(bytes(shown.as_bytes()), Some(name));
        }

        #[test]
        fn so_can_every_text(name in ".{0,32}") {
            prop_assert_eq!(bytes(text(name.as_bytes()).as_bytes()), Some(name.into_bytes()));
        }
    }
}
