use std::io::Write;
use std::sync::Mutex;

use hermitfs_testkit::Memory;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

const CX: Context = Context {
    uid: 7,
    gid: 7,
    pid: 42,
    origin: Origin::User,
    client: 0,
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;
    fn make_writer(&self) -> Lines {
        self.clone()
    }
}

/// A create, a write and a look-up in vain, through a trace; and what it told.
fn told(options: Options, level: tracing::Level) -> (String, Vec<Count>) {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_writer(lines.clone())
        .finish();
    let trace = Trace::new("brick", Arc::new(Memory::with_dev(1)), options);
    let volume: &dyn Translator = &trace;
    tracing::subscriber::with_default(subscriber, || {
        block_on(async {
            let root = volume.root(&CX).await.unwrap().inode;
            let name = |text: &str| NameBuf::new(text.as_bytes()).unwrap();
            let made = volume
                .create(&CX, &root, &name("a"), OpenFlags::WRITE, 0o644, 0o22)
                .await;
            volume
                .write(&CX, &made.unwrap().1, 4096, &[0; 100])
                .await
                .unwrap();
            volume.lookup(&CX, &root, &name("none")).await.unwrap_err();
        });
    });
    let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (lines, trace.counts())
}

#[test]
fn each_operation_is_told_with_arguments_answer_and_time() {
    let (lines, _) = told(Options::default(), tracing::Level::DEBUG);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[1].contains("hermitfs::trace: brick create uid 7 pid 42 Directory"),
        "{}",
        lines[1]
    );
    assert!(
        lines[1].contains("\"a\", 0o1, 420, 18 -> File"),
        "{}",
        lines[1]
    );
    assert!(lines[2].contains("4096, 100 bytes -> 100 "), "{}", lines[2]);
    assert!(
        lines[3].contains("\"none\" -> ENOENT ") && lines[3].ends_with("us"),
        "{}",
        lines[3]
    );
}

#[test]
fn only_errors_are_told_when_asked_for() {
    let options = Options {
        errors_only: true,
        ..Options::default()
    };
    let (lines, _) = told(options, tracing::Level::DEBUG);
    assert_eq!(lines.lines().count(), 1, "{lines}");
}

#[test]
fn nothing_is_told_below_the_level_but_it_is_counted() {
    let options = Options {
        log: Log::Trace,
        ..Options::default()
    };
    let (lines, counts) = told(options, tracing::Level::DEBUG);
    assert_eq!(lines, "");
    let counted: Vec<_> = counts
        .iter()
        .map(|count| (count.fop, count.calls, count.errors))
        .collect();
    assert_eq!(
        counted,
        [
            (Fop::Root, 1, 0),
            (Fop::Lookup, 1, 1),
            (Fop::Create, 1, 0),
            (Fop::Write, 1, 0)
        ]
    );
    assert!(counts.iter().all(|count| !count.time.is_zero()));
}

#[test]
fn off_means_off() {
    let options = Options {
        log: Log::Off,
        counts: false,
        ..Options::default()
    };
    assert_eq!(
        told(options, tracing::Level::TRACE),
        (String::new(), Vec::new())
    );
}

#[test]
fn options_are_read_from_a_volfile() {
    let options: Options = toml::from_str("log = 'trace'\nslower-than-ms = 5").unwrap();
    assert_eq!(
        options,
        Options {
            log: Log::Trace,
            slower_than_ms: 5,
            ..Options::default()
        }
    );
    assert!(toml::from_str::<Options>("slower = 5").is_err());
}
