//! A line through which all bytes of a connection pass: slowly, or written down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that travel together.
const PIECE: usize = 4096;

/// How a line is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// Bytes a second, each way; as many as there are without it.
    pub rate: Option<u64>,
    /// From one end to the other.
    pub delay: Duration,
    /// Whether what passes is kept.
    pub records: bool,
}

/// Listens at one address, and passes on to another; ends when dropped, with all connections.
pub struct Proxy {
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    quality: Quality,
    ends: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    /// What passed, of each connection and direction.
    streams: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
}

impl Proxy {
    /// Begins, on the host where this is called.
    pub fn start(listen: &str, target: &str, quality: Quality) -> Proxy {
        let listener = TcpListener::bind(listen).unwrap();
        listener.set_nonblocking(true).unwrap();
        let target: SocketAddr = target.parse().unwrap();
        let shared = Arc::new(Shared {
            quality,
            ends: AtomicBool::new(false),
            open: Mutex::default(),
            streams: Mutex::default(),
        });
        let state = shared.clone();
        let listening = thread::spawn(move || {
            while !state.ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => drop(state.connect(near, target)),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Proxy {
            shared,
            listening: Some(listening),
        }
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.open.lock().unwrap().len() / 2
    }

    /// What passed, of each connection and direction.
    pub fn streams(&self) -> Vec<Vec<u8>> {
        let streams = self.shared.streams.lock().unwrap();
        let streams = streams.iter().map(|stream| stream.lock().unwrap().clone());
        streams.filter(|stream| !stream.is_empty()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Shared {
    fn connect(&self, near: TcpStream, target: SocketAddr) -> io::Result<()> {
        near.set_nonblocking(false)?;
        let far = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
        let mut open = self.open.lock().unwrap();
        for (from, to) in [(&near, &far), (&far, &near)] {
            to.set_nodelay(true)?;
            open.push(from.try_clone()?);
            self.pump(from.try_clone()?, to.try_clone()?);
        }
        Ok(())
    }

    /// One direction: who reads keeps to the rate, who writes to the delay. No more is on its way
    /// than the line holds, so that the sender feels how slow it is.
    fn pump(&self, mut from: TcpStream, to: TcpStream) {
        let quality = self.quality;
        let record = quality.records.then(|| {
            let stream = Arc::new(Mutex::new(Vec::new()));
            self.streams.lock().unwrap().push(stream.clone());
            stream
        });
        let held = quality.rate.map_or(16, |rate| {
            1 + (rate as f64 * quality.delay.as_secs_f64()) as usize / PIECE
        });
        let (send, receive) = sync_channel::<(Instant, Vec<u8>)>(held);
        thread::spawn(move || deliver(&receive, to));
        let mut read = move || -> io::Result<()> {
            let mut free = Instant::now();
            let mut piece = [0; PIECE];
            loop {
                let len = match from.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                if let Some(record) = &record {
                    record.lock().unwrap().extend_from_slice(&piece[..len]);
                }
                if let Some(rate) = quality.rate {
                    free = free.max(Instant::now())
                        + Duration::from_secs_f64(len as f64 / rate as f64);
                    thread::sleep(free.saturating_duration_since(Instant::now()));
                }
                pass(
                    &send,
                    (Instant::now() + quality.delay, piece[..len].to_vec()),
                )?;
            }
        };
        thread::spawn(move || drop(read()));
    }
}

fn pass(send: &SyncSender<(Instant, Vec<u8>)>, piece: (Instant, Vec<u8>)) -> io::Result<()> {
    send.send(piece)
        .map_err(|_| io::Error::from(ErrorKind::BrokenPipe))
}

fn deliver(receive: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, piece) in receive {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Why a stream is not TLS from its first byte to its last, if so: records of types and versions
/// that there are, which begin with a handshake. A record that was cut off at the end is none.
pub fn not_tls(stream: &[u8]) -> Option<String> {
    const HANDSHAKE: u8 = 22;
    let (mut rest, mut at) = (stream, 0);
    while let [kind, 3, minor, high, low, body @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let is_record = (20..=23).contains(kind) && *minor <= 4 && len <= (1 << 14) + 256;
        if !is_record || (at == 0 && *kind != HANDSHAKE) {
            return Some(format!("no record at {at}: {:?}", &rest[..5]));
        }
        rest = body.get(len..)?;
        at = stream.len() - rest.len();
    }
    (rest.len() >= 5 || at == 0).then(|| {
        let seen = &rest[..rest.len().min(16)];
        format!("no TLS at {at}: {:?}", String::from_utf8_lossy(seen))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tls_is_told() {
        let hello = [&[22, 3, 1, 0, 2][..], b"hi", &[23, 3, 3, 0, 1], b"x"].concat();
        assert_eq!(not_tls(&hello), None);
        assert_eq!(not_tls(&hello[..hello.len() - 1]), None);
        assert!(not_tls(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_some());
        assert!(not_tls(&[23, 3, 3, 0, 1, 0]).is_some(), "no handshake");
        let behind = [&hello[..], b"plain text"].concat();
        assert!(not_tls(&behind).is_some());
    }

    #[test]
    fn a_slow_line_is_slow_and_whole_and_written_down() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap().to_string();
        drop(free);
        let quality = Quality {
            rate: Some(100_000),
            delay: Duration::from_millis(100),
            records: true,
        };
        let proxy = Proxy::start(&listen, &target, quality);
        let content: Vec<u8> = (0..50_000_u32).map(|at| (at % 251) as u8).collect();
        let began = Instant::now();
        let mut near = TcpStream::connect(&listen).unwrap();
        near.write_all(&content).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert!(got == content);
        assert!(began.elapsed() >= Duration::from_millis(550));
        assert!(proxy.streams()[0] == content);
    }
}
