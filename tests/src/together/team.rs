//! The processes of several hosts.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PLACES, Report};
use crate::hermitfs::built;
use crate::lab::Lab;

/// Who has done nothing for so long hangs: longer than any grace in the tests.
const HANGS: Duration = Duration::from_secs(150);

/// Processes at work; killed when dropped.
pub struct Team {
    stop: PathBuf,
    hands: Vec<Hand>,
}

struct Hand {
    name: String,
    child: Child,
    said: File,
    report: PathBuf,
    told: u64,
    since: Instant,
}

impl Hand {
    fn words(&mut self) -> String {
        let mut text = String::new();
        self.said.rewind().unwrap();
        self.said.read_to_string(&mut text).unwrap();
        text
    }

    #[track_caller]
    fn look(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            let words = self.words();
            panic!("{} ended early ({status}): {words}", self.name);
        }
        let told = fs::metadata(&self.report).map_or(0, |report| report.len());
        if told != self.told {
            (self.told, self.since) = (told, Instant::now());
        }
        assert!(self.since.elapsed() < HANGS, "{} hangs", self.name);
    }
}

impl Team {
    /// Makes the places where they work, on the brick, before anybody comes.
    pub fn build(base: &Path) {
        for place in PLACES {
            fs::create_dir_all(base.join(place)).unwrap();
        }
    }

    /// Starts a process for each name at a base, which is the same directory by different ways.
    pub fn start(lab: &Lab, hands: &[(&str, &Path)]) -> Team {
        let stop = lab.path().join("stop-together");
        let start = |(name, base): &(&str, &Path)| {
            let report = lab.path().join(format!("report-{name}"));
            let said = tempfile::tempfile().unwrap();
            let child = Command::new(built("hermitfs-hand"))
                .arg(base)
                .arg(name)
                .args([&report, &stop])
                .stdin(Stdio::null())
                .stdout(said.try_clone().unwrap())
                .stderr(said.try_clone().unwrap())
                .spawn()
                .unwrap();
            Hand {
                name: (*name).into(),
                child,
                said,
                report,
                told: 0,
                since: Instant::now(),
            }
        };
        let hands = hands.iter().map(start).collect();
        Team { stop, hands }
    }

    /// Lets them work; fails the test as soon as one has found something wrong, or hangs.
    #[track_caller]
    pub fn work_for(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.hands.iter_mut().for_each(Hand::look);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets them work until each has done something more.
    #[track_caller]
    pub fn work_on(&mut self) {
        let before: Vec<u64> = self.hands.iter().map(|hand| hand.told).collect();
        let idle = |hands: &[Hand]| {
            let mut hands = hands.iter().zip(&before);
            hands.any(|(hand, before)| hand.told == *before)
        };
        while idle(&self.hands) {
            self.work_for(Duration::from_millis(50));
        }
    }

    /// Ends the work. What all of them told.
    #[track_caller]
    pub fn stop(mut self) -> Report {
        fs::write(&self.stop, b"").unwrap();
        let began = Instant::now();
        let mut report = Report::default();
        for hand in &mut self.hands {
            let status = loop {
                if let Some(status) = hand.child.try_wait().unwrap() {
                    break status;
                }
                assert!(began.elapsed() < HANGS, "{} does not end", hand.name);
                std::thread::sleep(Duration::from_millis(10));
            };
            let words = hand.words();
            assert!(status.success(), "{} ({status}): {words}", hand.name);
            println!("{}: {}", hand.name, words.trim_end());
            report.read(&hand.report).unwrap();
        }
        let (done, unknown) = (report.done.len(), report.unknown.len());
        println!("{done} done, {unknown} unknown");
        report
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for hand in &mut self.hands {
            let _ = hand.child.kill();
            let _ = hand.child.wait();
        }
    }
}
