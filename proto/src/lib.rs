#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

/// Commands to the daemon of a mount.
pub mod admin {
    /// Version 1.
    #[allow(
        missing_docs,
        clippy::all,
        reason = "generated; the words are in admin.proto"
    )]
    pub mod v1 {
        tonic::include_proto!("hermitfs.admin.v1");
    }
}
