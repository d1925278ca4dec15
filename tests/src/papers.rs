//! Certificates for mutual TLS, as the volfiles name them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::lab::Lab;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Another one.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// A directory in the lab with the papers of a host: signed by this authority, for whoever
    /// believes it.
    pub fn papers(&self, lab: &Lab, name: &str, host: &str) -> PathBuf {
        self.sign(&lab.dir(name), host, &self.certificate, false)
    }

    /// The same, but their time is over.
    pub fn expired(&self, lab: &Lab, name: &str, host: &str) -> PathBuf {
        self.sign(&lab.dir(name), host, &self.certificate, true)
    }

    /// The same, signed by this authority, but for one who believes another.
    pub fn for_one_who_believes(&self, other: &Authority, lab: &Lab, name: &str) -> PathBuf {
        self.sign(&lab.dir(name), "client", &other.certificate, false)
    }

    fn sign(&self, place: &Path, host: &str, believed: &str, expired: bool) -> PathBuf {
        let mut params = CertificateParams::new(vec![host.into()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        for (name, text) in [
            ("this.pem", certificate.pem()),
            ("this.key", key.serialize_pem()),
            ("authority.pem", believed.to_owned()),
        ] {
            write_secret(&place.join(name), &text);
        }
        place.to_owned()
    }
}

/// A file that nobody else can read.
pub fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
