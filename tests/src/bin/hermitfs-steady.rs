//! Works in a directory without a pause, by paths and by what it holds open, until its standard
//! input ends; then says how many turns that were and the longest one in milliseconds. The first
//! error, or the first sight of something older than what it wrote, ends it with that on the
//! standard error.
//!
//! `hermitfs-steady DIRECTORY`

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let Some(base) = std::env::args_os().nth(1) else {
        return ExitCode::from(64);
    };
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Ordering::Relaxed);
    });
    match work(Path::new(&base)) {
        Ok((turns, longest)) => {
            println!("{turns} {}", longest.as_millis());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells which step it was.
fn at<T>(step: &str, turn: u64, done: io::Result<T>) -> io::Result<T> {
    done.map_err(|error| io::Error::new(error.kind(), format!("turn {turn}: {step}: {error}")))
}

fn older<T>(what: &str, seen: &str) -> io::Result<T> {
    Err(io::Error::other(format!("{what} shows {seen:?}")))
}

fn work(base: &Path) -> io::Result<(u64, Duration)> {
    let append = |name: &str| {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(base.join(name))
    };
    let mut held = append("held")?;
    let table = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(base.join("table"))?;
    let (mut turn, mut longest) = (0, Duration::ZERO);
    while !STOP.load(Ordering::Relaxed) {
        let began = Instant::now();
        step(base, turn, &mut held, &table, &append)?;
        longest = longest.max(began.elapsed());
        turn += 1;
    }
    let lines: String = (0..turn).map(|turn| format!("{turn}\n")).collect();
    for name in ["held", "log"] {
        if fs::read_to_string(base.join(name))? != lines {
            return older(name, "not all that was appended");
        }
    }
    if turn > 0 {
        let mut last = [0; 8];
        File::open(base.join("table"))?.read_exact_at(&mut last, (turn - 1) % 512 * 8)?;
        if u64::from_le_bytes(last) != turn - 1 {
            return older("table", "not what was written last");
        }
    }
    Ok((turn, longest))
}

fn step(
    base: &Path,
    turn: u64,
    held: &mut File,
    table: &File,
    append: &impl Fn(&str) -> io::Result<File>,
) -> io::Result<()> {
    let path = |name: &str| base.join(name);
    at("stat", turn, fs::metadata(base))?;
    let made = File::create_new(path("new"));
    let mut made = at("create", turn, made)?;
    at("write", turn, write!(made, "{turn}"))?;
    drop(made);
    at("rename", turn, fs::rename(path("new"), path("current")))?;
    let seen = at("read", turn, fs::read_to_string(path("current")))?;
    if seen != turn.to_string() {
        return older("current", &seen);
    }

    let mut log = at("open to append", turn, append("log"))?;
    at("append", turn, writeln!(log, "{turn}"))?;
    drop(log);
    at("append to what is open", turn, writeln!(held, "{turn}"))?;
    let slot = turn % 512 * 8;
    at(
        "write to what is open",
        turn,
        table.write_all_at(&turn.to_le_bytes(), slot),
    )?;
    let mut back = [0; 8];
    at(
        "read what is open",
        turn,
        table.read_exact_at(&mut back, slot),
    )?;
    if u64::from_le_bytes(back) != turn {
        return older("table", &u64::from_le_bytes(back).to_string());
    }
    if turn.is_multiple_of(64) {
        at("fsync", turn, table.sync_all())?;
        at("rewind", turn, held.rewind())?;
    }

    at("mkdir", turn, fs::create_dir(path("dir")))?;
    at(
        "chmod",
        turn,
        fs::set_permissions(path("dir"), Permissions::from_mode(0o711)),
    )?;
    at("symlink", turn, symlink("somewhere", path("dir/link")))?;
    at("move", turn, fs::rename(path("dir"), path("moved")))?;
    let target = at("readlink", turn, fs::read_link(path("moved/link")))?;
    if target != Path::new("somewhere") {
        return older("moved/link", &target.to_string_lossy());
    }
    let mut names: Vec<String> = Vec::new();
    for entry in at("list", turn, fs::read_dir(base))? {
        let entry = at("list", turn, entry)?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names != ["current", "held", "log", "moved", "table"] {
        return older("the directory", &names.join(" "));
    }
    at("unlink", turn, fs::remove_file(path("moved/link")))?;
    at("rmdir", turn, fs::remove_dir(path("moved")))
}
