//! A process that works in a directory and checks all that it did.
//!
//! `hermitfs-load DIRECTORY SEED BUILT OPERATIONS UNTIL-FILE survive|served|strict`

use std::path::PathBuf;
use std::process::ExitCode;

use hermitfs_tests::world::{Deaths, Options, Worker};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = parse(&arguments) else {
        eprintln!(
            "usage: hermitfs-load DIRECTORY SEED BUILT OPERATIONS UNTIL-FILE survive|served|strict"
        );
        return ExitCode::from(64);
    };
    match Worker::new(options).run() {
        Ok(report) => {
            println!(
                "{} operations, {} disconnects: {:?}",
                report.operations, report.disconnects, report.by_name
            );
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Options> {
    let [base, seed, built, operations, until, mode] = arguments else {
        return None;
    };
    Some(Options {
        base: PathBuf::from(base),
        seed: seed.parse().ok()?,
        built: built.parse().ok()?,
        operations: operations.parse().ok()?,
        until: Some(PathBuf::from(until)),
        survives: match mode.as_str() {
            "survive" => Deaths::All,
            "served" => Deaths::Servers,
            "strict" => Deaths::None,
            _ => return None,
        },
    })
}
