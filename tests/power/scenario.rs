//! One recorded run of a migration under load, and the power cuts that come out of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hermitfs_tests::bricks;
use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell::run;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::boot::Boot;
use crate::load::{self, Counters};
use crate::promises::{Book, Promises};
use crate::replay::{Platter, Unflushed};
use crate::storage::{Storage, log_in};
use crate::writelog::WriteLog;

const LONG: Duration = Duration::from_secs(180);

/// How often the logs are looked at: each look is a moment at which the power may fail.
const LOOK: Duration = Duration::from_millis(25);

/// What is run.
pub(crate) struct Scenario {
    pub(crate) source: Format,
    /// Options of the source's mount.
    pub(crate) options: &'static str,
    pub(crate) seed: u64,
    /// How long users work after the pair is ready, and as long again after a restart.
    pub(crate) work: Duration,
    pub(crate) cuts: usize,
    /// Whether users rest for so long that the journal says that all is calm.
    pub(crate) calm: bool,
    pub(crate) stack: Stack,
}

/// What migrates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stack {
    /// Both bricks as they are.
    Plain,
    /// Both behind a server in the same process.
    Loopback,
    /// The same by the server's socket.
    Socket,
}

/// The three disks: name, MiB.
const DISKS: [(&str, u64); 3] = [("old", 400), ("new", 512), ("state", 64)];

/// A moment at which the power may fail.
struct Moment {
    phase: &'static str,
    lengths: Vec<u64>,
    promised: u64,
}

/// What one run came to.
pub(crate) struct Report {
    pub(crate) cuts: usize,
    /// What is wrong, a paragraph for each cut.
    pub(crate) failures: Vec<String>,
}

impl Scenario {
    pub(crate) fn run(&self, boot: &Boot) -> Report {
        let lab = Lab::new(&format!("power-{}", self.source.name()));
        let stand = Stand {
            scenario: self,
            lab: &lab,
            boot,
        };
        stand.make_images();
        let (moments, book) = stand.record();
        let mut platters: Vec<Platter> = DISKS
            .iter()
            .enumerate()
            .map(|(n, (name, _))| {
                let log = WriteLog::open(&log_in(lab.path(), n)).unwrap();
                Platter::new(stand.path(&format!("{name}.base")), log)
            })
            .collect();
        let chosen = self.choose(&moments, &platters);
        let mut failures = Vec::new();
        for (n, moment) in chosen.iter().enumerate() {
            let cut = stand.cut(moment, &mut platters, n as u64, &book);
            failures.extend(cut);
        }
        Report {
            cuts: chosen.len(),
            failures,
        }
    }

    /// As many of each phase, in the order of time; half of them while the source's or the state's
    /// disk had writes that were not flushed, where there are such moments.
    fn choose<'a>(&self, moments: &'a [Moment], platters: &[Platter]) -> Vec<&'a Moment> {
        let mut chance = ChaCha8Rng::seed_from_u64(self.seed);
        let mut phases: Vec<&str> = moments.iter().map(|moment| moment.phase).collect();
        phases.dedup();
        let open = |moment: &Moment| {
            let on = |disk: usize| platters[disk].unflushed(moment.lengths[disk]);
            on(0) + on(2) > 0
        };
        let mut chosen: Vec<&Moment> = Vec::new();
        for (n, phase) in phases.iter().enumerate() {
            let share = (self.cuts - chosen.len()).div_ceil(phases.len() - n);
            let mut of_it: Vec<&Moment> = moments.iter().filter(|m| m.phase == *phase).collect();
            of_it.shuffle(&mut chance);
            let (open, flushed): (Vec<&Moment>, Vec<&Moment>) =
                of_it.into_iter().partition(|moment| open(moment));
            let opens = open.len().min(share.div_ceil(2));
            let rest = open[opens..].iter().chain(&flushed).take(share - opens);
            let mut some: Vec<&Moment> = open[..opens].iter().chain(rest).copied().collect();
            some.sort_by_key(|moment| moment.lengths.iter().sum::<u64>());
            chosen.extend(some);
        }
        chosen
    }
}

/// Where it is run.
struct Stand<'a> {
    scenario: &'a Scenario,
    lab: &'a Lab,
    boot: &'a Boot,
}

