//! Handles as the wire has them: sealed, so that only what this server gave comes back.

use bytes::Bytes;
use hermitfs_api::Handle;

const VERSION: u8 = 1;
const MAC: usize = 16;

/// What seals the handles of one export: those of another are as bad as forged ones.
pub(crate) struct Seal([u8; 32]);

impl Seal {
    /// Of an export, by the server's key and its name.
    pub(crate) fn new(key: &[u8; 32], export: &str) -> Seal {
        let material = [&key[..], export.as_bytes()].concat();
        Seal(blake3::derive_key(
            "hermitfs 2026 brick/v1 sealed handles",
            &material,
        ))
    }

    /// Version, seal, handle.
    pub(crate) fn seal(&self, handle: &Handle) -> Bytes {
        let mut sealed = Vec::with_capacity(1 + MAC + handle.as_bytes().len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.mac(handle.as_bytes()));
        sealed.extend_from_slice(handle.as_bytes());
        sealed.into()
    }

    /// The handle within; `None` when it is not of our making.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Handle> {
        let (&version, rest) = sealed.split_first()?;
        let (mac, handle) = rest.split_first_chunk::<MAC>()?;
        let expected = self.mac(handle);
        // In the same time wherever they differ, so that nobody can feel his way to a good one.
        let differs = mac.iter().zip(&expected).fold(0, |d, (a, b)| d | (a ^ b));
        (version == VERSION && differs == 0).then(|| Handle::new(handle))
    }

    fn mac(&self, handle: &[u8]) -> [u8; MAC] {
        let hash = blake3::keyed_hash(&self.0, handle);
        let mut mac = [0; MAC];
        mac.copy_from_slice(&hash.as_bytes()[..MAC]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_here_opens() {
        let seal = Seal::new(&[7; 32], "home");
        let handle = Handle::new(b"ino 42");
        let sealed = seal.seal(&handle);
        assert_eq!(seal.open(&sealed), Some(handle.clone()));
        assert_eq!(
            Seal::new(&[7; 32], "home").seal(&handle),
            sealed,
            "for ever"
        );
        assert_eq!(Seal::new(&[7; 32], "other").open(&sealed), None);
        assert_eq!(Seal::new(&[8; 32], "home").open(&sealed), None);
    }

    #[test]
    fn a_change_of_any_bit_breaks_it() {
        let seal = Seal::new(&[7; 32], "home");
        let sealed = seal.seal(&Handle::new(b"ino 42"));
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(&forged), None, "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert_eq!(seal.open(&sealed[..len]), None, "{len} bytes");
        }
    }
}
