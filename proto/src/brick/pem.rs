//! What both ends of a line show each other with mutual TLS.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Texts in PEM (RFC 7468).
#[derive(Debug)]
pub struct Pem {
    /// Who we are.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Whose certificates are believed.
    pub authority: Vec<u8>,
    /// Where they were read, for people.
    files: String,
}

impl Pem {
    /// What the three options lead to; `None` where none is given. A sentence when one is missing or cannot be
    /// read: all that cannot are told.
    pub fn read(
        certificate: &Option<PathBuf>,
        key: &Option<PathBuf>,
        authority: &Option<PathBuf>,
    ) -> Result<Option<Pem>, String> {
        let (certificate, key, authority) = match (certificate, key, authority) {
            (None, None, None) => return Ok(None),
            (Some(certificate), Some(key), Some(authority)) => (certificate, key, authority),
            _ => {
                let all = "mutual TLS needs all three: `certificate`, `key` and `authority`";
                return Err(all.into());
            }
        };
        let files = format!(
            "certificate {}, key {}, authority {}",
            certificate.display(),
            key.display(),
            authority.display()
        );
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let secret = |path: &PathBuf| is_secret(path).and_then(|()| read(path));
        match (read(certificate), secret(key), read(authority)) {
            (Ok(certificate), Ok(key), Ok(authority)) => Ok(Some(Pem {
                certificate,
                key,
                authority,
                files,
            })),
            (certificate, key, authority) => {
                let wrong = [certificate, key, authority].into_iter();
                let wrong: Vec<String> = wrong.filter_map(Result::err).collect();
                Err(wrong.join("; "))
            }
        }
    }

    /// Why these three cannot be used, with their names.
    pub fn unusable(&self, error: impl Display) -> String {
        let mut why = error.to_string();
        // rustls' word for it.
        if why.contains("KeyMismatch") {
            why = "the certificate and the key do not belong together".into();
        }
        format!("{why} ({})", self.files)
    }
}

/// Whoever can read the key can be who we are: it has to be root's alone, or of a group that root gave it to.
fn is_secret(key: &Path) -> Result<(), String> {
    let Ok(metadata) = std::fs::metadata(key) else {
        return Ok(()); // to read it says why
    };
    let others = match metadata.uid() {
        0 => 0o037,
        _ => 0o077,
    };
    match metadata.mode() & others {
        0 => Ok(()),
        _ => Err(format!(
            "the key {key} can be read or changed by others (mode {mode:04o}): chmod 600 {key}",
            key = key.display(),
            mode = metadata.mode() & 0o7777
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = Some(file.path().to_owned());
        let read = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            Pem::read(&path, &path, &path)
        };
        assert!(read(0o600).is_ok() && read(0o400).is_ok());
        for mode in [0o644, 0o604, 0o620] {
            let told = read(mode).unwrap_err();
            assert!(told.contains(file.path().to_str().unwrap()), "{told}");
        }
        let told = read(0o600).unwrap().unwrap().unusable("KeyMismatch");
        assert!(told.contains("together") && told.contains(file.path().to_str().unwrap()));
    }

    #[test]
    fn all_three_or_none_and_all_that_is_wrong_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "a key").unwrap();
        let here = Some(file.path().to_owned());
        let [one, other] = ["/no/one", "/no/other"].map(|path| Some(PathBuf::from(path)));
        assert!(Pem::read(&None, &None, &None).unwrap().is_none());
        let pem = Pem::read(&here, &here, &here).unwrap().unwrap();
        assert!(!pem.certificate.is_empty() && pem.certificate == pem.key);
        assert!(
            Pem::read(&here, &None, &here)
                .unwrap_err()
                .contains("all three")
        );
        let told = Pem::read(&one, &here, &other).unwrap_err();
        assert!(
            told.contains("/no/one cannot") && told.contains("/no/other cannot"),
            "{told}"
        );
    }
}
