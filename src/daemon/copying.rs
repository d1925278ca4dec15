//! How the C library copies in a daemon.
//!
//! For more than a few KiB glibc's memcpy takes `rep movsb`. On AMD's processors since 2020 (Zen 3)
//! that is up to thirty times slower when the copy comes to stand less than 64 bytes further within its page than
//! the original: between TLS records and their plaintext this is common, and a third of the rate
//! of reads was lost to it. glibc knows since 2.39 (its bug 30994); an older one has to be told, and
//! listens only when a program starts.

const VARIABLE: &str = "GLIBC_TUNABLES";

/// Longer than any copy.
const NEVER: &str = "glibc.cpu.x86_rep_movsb_threshold=1000000000";

/// What the environment of a daemon has besides ours.
pub(super) fn tunables() -> Option<(&'static str, String)> {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let set = std::env::var(VARIABLE).unwrap_or_default();
    added(&processors, &set).map(|text| (VARIABLE, text))
}

/// Ours comes first: of two the last one holds, and what somebody has set is meant.
fn added(processors: &str, set: &str) -> Option<String> {
    let mut vendors = processors
        .lines()
        .filter(|line| line.starts_with("vendor_id"));
    if !vendors.any(|line| line.ends_with("AuthenticAMD")) {
        return None;
    }
    Some(match set {
        "" => NEVER.to_owned(),
        set => format!("{NEVER}:{set}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amds_processors_copy_otherwise_and_what_was_set_holds() {
        let amd = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\n";
        assert_eq!(added(amd, "").as_deref(), Some(NEVER));
        let set = "glibc.malloc.arena_max=2";
        let both = format!("{NEVER}:{set}");
        assert_eq!(added(amd, set), Some(both));
        assert_eq!(added("vendor_id\t: GenuineIntel\n", set), None);
        assert_eq!(added("", ""), None);
    }
}
