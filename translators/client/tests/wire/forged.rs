//! Requests that no client of ours sends: the server refuses them as Linux would, and lives.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use hermitfs_api::Translator;
use hermitfs_posix::Posix;
use hermitfs_proto::brick::v1::brick_client::BrickClient;
use hermitfs_proto::brick::{CONTENT_TYPE, Fault, Pieces, VERSION, fault_of, v1};
use hermitfs_server::{Address, Options, Server};
use http_body::Frame;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tower::ServiceExt;

/// A served directory in which there is a secret beside it, and a session.
struct Forger {
    _server: Server,
    runtime: Runtime,
    address: SocketAddr,
    brick: BrickClient<Channel>,
    session: u64,
    root: v1::Entry,
    calls: Cell<u64>,
    // The last to go: nobody works in it any more.
    place: TempDir,
}

fn hello(versions: Vec<u32>, volume: &str) -> v1::HelloRequest {
    v1::HelloRequest {
        versions,
        client: vec![7; 16].into(),
        volume: volume.into(),
        ..v1::HelloRequest::default()
    }
}

impl Forger {
    fn new() -> Forger {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("brick")).unwrap();
        fs::write(place.path().join("secret"), b"not for clients").unwrap();
        let posix = Posix::open(&hermitfs_posix::Options::new(place.path().join("brick"))).unwrap();
        let volumes = vec![("brick".into(), Arc::new(posix) as Arc<dyn Translator>)];
        let options = Options::new("127.0.0.1:0".parse().unwrap());
        let server = Server::open(&options, volumes, &place.path().join("state")).unwrap();
        let Address::Tcp(address) = server.addresses()[0] else {
            panic!("no port");
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let dial = BrickClient::connect(format!("http://{address}"));
        let mut brick = runtime.block_on(dial).unwrap();
        let greeted = runtime
            .block_on(brick.hello(hello(vec![VERSION], "brick")))
            .unwrap();
        let mut forger = Forger {
            place,
            _server: server,
            runtime,
            address,
            brick,
            session: greeted.into_inner().session,
            root: v1::Entry::default(),
            calls: Cell::new(0),
        };
        let head = forger.head();
        let request = v1::RootRequest { head };
        let root = forger.runtime.block_on(forger.brick.root(request)).unwrap();
        forger.root = root.into_inner();
        forger
    }

    fn head(&self) -> Option<v1::Head> {
        let number = self.calls.get() + 1;
        self.calls.set(number);
        Some(v1::Head {
            session: self.session,
            seq: number,
            answered: number,
            ..v1::Head::default()
        })
    }

    /// The error number of an operation that has to be refused by the operation itself.
    #[track_caller]
    fn errno<T>(&self, answer: Result<Response<T>, Status>) -> i32 {
        match fault_of(answer.err().expect("it was done")) {
            Fault::Operation(error) => error.errno().raw(),
            other => panic!("{other:?}"),
        }
    }
}

macro_rules! ask {
    ($forger:ident, $method:ident, $request:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let head = $forger.head();
        #[allow(clippy::needless_update, reason = "some requests have all fields said")]
        let request = v1::$request { head, $($field: $value,)* ..v1::$request::default() };
        $forger.runtime.block_on($forger.brick.clone().$method(request))
    }};
}

const ESTALE: i32 = 116;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const EBADF: i32 = 9;
const EFBIG: i32 = 27;
const E2BIG: i32 = 7;

#[test]
fn an_unknown_version_and_an_unknown_volume_are_answered_with_a_sentence() {
    let forger = Forger::new();
    let mut brick = forger.brick.clone();
    let mut refusal = |request| {
        let reply = forger.runtime.block_on(brick.hello(request)).unwrap();
        reply.into_inner().refusal
    };
    assert!(refusal(hello(vec![VERSION + 1], "brick")).contains("same release"));
    assert!(refusal(hello(vec![VERSION], "other")).contains("no volume `other`"));
    let mut nameless = hello(vec![VERSION], "brick");
    nameless.client = vec![1, 2, 3].into();
    assert!(refusal(nameless).contains("16 bytes"));
}

#[test]
fn without_a_session_there_is_nothing() {
    let forger = Forger::new();
    let request = v1::RootRequest {
        head: Some(v1::Head {
            session: forger.session ^ 1,
            ..v1::Head::default()
        }),
    };
    let answer = forger.runtime.block_on(forger.brick.clone().root(request));
    assert!(matches!(
        fault_of(answer.unwrap_err()),
        Fault::UnknownSession
    ));
    let headless = forger
        .runtime
        .block_on(forger.brick.clone().root(v1::RootRequest::default()));
    assert!(headless.is_err());
}

