//! Those who are on their way along a path when the volume is exchanged: a decision without I/O
//! beside the look at /proc.
//!
//! By then no path leads here any more, so they had better begin anew, and ESTALE makes the kernel
//! do that. But not everybody: `filename_create` (mkdir, mknod, symlink, link, bind) does not
//! begin anew when the look-up of the last name is stale, so its caller would see ESTALE. He is
//! answered, and what he makes is made through here. And of two paths (link, rename) the kernel
//! wants both on one mount, or says EXDEV: who is on his first path has to begin anew, who is on
//! his second must not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The kernel takes no longer paths (`PATH_MAX`).
const LONGEST: usize = 4096;

/// Of a caller of another word length the numbers mean other calls; his stack is below this.
const NARROW: u64 = 1 << 32;

/// What is to become of a look-up by somebody who is on his way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// ESTALE: he begins anew, and comes elsewhere.
    Return,
    /// He goes on here.
    Answer,
}

/// A system call that looks paths up.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// Makes what its one path names.
    Makes,
    /// Two paths; which arguments.
    Links([usize; 2]),
    Renames([usize; 2]),
    /// The kernel begins anew whichever look-up is stale.
    Other,
    /// A kernel's thread, or a caller whose numbers are others.
    Unknown,
}

/// The text of /proc/TID/syscall, as far as it is needed.
struct Syscall {
    call: Call,
    arguments: [u64; 6],
}

impl Syscall {
    /// `None` while the thread runs.
    fn parse(text: &str) -> Option<Syscall> {
        let mut words = text.split_ascii_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let values: Vec<u64> = words
            .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
            .collect();
        let &[a, b, c, d, e, f, stack, _] = &values[..] else {
            return (number < 0).then_some(Syscall {
                call: Call::Unknown,
                arguments: [0; 6],
            });
        };
        Some(Syscall {
            call: match stack < NARROW {
                true => Call::Unknown,
                false => call(number),
            },
            arguments: [a, b, c, d, e, f],
        })
    }
}

