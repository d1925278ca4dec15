//! What nobody waits for any more is done by the time that anybody looks, or never.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hermitfs_api::*;
use hermitfs_client::{Client, Connection, Dialer, Options};
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

/// A write that is given up, over a line that is parted in this way when the write comes; the sizes that are seen
/// afterwards, from the first answer on.
fn sizes(ways: &'static [Way], takes: Duration) -> (Errno, Vec<u64>) {
    let (net, server, client) = (Net::new(1, FAIR), Host::new(), Host::new());
    let state = tempfile::tempdir().unwrap();
    let below = Memory::with_dev(1);
    let brick: Arc<dyn Translator> = Arc::new(Slow { below, takes });
    let (path, listener) = (state.path().to_owned(), net.listen("server"));
    server.spawn(async move {
        let connections = UnboundedReceiverStream::new(listener).map(Ok);
        let options = ServerOptions::new("127.0.0.1:1".parse().unwrap());
        let volumes = vec![("brick".into(), brick)];
        Server::over(&options, volumes, &path, connections)
            .await
            .unwrap();
    });
    let (mut options, dialing) = (
        Options::new("127.0.0.1:1".parse().unwrap(), "brick"),
        net.clone(),
    );
    (options.ping_timeout, options.grace) = (2, 4);
    let dialer: Dialer = Arc::new(move || {
        let net = dialing.clone();
        async move {
            let stream = net.connect("client", "server").await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    });
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