#[test]
fn names_offsets_sizes_and_flags_are_refused_as_linux_does() {
    let forger = Forger::new();
    let root = forger.root.object.clone();
    for (name, errno) in [
        (&b".."[..], EINVAL),
        (b".", EINVAL),
        (b"../secret", EINVAL),
        (b"a/b", EINVAL),
        (b"a\0", EINVAL),
        (&[b'n'; 256], ENAMETOOLONG),
    ] {
        let name = || bytes::Bytes::copy_from_slice(name);
        let found = ask!(
            forger,
            lookup,
            LookupRequest {
                dir: root.clone(),
                name: name()
            }
        );
        assert_eq!(forger.errno(found), errno, "{name:?}", name = name());
        let made = ask!(
            forger,
            mkdir,
            MkdirRequest {
                dir: root.clone(),
                name: name(),
                mode: 0o700
            }
        );
        assert_eq!(forger.errno(made), errno);
        let gone = ask!(
            forger,
            unlink,
            NameRequest {
                dir: root.clone(),
                name: name()
            }
        );
        assert_eq!(forger.errno(gone), errno);
    }
    let made = ask!(
        forger,
        create,
        CreateRequest {
            dir: root.clone(),
            name: (&b"file"[..]).into(),
            flags: 2,
            mode: 0o600,
        }
    );
    let file = made.unwrap().into_inner().file;
    let read = |at, len| {
        ask!(
            forger,
            read,
            ReadRequest {
                file: file,
                at: at,
                len: len
            }
        )
    };
    assert!(read(0, 1 << 20).is_ok());
    assert_eq!(forger.errno(read(0, (1 << 20) + 1)), E2BIG);
    assert_eq!(forger.errno(read(u64::MAX, 1)), EFBIG);
    assert_eq!(forger.errno(read(i64::MAX as u64, 1)), EFBIG);
    let strange = ask!(
        forger,
        read,
        ReadRequest {
            file: file + 1,
            at: 0,
            len: 1
        }
    );
    assert_eq!(forger.errno(strange), EBADF);
    let sized = ask!(
        forger,
        setattr,
        SetattrRequest {
            object: root.clone(),
            size: Some(u64::MAX)
        }
    );
    assert_eq!(forger.errno(sized), EFBIG);
    let moded = ask!(
        forger,
        setattr,
        SetattrRequest {
            object: root.clone(),
            mode: Some(0o100777)
        }
    );
    assert_eq!(forger.errno(moded), EINVAL);
    for flags in [0o100, 0o200, 0o10000000, 3] {
        let made = ask!(
            forger,
            create,
            CreateRequest {
                dir: root.clone(),
                name: (&b"other"[..]).into(),
                flags: flags,
                mode: 0o600,
            }
        );
        assert_eq!(forger.errno(made), EINVAL, "{flags:o}");
    }
    let value = bytes::Bytes::from(vec![0; (64 << 10) + 1]);
    let set = ask!(
        forger,
        setxattr,
        SetxattrRequest {
            object: root.clone(),
            name: (&b"user.a"[..]).into(),
            value: value,
        }
    );
    assert_eq!(forger.errno(set), E2BIG);
    let target = bytes::Bytes::from(vec![b't'; 4096]);
    let linked = ask!(
        forger,
        symlink,
        SymlinkRequest {
            dir: root.clone(),
            name: (&b"link"[..]).into(),
            target: target,
        }
    );
    assert_eq!(forger.errno(linked), ENAMETOOLONG);
}

#[test]
fn forged_handles_are_stale_whatever_their_bytes() {
    let forger = Forger::new();
    let good = forger.root.object.clone();
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        // A good one with some bytes changed.
        (any::<prop::sample::Index>(), 1..=255u8).prop_map(move |(at, change)| {
            let mut forged = good.to_vec();
            let at = at.index(forged.len());
            forged[at] ^= change;
            forged
        }),
    ];
    let mut runner = TestRunner::new(Config::with_cases(500));
    let tried = runner.run(&bytes, |bytes| {
        let object = bytes::Bytes::from(bytes);
        let answer = ask!(
            forger,
            getattr,
            GetattrRequest {
                object: object.clone()
            }
        );
        prop_assert_eq!(forger.errno(answer), ESTALE);
        let answer = ask!(forger, resolve, ObjectRequest { object: object });
        prop_assert_eq!(forger.errno(answer), ESTALE);
        Ok(())
    });
    tried.unwrap();
}

#[test]
fn content_of_any_length_goes_to_and_comes_from_clients_that_are_not_ours() {
    let forger = Forger::new();
    let create = ask!(
        forger,
        create,
        CreateRequest {
            dir: forger.root.object.clone(),
            name: "file".into(),
            flags: libc::O_RDWR,
            mode: 0o600,
        }
    );
    let file = create.unwrap().into_inner().file;
    for len in [0, 1, 4095, 4096, 70_000, 1 << 20] {
        let data: bytes::Bytes = (0..len).map(|n| (n * 31 % 251) as u8).collect();
        let write = ask!(
            forger,
            write,
            WriteRequest {
                file: file,
                data: data.clone()
            }
        );
        assert_eq!(write.unwrap().into_inner().count, len);
        let read = ask!(
            forger,
            read,
            ReadRequest {
                file: file,
                len: len as u32
            }
        );
        assert!(read.unwrap().into_inner().data == data, "{len}");
    }
}

