//! What both ends of a line show each other with mutual TLS.

use std::path::PathBuf;

/// Texts in PEM (RFC 7468).
#[derive(Debug)]
pub struct Pem {
    /// Who we are.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Whose certificates are believed.
    pub authority: Vec<u8>,
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
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        match (read(certificate), read(key), read(authority)) {
            (Ok(certificate), Ok(key), Ok(authority)) => Ok(Some(Pem {
                certificate,
                key,
                authority,
            })),
            (certificate, key, authority) => {
                let wrong = [certificate, key, authority].into_iter();
                let wrong: Vec<String> = wrong.filter_map(Result::err).collect();
                Err(wrong.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_or_none_and_all_that_is_wrong_is_told() {
        let here = Some(PathBuf::from(env!("CARGO_MANIFEST_PATH")));
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