fn call(number: i64) -> Call {
    match number {
        libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_symlinkat | libc::SYS_bind => Call::Makes,
        libc::SYS_linkat => Call::Links([1, 3]),
        libc::SYS_renameat | libc::SYS_renameat2 => Call::Renames([1, 3]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir | libc::SYS_mknod | libc::SYS_symlink => Call::Makes,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => Call::Links([0, 1]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Call::Renames([0, 1]),
        _ if number < 0 => Call::Unknown,
        _ => Call::Other,
    }
}

/// Whether a path has this name, in a directory of this name where that is known.
fn occurs(path: &[u8], dir: Option<&[u8]>, name: &[u8]) -> bool {
    let names: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    names.iter().enumerate().any(|(at, one)| {
        let before = at.checked_sub(1).map(|at| names[at]);
        // The first name of a relative path is in a directory that the path does not name.
        *one == name && (dir.is_none() || before.is_none() || before == dir)
    })
}

/// One of two paths: with both the same names, the first is the likelier by far. All names were
/// believed until a moment ago, so nobody was between his two paths for longer than that.
fn on_second(first: &[u8], second: &[u8], dir: Option<&[u8]>, name: &[u8]) -> bool {
    occurs(second, dir, name) && !occurs(first, dir, name)
}

/// What becomes of a look-up of `name` in the directory that is called `dir`. `text` reads what an
/// argument points to. With `held`, somebody holds the directory, and who comes by that has no
/// other way.
fn judge(
    syscall: &Syscall,
    held: bool,
    dir: Option<&[u8]>,
    name: &[u8],
    text: impl Fn(u64) -> Option<Vec<u8>>,
) -> Verdict {
    let two = |at: [usize; 2]| {
        let [first, second] = at.map(|at| text(syscall.arguments[at]));
        Some((first?, second?))
    };
    let (paths, links) = match syscall.call {
        Call::Makes | Call::Unknown => return Verdict::Answer,
        Call::Other if held => return Verdict::Answer,
        Call::Other => return Verdict::Return,
        Call::Links(at) => (two(at), true),
        Call::Renames(at) => (two(at), false),
    };
    let Some((first, second)) = paths else {
        return Verdict::Answer;
    };
    let last = second.rsplit(|&byte| byte == b'/').next();
    let answered = on_second(&first, &second, dir, name)
        || links && last == Some(name) && occurs(&second, dir, name)
        || held && !first.starts_with(b"/");
    match answered {
        true => Verdict::Answer,
        false => Verdict::Return,
    }
}

/// The same for the thread that waits for the look-up; 0 is one that cannot be seen.
pub(crate) fn verdict(thread: u32, held: bool, dir: Option<&[u8]>, name: &[u8]) -> Verdict {
    match look(thread) {
        Some(syscall) => judge(&syscall, held, dir, name, |at| string(thread, at)),
        None => Verdict::Answer,
    }
}

fn look(thread: u32) -> Option<Syscall> {
    if thread == 0 {
        return None;
    }
    // The caller may be on its way to sleep still, and wait for a processor: then the kernel says
    // "running".
    for look in 0..200 {
        let text = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        match Syscall::parse(&text) {
            Some(syscall) => return Some(syscall),
            None if look < 20 => std::thread::yield_now(),
            None => std::thread::sleep(Duration::from_micros(500)),
        }
    }
    None
}

/// A string of the caller's, who waits for us.
fn string(thread: u32, at: u64) -> Option<Vec<u8>> {
    const PAGE: u64 = 4096;
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut found = Vec::new();
    while found.len() < LONGEST {
        let from = at + found.len() as u64;
        // Up to the page's end: what comes after it may not be there.
        let mut piece = vec![0; (PAGE - from % PAGE) as usize];
        memory.read_exact_at(&mut piece, from).ok()?;
        match piece.iter().position(|&byte| byte == 0) {
            Some(end) => {
                found.extend(&piece[..end]);
                return Some(found);
            }
            None => found.extend(&piece),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: &str = "0x7ffd00000000 0x7f0000000000";

    fn syscall(number: i64) -> Syscall {
        let text = format!("{number} 0x0 0x1 0x2 0x3 0x4 0x5 {STACK}\n");
        Syscall::parse(&text).unwrap()
    }

    /// Of a call with two paths, by their places.
    fn judged(number: i64, paths: [&str; 2], held: bool, dir: &str, name: &str) -> Verdict {
        let text = |at: u64| Some(paths[usize::from(at > 1)].as_bytes().to_vec());
        let dir = (!dir.is_empty()).then_some(dir.as_bytes());
        judge(&syscall(number), held, dir, name.as_bytes(), text)
    }

    #[test]
    fn who_makes_something_is_answered_as_the_kernel_does_not_begin_anew() {
        for number in [libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_symlinkat] {
            assert_eq!(
                judged(number, ["", ""], false, "d", "x"),
                Verdict::Answer,
                "{number}"
            );
        }
        assert_eq!(
            judged(libc::SYS_openat, ["", ""], false, "d", "x"),
            Verdict::Return
        );
        assert_eq!(
            judged(libc::SYS_openat, ["", ""], true, "d", "x"),
            Verdict::Answer,
            "he may have come from a directory that he holds"
        );
    }

    #[test]
    fn of_two_paths_the_first_begins_anew_and_the_second_goes_on() {
        let judged = |number, paths, dir, name| judged(number, paths, false, dir, name);
        let paths = ["/data/a/x", "/data/b/y"];
        for number in [libc::SYS_renameat2, libc::SYS_linkat] {
            assert_eq!(judged(number, paths, "", "a"), Verdict::Return);
            assert_eq!(judged(number, paths, "a", "x"), Verdict::Return);
            assert_eq!(judged(number, paths, "", "b"), Verdict::Answer);
        }
        // Both in one directory: nobody was between the two for longer than a moment.
        let paths = ["/data/d/x.new", "/data/d/x"];
        assert_eq!(judged(libc::SYS_renameat2, paths, "", "d"), Verdict::Return);
        assert_eq!(judged(libc::SYS_linkat, paths, "", "d"), Verdict::Return);
        assert_eq!(judged(libc::SYS_linkat, paths, "d", "x"), Verdict::Answer);
        // A delivery to a maildir has one name twice.
        let paths = ["/data/tmp/message", "/data/new/message"];
        let link = |dir| judged(libc::SYS_linkat, paths, dir, "message");
        assert_eq!(
            (link("tmp"), link("new")),
            (Verdict::Return, Verdict::Answer)
        );
    }

    #[test]
    fn who_holds_a_directory_has_no_other_way() {
        let link = |first| judged(libc::SYS_linkat, [first, "b/y"], true, "", "a");
        assert_eq!(link("a/x"), Verdict::Answer);
        assert_eq!(link("/data/a/x"), Verdict::Return);
    }

    #[test]
    fn who_cannot_be_told_is_answered() {
        let unknown = |text: &str| Syscall::parse(text).unwrap().call;
        assert_eq!(unknown("-1 0x7ffd00000000 0x7f0000000000\n"), Call::Unknown);
        let narrow = "39 0x1 0x2 0x3 0x4 0x5 0x6 0xffd00000 0xf7000000\n";
        assert_eq!(unknown(narrow), Call::Unknown);
        assert!(Syscall::parse("running\n").is_none());
    }

    #[test]
    fn a_string_of_a_caller_is_read_up_to_its_end() {
        let text = [vec![b'x'; 9000], vec![0], vec![b'y'; 9]].concat();
        // /proc/self/mem is this process' own.
        let at = text.as_ptr() as u64;
        assert_eq!(string(std::process::id(), at), None, "longer than a path");
        let short = string(std::process::id(), at + 8000).unwrap();
        assert_eq!(short, vec![b'x'; 1000]);
    }
}