impl Stand<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.lab.path().join(name)
    }

    fn format(&self, disk: &str) -> (Format, &'static str) {
        match disk {
            "old" => (self.scenario.source, self.scenario.options),
            "new" => (Format::Btrfs, ""),
            _ => (Format::Ext4, ""),
        }
    }

    fn mount(&self, disk: &str, image: &Path) {
        let (format, options) = self.format(disk);
        let options = match options {
            "" => "loop".to_owned(),
            options => format!("loop,{options}"),
        };
        let (image, at) = (image.to_string_lossy(), self.lab.dir(disk));
        let at = at.to_string_lossy();
        run("mount", &["-t", format.name(), "-o", &options, &image, &at]);
    }

    fn unmount_all(&self) {
        for (disk, _) in DISKS {
            // What a daemon held is given back a moment after its end.
            until(LONG, "a disk to be unmounted", || {
                let flags = rustix::mount::UnmountFlags::empty();
                rustix::mount::unmount(self.path(disk), flags).ok()
            });
        }
    }

    fn seeds(&self) -> [u64; 3] {
        [0, 1, 2].map(|n| self.scenario.seed + n)
    }

    fn make_images(&self) {
        for (disk, mib) in DISKS {
            let image = self.path(&format!("{disk}.img"));
            fs::File::create(&image)
                .and_then(|file| file.set_len(mib << 20))
                .unwrap();
            let (format, _) = self.format(disk);
            // Now, not in the background once it is mounted.
            let more: &[&str] = match format {
                Format::Ext3 | Format::Ext4 => &["-E", "lazy_itable_init=0"],
                Format::Xfs | Format::Btrfs => &[],
            };
            format.make(&image, more);
            self.mount(disk, &image);
        }
        let old = self.path("old");
        crew::build(&old, &self.seeds());
        Odd::small().build(&self.lab.dir("old/odd"), self.scenario.seed);
        for index in 0..1500u32 {
            let dir = self.lab.dir(&format!("old/bulk/{:02}", index % 30));
            let content = vec![index as u8; (index * 7 % 20_000) as usize];
            fs::write(dir.join(index.to_string()), content).unwrap();
        }
        load::prepare(&old);
        self.unmount_all();
        for (disk, _) in DISKS {
            let [image, base] = ["img", "base"].map(|kind| self.path(&format!("{disk}.{kind}")));
            let [image, base] = [&image, &base].map(|path| path.to_string_lossy());
            run("cp", &["--sparse=always", &image, &base]);
        }
    }

    fn is_calm(&self) -> bool {
        let mut found = fs::read_dir(self.path("state")).unwrap().flatten();
        found.any(|entry| {
            let journal = fs::read(entry.path().join("journal.0")).unwrap_or_default();
            let line = journal.split(|&byte| byte == b'\n').next();
            let header: Result<serde_json::Value, _> = serde_json::from_slice(line.unwrap_or(b""));
            header.is_ok_and(|header| header["calm"] == true)
        })
    }

    fn migration(&self) -> Mounted<'_> {
        let mut mounted = Mounted::prepare(self.lab, "data");
        match self.scenario.stack {
            Stack::Plain => {
                let paths = [self.path("old"), self.path("new"), self.path("data")];
                let mut arguments = vec!["migrate".into()];
                arguments.extend(paths.map(|path| path.into()));
                arguments.push("--no-wait".into());
                mounted.use_arguments(arguments);
            }
            stack => {
                let place = |name: &str, at| format!("{name}={}", self.path(at).display());
                let set = [
                    place("old", "old"),
                    place("new", "new"),
                    place("socket", "bricks.sock"),
                ];
                let set: Vec<&str> = set.iter().map(String::as_str).collect();
                let volfile = match stack {
                    Stack::Socket => bricks::loopback_by_socket(self.lab),
                    _ => bricks::loopback(),
                };
                mounted.use_volfile(&volfile, &set);
            }
        }
        mounted
    }

    /// A migration under load, ended and begun again; every moment at which the power may fail.
    fn record(&self) -> (Vec<Moment>, PathBuf) {
        self.boot.new_boot();
        let images = DISKS.map(|(disk, _)| self.path(&format!("{disk}.img")));
        let storage = Storage::over(self.lab.path(), &images);
        for ((disk, _), export) in DISKS.iter().zip(storage.exports()) {
            self.mount(disk, export);
        }
        let book = Book::new(self.path("promises"));
        let (phase, over) = (Mutex::new("healing"), AtomicBool::new(false));
        let moments = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut moments: Vec<Moment> = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let phase = *phase.lock().unwrap();
                    let moment = storage.at_one_moment(|lengths| Moment {
                        phase,
                        lengths,
                        promised: book.length(),
                    });
                    moments.push(moment);
                    std::thread::sleep(LOOK);
                }
                moments
            });
            // Also when the work fails: it would be looked at for ever.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.work(&book, &phase);
            }));
            over.store(true, Ordering::Relaxed);
            let moments = looking.join().unwrap();
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
            moments
        });
        self.unmount_all();
        storage.close();
        (moments, book.path().to_owned())
    }

    fn work(&self, book: &Book, phase: &Mutex<&'static str>) {
        let (mut migration, mut counters) = (self.migration(), Counters::default());
        let enter = |name| *phase.lock().unwrap() = name;
        migration.start();
        let [first, second, third] = self.seeds();
        self.users(&migration, first, book, &mut counters, || {
            let begun = Instant::now();
            until(LONG, "the pair to be ready", || {
                migration.status().is("ready").then_some(())
            });
            println!("ready after {:.0?}, with users at work", begun.elapsed());
            enter("ready");
        });
        if self.scenario.calm {
            enter("resting");
            until(LONG, "the journal to say that all is calm", || {
                self.is_calm().then_some(())
            });
            enter("calm");
            std::thread::sleep(20 * LOOK);
            enter("at work again");
            self.users(&migration, second, book, &mut counters, || {});
        }
        enter("closed");
        migration.terminate();
        migration.start();
        enter("restarted");
        self.users(&migration, third, book, &mut counters, || {});
        migration.terminate();
    }

    /// Users at work, for a while after `first` is over.
    fn users(
        &self,
        migration: &Mounted<'_>,
        seed: u64,
        book: &Book,
        counters: &mut Counters,
        first: impl FnOnce(),
    ) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mount = migration.path();
            let promising = scope.spawn(|| load::run(mount, book, seed, counters, &stop));
            scope.spawn(|| self.sync_now_and_then(seed, &stop));
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut crew = Crew::start(self.lab, mount, &[seed], false);
                first();
                crew.work_for(self.scenario.work);
                crew.stop_quietly();
            }));
            stop.store(true, Ordering::Relaxed);
            promising.join().unwrap();
            if let Err(panic) = worked {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// Each disk for itself is on the disk as of this moment or that: the state may be younger than
    /// the bricks, or older.
    fn sync_now_and_then(&self, seed: u64, stop: &AtomicBool) {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(chance.random_range(0..300)));
            let (disk, _) = DISKS[chance.random_range(0..DISKS.len())];
            let root = fs::File::open(self.path(disk)).unwrap();
            rustix::fs::syncfs(&root).unwrap();
        }
    }

    /// The power fails at this moment; the machine starts again, and the same command goes on.
    /// What is wrong then, if anything is.
    fn cut(
        &self,
        moment: &Moment,
        platters: &mut [Platter],
        number: u64,
        book: &Path,
    ) -> Option<String> {
        let mut chance = ChaCha8Rng::seed_from_u64(self.scenario.seed.wrapping_mul(1000) + number);
        let mut fates = Vec::new();
        for (((disk, _), platter), length) in DISKS.iter().zip(platters).zip(&moment.lengths) {
            let unflushed = match chance.random_range(0..5) {
                0 => Unflushed::Lost,
                1 => Unflushed::Kept,
                _ => Unflushed::Half,
            };
            let image = self.path(&format!("{disk}.cut"));
            let (open, kept) = platter.cut(*length, unflushed, &mut chance, &image);
            fates.push(format!("{disk} {kept}/{open}"));
            self.mount(disk, &image);
        }
        let promises = Promises::read(book, moment.promised);
        let label = format!(
            "{} {}, cut {number} while {}: {} unflushed writes kept, {} promises",
            self.scenario.source.name(),
            self.scenario.options,
            moment.phase,
            fates.join(", "),
            promises.len()
        );
        self.boot.new_boot();
        let started = Instant::now();
        let mut wrong = promises.broken(&self.path("old"));
        let mut migration = self.migration();
        match migration.try_start(&[]) {
            outcome if outcome.code == exit::OK => {
                wrong.extend(wait_ready(&migration).err());
                migration.terminate();
                wrong.extend(self.differences());
                wrong.extend(promises.broken(&self.path("old")));
            }
            outcome => wrong.push(format!("it does not start: {outcome:?}")),
        }
        self.unmount_all();
        println!(
            "{}  {label}, {:.1?}",
            if wrong.is_empty() { "good" } else { "BAD " },
            started.elapsed()
        );
        wrong.dedup();
        (!wrong.is_empty()).then(|| format!("{label}:\n  {}", wrong.join("\n  ")))
    }

    fn differences(&self) -> Vec<String> {
        let old = Tree::of(&self.path("old"));
        old.differences(&Tree::of_sink(&self.path("new"), &old))
            .iter()
            .map(|it| format!("{}: {} ({})", it.path.display(), it.what, it.detail))
            .collect()
    }
}

fn wait_ready(migration: &Mounted<'_>) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let status = migration.status();
        if status.is("ready") && status.number("pending") == 0 {
            return Ok(());
        }
        if started.elapsed() > LONG {
            let errors = migration.command("errors", &[]);
            return Err(format!("not ready: {:#}\n{}", status.0, errors.stdout));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
