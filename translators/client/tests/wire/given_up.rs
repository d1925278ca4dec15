//! What nobody waits for any more is done by the time that anybody looks, or never.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hermitfs_api::*;
use hermitfs_client::{Client, Connection, Dialer, Options};
use hermitfs_locks::Locks;
use hermitfs_server::{Options as ServerOptions, Server};
use hermitfs_testkit::Memory;
use hermitfs_testkit::net::{Host, Net, Way, Weather};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

const FAIR: Weather = Weather {
    delay: 1..=1,
    lost: 0,
    cut: 0,
    in_a_row: false,
};

/// A brick whose disk takes its time to write.
struct Slow {
    below: Memory,
    takes: Duration,
}

#[async_trait]
impl Filter for Slow {
    fn below(&self) -> &dyn Translator {
        &self.below
    }

    async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        tokio::time::sleep(self.takes).await;
        self.below.write(cx, file, at, data).await
    }
}

/// Serves it as `brick` at `server`.
fn serve(net: &Net, server: &Host, brick: Arc<dyn Translator>, state: &Path) {
    let (path, listener) = (state.to_owned(), net.listen("server"));
    server.spawn(async move {
        let connections = UnboundedReceiverStream::new(listener).map(Ok);
        let options = ServerOptions::new("127.0.0.1:1".parse().unwrap());
        let volumes = vec![("brick".into(), brick)];
        Server::over(&options, volumes, &path, connections)
            .await
            .unwrap();
    });
}

/// What a client at `client` needs, which waits for four seconds.
fn by(net: &Net) -> (Options, Dialer) {
    let mut options = Options::new("127.0.0.1:1".parse().unwrap(), "brick");
    (options.ping_timeout, options.grace) = (2, 4);
    let net = net.clone();
    let dialer: Dialer = Arc::new(move || {
        let net = net.clone();
        async move {
            let stream = net.connect("client", "server").await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    });
    (options, dialer)
}

/// A write that is given up, over a line that is parted in this way when the write comes; the sizes that are seen
/// afterwards, from the first answer on.
fn sizes(ways: &'static [Way], takes: Duration) -> (Errno, Vec<u64>) {
    let (net, server, client) = (Net::new(1, FAIR), Host::new(), Host::new());
    let state = tempfile::tempdir().unwrap();
    let below = Memory::with_dev(1);
    let brick: Arc<dyn Translator> = Arc::new(Slow { below, takes });
    serve(&net, &server, brick, state.path());
    let (options, dialer) = by(&net);
    let parting = net.clone();
    let task = client.spawn(async move {
        let client = Client::over(&options, dialer).await.unwrap();
        let cx = Context::internal(Origin::User);
        let root = client.root(&cx).await.unwrap().inode;
        let name = Name::new(b"a").unwrap();
        let (_, file) = client
            .create(&cx, &root, name, OpenFlags::WRITE, 0o600, 0)
            .await
            .unwrap();
        // The answer to a write that the server has, or the write itself, is on its way for long.
        if ways == [Way::There] {
            parting.part("client", "server", Way::There);
        }
        let write = client.write(&cx, &file, 0, b"late");
        let part = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            ways.iter()
                .for_each(|way| parting.part("client", "server", *way));
        };
        let (written, ()) = tokio::join!(write, part);
        parting.join("client", "server");
        let mut sizes = Vec::new();
        let end = tokio::time::Instant::now() + 2 * takes + Duration::from_secs(60);
        while tokio::time::Instant::now() < end {
            if let Ok(attr) = client.getattr(&cx, file.inode(), None).await {
                sizes.push(attr.size);
            }
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        (written.unwrap_err().errno(), sizes)
    });
    while !task.is_finished() {
        net.pass(&[&server, &client]);
    }
    task.now_or_never().unwrap().unwrap()
}

#[track_caller]
fn nothing_comes_late(ways: &'static [Way], takes: Duration) {
    let (errno, sizes) = sizes(ways, takes);
    assert_eq!(errno, Errno::EIO, "{ways:?}");
    let first = *sizes.first().expect("it is answered again");
    assert!(
        sizes.iter().all(|size| *size == first),
        "{ways:?}, {takes:?}: {sizes:?}"
    );
}

#[test]
fn who_gave_up_a_call_that_is_under_way_sees_it_done() {
    nothing_comes_late(&[Way::There, Way::Back], Duration::from_secs(30));
}

#[test]
fn what_was_given_up_on_its_way_is_seen_done_or_is_never_done() {
    for millis in [0, 3, 50, 800] {
        nothing_comes_late(&[Way::There], Duration::from_millis(millis));
    }
}

/// A lock is granted when who waited for it has been told that nobody answers.
#[test]
fn a_lock_that_comes_after_its_wait_was_given_up_is_given_back_when_the_line_is_good_again() {
    let (net, server, client) = (Net::new(1, FAIR), Host::new(), Host::new());
    let state = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::with_dev(1));
    let locks = Locks::new(memory, hermitfs_locks::Options::default());
    let brick: Arc<dyn Translator> = Arc::new(locks);
    serve(&net, &server, brick.clone(), state.path());
    let (options, dialer) = by(&net);
    let lock = |owner, kind| Lock {
        owner,
        pid: 0,
        kind,
        start: 0,
        end: 9,
        flock: false,
        ofd: false,
    };
    let parting = net.clone();
    let task = client.spawn(async move {
        let client = Client::over(&options, dialer).await.unwrap();
        let cx = Context::internal(Origin::User);
        let root = client.root(&cx).await.unwrap().inode;
        let (name, flags) = (Name::new(b"a").unwrap(), OpenFlags::READ_WRITE);
        let made = client.create(&cx, &root, name, flags, 0o600, 0).await;
        let (_, file) = made.unwrap();
        // Somebody on the server's machine has it, and gives it back while the line is cut.
        let there = brick.root(&cx).await.unwrap().inode;
        let there = brick.lookup(&cx, &there, name).await.unwrap().inode;
        let there = brick.open(&cx, &there, flags).await.unwrap();
        let first = lock(1, LockKind::Exclusive);
        brick.setlk(&cx, &there, &first, false).await.unwrap();
        let wanted = lock(2, LockKind::Exclusive);
        let waiting = client.setlk(&cx, &file, &wanted, true);
        let part = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            parting.part("client", "server", Way::There);
            parting.part("client", "server", Way::Back);
        };
        let (waited, ()) = tokio::join!(waiting, part);
        assert_eq!(waited.unwrap_err().errno(), Errno::EIO);
        let end = lock(1, LockKind::Unlock);
        brick.setlk(&cx, &there, &end, false).await.unwrap();
        let again = brick.setlk(&cx, &there, &first, false).await;
        let was_granted = again.is_err();
        parting.join("client", "server");
        tokio::time::sleep(Duration::from_secs(20)).await;
        let free = brick.setlk(&cx, &there, &first, false).await;
        (was_granted, free.map_err(|error| error.errno()))
    });
    while !task.is_finished() {
        net.pass(&[&server, &client]);
    }
    let (was_granted, free) = task.now_or_never().unwrap().unwrap();
    assert!(was_granted, "else this shows nothing");
    assert_eq!(free, Ok(()));
}
