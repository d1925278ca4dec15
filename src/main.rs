//! The program `hermitfs`: one file per command in `commands`; from a volfile to a graph in
//! `volfile`; the process that serves a mount in `daemon`; `kinds` is the registry.
#![deny(unsafe_code)] // `sys` alone is allowed a few calls

mod bricks;
mod build;
mod cli;
mod client;
mod commands;
mod daemon;
mod exit;
mod fit;
mod gluster;
mod kinds;
mod mounts;
mod order;
mod over;
mod past;
mod paths;
mod preflight;
mod run;
mod screen;
mod shell;
#[allow(unsafe_code, reason = "system calls without a safe wrapper")]
mod sys;
mod users;
mod volfile;
mod whereabouts;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let failed = error.use_stderr();
            return ExitCode::from(if failed {
                exit::Code::Usage.number()
            } else {
                0
            });
        }
    };
    match cli.command.run(&cli.global) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                screen::complain(&failure.message);
            }
            ExitCode::from(failure.code.number())
        }
    }
}
