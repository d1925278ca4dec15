//! Who may come: mutual TLS, versions, and what is refused at the start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hermitfs_api::{Context, Origin, Translator, block_on};
use hermitfs_client::{Client, OpenError, Options};
use hermitfs_server::{OpenError as ServerError, Options as ServerOptions, Server};
use hermitfs_testkit::Memory;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Files of one end.
struct Papers {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Papers that this authority has signed, for an end that believes `believed`.
    fn papers(&self, place: &Path, name: &str, believed: &Authority, expired: bool) -> Papers {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |what: &str, text: String| {
            let path = place.join(format!("{name}.{what}"));
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        Papers {
            certificate: write("crt", certificate.pem()),
            key: write("key", key.serialize_pem()),
            authority: write("ca", believed.certificate.clone()),
        }
    }
}

struct Served {
    authority: Authority,
    server: Server,
    // The last to go: nobody works in it any more.
    place: TempDir,
}

impl Served {
    fn new() -> Served {
        let (place, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let papers = authority.papers(place.path(), "server", &authority, false);
        let mut options = ServerOptions::new("127.0.0.1:0".parse().unwrap());
        options.certificate = Some(papers.certificate);
        options.key = Some(papers.key);
        options.authority = Some(papers.authority);
        let volumes = vec![(
            "brick".into(),
            Arc::new(Memory::new()) as Arc<dyn Translator>,
        )];
        let server = Server::open(&options, volumes, &place.path().join("state")).unwrap();
        Served {
            place,
            authority,
            server,
        }
    }

    fn options(&self, papers: Option<Papers>) -> Options {
        let address = self.server.addresses()[0].to_string();
        let mut options = Options::new(address.parse().unwrap(), "brick");
        options.grace = 1;
        if let Some(papers) = papers {
            options.certificate = Some(papers.certificate);
            options.key = Some(papers.key);
            options.authority = Some(papers.authority);
        }
        options
    }

    /// Why it was not let in.
    fn refuses(&self, options: &Options) -> OpenError {
        let refused = Client::open(options).err().expect("it was let in");
        assert!(self.server.clients().is_empty());
        refused
    }
}

#[test]
fn who_has_papers_of_the_authority_works_and_nobody_else_gets_anything() {
    let served = Served::new();
    let (place, ours, foreign) = (served.place.path(), &served.authority, Authority::new());
    let good = ours.papers(place, "good", ours, false);
    let client = Client::open(&served.options(Some(good))).unwrap();
    block_on(client.root(&Context::internal(Origin::User))).unwrap();
    drop(client);
    let none = served.refuses(&served.options(None));
    assert!(matches!(none, OpenError::NoAnswer { .. }), "{none}");
    for papers in [
        foreign.papers(place, "foreign", ours, false),
        ours.papers(place, "expired", ours, true),
        // The other way round: a server that our authority has not signed is none for us.
        ours.papers(place, "wary", &foreign, false),
    ] {
        // It is told long before the end of the grace.
        let mut options = served.options(Some(papers));
        options.grace = 3600;
        let told = served.refuses(&options);
        assert!(matches!(told, OpenError::Distrusted { .. }), "{told}");
    }
}

#[test]
fn a_server_without_tls_is_told_as_one() {
    let (place, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let volumes = vec![(
        "brick".into(),
        Arc::new(Memory::new()) as Arc<dyn Translator>,
    )];
    let plain = ServerOptions::new("127.0.0.1:0".parse().unwrap());
    let server = Server::open(&plain, volumes, &place.path().join("state")).unwrap();
    let papers = ours.papers(place.path(), "client", &ours, false);
    let address = server.addresses()[0].to_string();
    let mut options = Options::new(address.parse().unwrap(), "brick");
    options.certificate = Some(papers.certificate);
    options.key = Some(papers.key);
    options.authority = Some(papers.authority);
    let told = Client::open(&options).err().expect("it was let in");
    assert!(matches!(told, OpenError::Distrusted { .. }), "{told}");
    assert!(told.to_string().contains("does not speak TLS"), "{told}");
}

#[test]
fn other_machines_are_refused_at_the_start_without_tls() {
    let place = tempfile::tempdir().unwrap();
    let options = Options::new("192.0.2.1:24007".parse().unwrap(), "brick");
    assert!(matches!(Client::open(&options), Err(OpenError::Plain(_))));
    let open = |address: &str| {
        let options = ServerOptions::new(address.parse().unwrap());
        let volumes = vec![(
            "brick".into(),
            Arc::new(Memory::new()) as Arc<dyn Translator>,
        )];
        Server::open(&options, volumes, place.path()).err()
    };
    assert!(matches!(open("0.0.0.0:0"), Some(ServerError::Plain(_))));
    assert!(open("127.0.0.1:0").is_none());
}

#[test]
fn half_of_the_papers_are_refused_with_what_is_missing() {
    let mut options = Options::new("127.0.0.1:1".parse().unwrap(), "brick");
    options.certificate = Some("/nowhere".into());
    let error = Client::open(&options).err().unwrap().to_string();
    assert!(error.contains("all three"), "{error}");
}
