use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const FAIR: Weather = Weather {
    delay: 1..=5,
    lost: 0,
    cut: 0,
    in_a_row: true,
};

/// Sends `len` bytes to a host that sends them back, and says what came back, and when.
fn echo(net: &Net, len: usize, during: impl FnOnce(&Net)) -> (io::Result<Vec<u8>>, u64) {
    let (client, server) = (Host::new(), Host::new());
    let mut listener = net.listen("server");
    server.spawn(async move {
        while let Some(mut stream) = listener.recv().await {
            tokio::spawn(async move {
                let mut data = vec![0; 1000];
                while let Ok(len @ 1..) = stream.read(&mut data).await {
                    if stream.write_all(&data[..len]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let task = client.spawn({
        let net = net.clone();
        async move {
            let stream = net.connect("client", "server").await?;
            let (mut reads, mut writes) = tokio::io::split(stream);
            let data: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut back = vec![0; len];
            let (read, written) =
                tokio::join!(reads.read_exact(&mut back), writes.write_all(&data));
            written.and(read.map(drop))?;
            assert_eq!(back, data);
            Ok(back)
        }
    });
    (0..20).for_each(|_| net.pass(&[&client, &server]));
    during(net);
    while !task.is_finished() && net.now() < 60_000 {
        net.pass(&[&client, &server]);
    }
    let now = net.now();
    if !task.is_finished() {
        return (Err(io::ErrorKind::TimedOut.into()), now);
    }
    let done = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    (done.block_on(task).unwrap(), now)
}

#[test]
fn what_is_sent_comes_whole_in_order_and_alike_for_a_seed() {
    let times: Vec<u64> = [1, 1, 2]
        .map(|seed| {
            let (back, now) = echo(&Net::new(seed, FAIR), 100_000, |_| {});
            back.unwrap();
            now
        })
        .into();
    assert_eq!(times[0], times[1]);
    assert!(times[0] < 5_000);
}

#[test]
fn what_is_parted_is_held_back_until_it_is_joined() {
    for way in [Way::There, Way::Back] {
        let net = Net::new(3, FAIR);
        net.part("client", "server", way);
        let (back, now) = echo(&net, 10, |_| {});
        assert_eq!(back.unwrap_err().kind(), io::ErrorKind::TimedOut, "{now}");
        net.join("client", "server");
        echo(&net, 10, |_| {}).0.unwrap();
    }
}

#[test]
fn a_connection_is_cut_in_the_middle_or_falls_silent() {
    let kinds: HashSet<io::ErrorKind> = (0..40)
        .filter_map(|seed| {
            let net = Net::new(seed, Weather { cut: 1, ..FAIR });
            Some(echo(&net, 200_000, |_| {}).0.err()?.kind())
        })
        .collect();
    let silent = kinds.contains(&io::ErrorKind::TimedOut);
    let broken = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(
        silent && broken.iter().any(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
    let net = Net::new(1, FAIR);
    let (back, _) = echo(&net, 10_000_000, |net| net.cut("client", "server"));
    assert!(back.is_err(), "it cannot have been through");
}

#[test]
fn who_was_cut_is_spared_the_next_time_if_that_is_wanted() {
    let weather = Weather {
        cut: 1,
        in_a_row: false,
        ..FAIR
    };
    let net = Net::new(1, weather);
    let limited = |net: &Net| {
        let mut inner = net.0.lock();
        let (_ours, _theirs) = inner.wire(net, "client".into(), "server".into());
        let limit = inner.wires[&inner.last]
            .pipes
            .iter()
            .any(|pipe| pipe.limit.is_some());
        drop(inner);
        limit
    };
    let all: Vec<bool> = (0..4).map(|_| limited(&net)).collect();
    assert_eq!(all, [true, false, true, false]);
}

#[test]
fn nobody_listens_and_the_connection_is_refused() {
    let net = Net::new(1, FAIR);
    let client = Host::new();
    let task = client.spawn({
        let net = net.clone();
        async move { net.connect("client", "nobody").await.map(drop) }
    });
    while !task.is_finished() {
        net.pass(&[&client]);
    }
    let done = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let refused = done.block_on(task).unwrap().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