#[test]
fn bodies_that_are_no_messages_are_refused_and_never_end_the_server() {
    let forger = Forger::new();
    let dial = Channel::from_shared(format!("http://{}", forger.address));
    let channel = forger.runtime.block_on(dial.unwrap().connect()).unwrap();
    let status = |call: &str, body: Vec<Vec<u8>>| {
        let mut said = Pieces::default();
        body.into_iter()
            .for_each(|piece| said.push(Frame::data(piece.into())));
        let mut request = http::Request::post(format!("/hermitfs.brick.v1.Brick/{call}"))
            .body(Body::new(said))
            .unwrap();
        let (name, value) = CONTENT_TYPE;
        request.headers_mut().insert(name, value);
        let answer = forger
            .runtime
            .block_on(channel.clone().oneshot(request))
            .unwrap();
        Status::from_header_map(answer.headers()).map(|status| status.code())
    };
    let body = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4);
    let call = prop::sample::select(vec!["Read", "Write", "Getattr"]);
    let mut runner = TestRunner::new(Config::with_cases(300));
    let tried = runner.run(&(call, body), |(call, body)| {
        let refused = status(call, body);
        prop_assert!(!matches!(refused, None | Some(Code::Ok)), "{refused:?}");
        Ok(())
    });
    tried.unwrap();
    // Longer than any message: refused before all of it is here.
    let frame = [&[0][..], &(3u32 << 20).to_be_bytes()].concat();
    let long = std::iter::once(frame).chain((0..48).map(|_| vec![0; 64 << 10]));
    assert_eq!(status("Write", long.collect()), Some(Code::OutOfRange));
    let root = ask!(forger, root, RootRequest {});
    assert_eq!(root.unwrap().into_inner().object, forger.root.object);
}

#[test]
fn random_requests_never_lead_out_and_never_end_the_server() {
    let forger = Forger::new();
    let outside = |forger: &Forger| {
        let mut names: Vec<_> = fs::read_dir(forger.place.path())
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        names.sort();
        (names, fs::read(forger.place.path().join("secret")).unwrap())
    };
    let before = outside(&forger);
    let name = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        prop::sample::select(vec![
            "a",
            "b",
            "..",
            "../secret",
            "/etc/passwd",
            "a/../..",
            ""
        ])
        .prop_map(|name| name.as_bytes().to_vec()),
    ];
    let request = (
        0..8u8,
        name.clone(),
        name,
        any::<u64>(),
        any::<u64>(),
        any::<i32>(),
    );
    let mut runner = TestRunner::new(Config::with_cases(600));
    let tried = runner.run(&request, |(which, one, other, a, b, flags)| {
        let dir = forger.root.object.clone();
        let (one, other) = (bytes::Bytes::from(one), bytes::Bytes::from(other));
        let fault = match which {
            0 => ask!(
                forger,
                create,
                CreateRequest {
                    dir: dir,
                    name: one,
                    flags: flags,
                    mode: a as u32,
                    umask: b as u32
                }
            )
            .err(),
            1 => ask!(
                forger,
                symlink,
                SymlinkRequest {
                    dir: dir,
                    name: one,
                    target: other
                }
            )
            .err(),
            2 => ask!(
                forger,
                rename,
                RenameRequest {
                    dir: dir.clone(),
                    name: one,
                    new_dir: dir,
                    new_name: other,
                    flags: flags % 4
                }
            )
            .err(),
            3 => ask!(
                forger,
                mknod,
                MknodRequest {
                    dir: dir,
                    name: one,
                    mode: a as u32 & 0o107777,
                    umask: flags as u32,
                    rdev: b
                }
            )
            .err(),
            4 => ask!(
                forger,
                write,
                WriteRequest {
                    file: a % 9,
                    at: b,
                    data: other
                }
            )
            .err(),
            5 => ask!(
                forger,
                fallocate,
                FallocateRequest {
                    file: a % 9,
                    mode: flags & 0x7f,
                    at: b,
                    len: b % 4096
                }
            )
            .err(),
            6 => ask!(
                forger,
                setxattr,
                SetxattrRequest {
                    object: dir,
                    name: one,
                    value: other,
                    flags: flags % 4
                }
            )
            .err(),
            _ => ask!(
                forger,
                readdir,
                ReaddirRequest {
                    object: dir,
                    from: a,
                    max: b as u32,
                    plus: flags % 2 == 0
                }
            )
            .err(),
        };
        if let Some(status) = fault {
            let told = fault_of(status);
            prop_assert!(
                matches!(&told, Fault::Operation(error) if !error.to_string().contains("bug")),
                "{:?}",
                told
            );
        }
        Ok(())
    });
    tried.unwrap();
    assert_eq!(outside(&forger), before);
    assert!(ask!(forger, root, RootRequest {}).is_ok(), "it lives");
}
