//! Numbers as people read them.

/// `12,345`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.5 GiB`; three digits or so.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.95 {
        2
    } else if value < 99.5 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `1 h 05 min`, `3 min 07 s`, `12 s`: the two largest units.
pub(crate) fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    if days > 0 {
        format!("{days} d {hours:02} h")
    } else if hours > 0 {
        format!("{hours} h {minutes:02} min")
    } else if minutes > 0 {
        format!("{minutes} min {:02} s", whole % 60)
    } else {
        format!("{whole} s")
    }
}

/// Whole percents; 100 only when all is done, and never more.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    if done >= total {
        return 100;
    }
    let percent = u128::from(done) * 100 / u128::from(total);
    u64::try_from(percent).unwrap_or(99).min(99)
}

/// A name that may be any bytes, on one line, in a form that commands take back.
pub(crate) fn name(bytes: &[u8]) -> String {
    super::escape::text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_true() {
        assert_eq!(
            [count(0), count(999), count(1000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [bytes(1023), bytes(1024), bytes(10 << 20)],
            ["1023 B", "1.00 KiB", "10.0 MiB"]
        );
        assert_eq!(
            [bytes((1 << 30) - 1), bytes(u64::MAX)],
            ["1.00 GiB", "16.0 EiB"]
        );
        assert_eq!(
            [time(0.4), time(67.0), time(3900.0), time(90_000.0)],
            ["0 s", "1 min 07 s", "1 h 05 min", "1 d 01 h"]
        );
    }

    #[test]
    fn a_percentage_never_promises_more_than_there_is() {
        assert_eq!(
            [
                percent(0, 0),
                percent(999, 1000),
                percent(5, 3),
                percent(1, 3)
            ],
            [100, 99, 100, 33]
        );
    }
}
