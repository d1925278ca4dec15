//! A process that works with others in one tree, each through a mount of its own.
//!
//! `hermitfs-hand DIRECTORY NAME REPORT-FILE UNTIL-FILE`

use std::path::Path;
use std::process::ExitCode;

use hermitfs_tests::together::Hand;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, name, report, until] = arguments.as_slice() else {
        eprintln!("usage: hermitfs-hand DIRECTORY NAME REPORT-FILE UNTIL-FILE");
        return ExitCode::from(64);
    };
    let hand = match Hand::new(Path::new(base), name, Path::new(report)) {
        Ok(hand) => hand,
        Err(error) => {
            eprintln!("{report}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match hand.work_until(Path::new(until)) {
        Ok(away) => {
            println!("cut off {away} times");
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}
