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

/// Bricks over the wire.
pub mod brick {
    mod calls;
    mod compound;
    mod convert;
    mod laden;
    mod pem;
    mod socket;
    mod status;

    pub use compound::{MAX_SMALL, MAX_TOGETHER};
    pub use convert::Malformed;
    pub use laden::{CONTENT_TYPE, Heard, Laden, Pieces, READ, WRITE};
    pub use pem::Pem;
    pub use socket::widen;
    pub use status::{Fault, fault_of, status_of, unknown_session};

    /// The version that this release speaks.
    pub const VERSION: u32 = 1;

    /// The capability to answer a changing call that comes twice as it was answered once.
    pub const REPLIES: &str = "replies";

    /// Of a client: it lets go of what a server holds for it after the last name went.
    pub const HOLDS: &str = "holds-removed";

    /// Bytes of content that one call may have.
    pub const MAX_DATA: usize = 1 << 20;

    /// Bytes that one message may have: content, and all that stands beside it.
    pub const MAX_MESSAGE: usize = MAX_DATA + (64 << 10);

    /// Version 1.
    #[allow(
        missing_docs,
        clippy::all,
        reason = "generated; the words are in brick.proto"
    )]
    pub mod v1 {
        tonic::include_proto!("hermitfs.brick.v1");
    }
}
