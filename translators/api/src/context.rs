/// On whose behalf an operation runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A process that uses the mount.
    #[default]
    User,
    /// The healer, making a sink equal.
    Heal,
    /// A comparison of both sides.
    Verify,
    /// An administrator's command, and hermitfs' own housekeeping.
    Admin,
}

impl Origin {
    /// Our own traffic, as against a user's.
    pub fn is_internal(self) -> bool {
        self != Origin::User
    }
}

/// Who asks: credentials of the calling process, and the origin of the operation.
///
/// Permissions are checked by the kernel before a request comes to the door; these are for
/// creating as the caller, for quotas and for clearing set-id bits as the kernel would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// File-system user id of the caller.
    pub uid: u32,
    /// File-system group id of the caller.
    pub gid: u32,
    /// Process (thread group or thread, as the kernel gives it); 0 when unknown. Supplementary
    /// groups, which FUSE does not send, are found through it where they matter.
    pub pid: u32,
    /// On whose behalf.
    pub origin: Origin,
    /// Which client of a server asks; 0 for this process' own mount. Lock owners and process ids
    /// are unique within one client only.
    pub client: u64,
}

impl Context {
    /// hermitfs itself, as root.
    pub const fn internal(origin: Origin) -> Context {
        Context {
            uid: 0,
            gid: 0,
            pid: 0,
            origin,
            client: 0,
        }
    }
}
