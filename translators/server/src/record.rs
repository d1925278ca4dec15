//! What is kept of changing calls across a restart: one record after the other, each with its
//! length and a checksum. What is torn at the end was never begun.

use hermitfs_proto::brick::v1;

/// One line of the file.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Record {
    /// 16 bytes; none in the first record, which has `boot`.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) client: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) seq: u64,
    #[prost(oneof = "What", tags = "3, 4, 5, 6, 7, 8")]
    pub(crate) what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum What {
    /// The machine's boot in which all this holds.
    #[prost(string, tag = "3")]
    Boot(String),
    /// A client is known: whatever it sends for the first time from this number on is kept here.
    #[prost(uint64, tag = "4")]
    Known(u64),
    /// A call is about to be done.
    #[prost(message, tag = "5")]
    Begin(Intent),
    /// It was done, and this is its answer.
    #[prost(message, tag = "6")]
    End(Reply),
    /// It was begun when a server ended, and this is what became of it.
    #[prost(message, tag = "7")]
    Verdict(Verdict),
    /// The client has said Bye.
    #[prost(bool, tag = "8")]
    Gone(bool),
}

/// What a call is about to do, and what is needed to find out later whether it was done.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Intent {
    #[prost(string, tag = "1")]
    pub(crate) export: String,
    #[prost(enumeration = "Kind", tag = "2")]
    pub(crate) kind: i32,
    /// Sealed handles, and names in them.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) dir: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) name: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) new_dir: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) new_name: Vec<u8>,
    /// What is linked, appended to, or bears the attribute `name`.
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) object: Vec<u8>,
    #[prost(message, optional, tag = "8")]
    pub(crate) before: Option<Before>,
    /// How a created file is opened.
    #[prost(int32, tag = "9")]
    pub(crate) flags: i32,
    /// Of what is appended.
    #[prost(uint64, tag = "10")]
    pub(crate) len: u64,
    #[prost(bytes = "vec", tag = "11")]
    pub(crate) hash: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    /// Nobody can find out.
    Blind = 0,
    /// create, mknod, mkdir, symlink
    Make = 1,
    Link = 2,
    /// unlink, rmdir
    Remove = 3,
    Rename = 4,
    Exchange = 5,
    Append = 6,
    /// An attribute that must not be there yet, or must be there.
    SetXattr = 7,
    RemoveXattr = 8,
    /// A rename that leaves a whiteout at the old name.
    Whiteout = 9,
}

/// What was there before.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Before {
    #[prost(message, optional, tag = "1")]
    pub(crate) at_name: Option<v1::Identity>,
    #[prost(message, optional, tag = "2")]
    pub(crate) at_new_name: Option<v1::Identity>,
    /// Size of a file that is appended to.
    #[prost(uint64, tag = "3")]
    pub(crate) size: u64,
    /// Whether the attribute was there.
    #[prost(bool, tag = "4")]
    pub(crate) has: bool,
}

/// An answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reply {
    /// 0: it succeeded.
    #[prost(int32, tag = "1")]
    pub(crate) errno: i32,
    #[prost(string, tag = "2")]
    pub(crate) story: String,
    /// The message.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) message: Vec<u8>,
    /// In which numbers of files hold.
    #[prost(fixed64, tag = "4")]
    pub(crate) session: u64,
}

/// What became of a call that was begun when a server ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Verdict {
    #[prost(enumeration = "Became", tag = "1")]
    pub(crate) became: i32,
    /// What was made.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) made: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub(crate) intent: Option<Intent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Became {
    Unknown = 0,
    Done = 1,
    Untouched = 2,
}

/// Length and checksum in front of each record.
const FRAME: usize = 4 + 8;
/// Longer than any record of ours.
const LONGEST: usize = 1 << 20;

/// As it stands in the file.
pub(crate) fn framed(record: &Record) -> Vec<u8> {
    let payload = prost::Message::encode_to_vec(record);
    let mut bytes = Vec::with_capacity(FRAME + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum(&payload));
    bytes.extend_from_slice(&payload);
    bytes
}

/// All records up to the first that is not whole.
pub(crate) fn read(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((record, rest)) = first(bytes) {
        records.push(record);
        bytes = rest;
    }
    records
}

fn first(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (len, bytes) = bytes.split_first_chunk::<4>()?;
    let (sum, bytes) = bytes.split_first_chunk::<8>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > LONGEST || len > bytes.len() {
        return None;
    }
    let (payload, rest) = bytes.split_at(len);
    let record = prost::Message::decode(payload).ok()?;
    (checksum(payload) == *sum).then_some((record, rest))
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_damaged_end_is_left_out() {
        let record = |seq| Record {
            client: vec![7; 16],
            seq,
            what: Some(What::Begin(Intent {
                export: "home".into(),
                name: b"name".to_vec(),
                ..Intent::default()
            })),
        };
        let bytes = [framed(&record(1)), framed(&record(2))].concat();
        assert_eq!(read(&bytes), [record(1), record(2)]);
        for end in 0..bytes.len() {
            let whole = usize::from(end >= bytes.len() / 2);
            assert_eq!(read(&bytes[..end]).len(), whole, "{end}");
        }
        for at in bytes.len() / 2..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), [record(1)], "{at}");
        }
    }
}
