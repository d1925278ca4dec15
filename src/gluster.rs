//! What a volfile written for GlusterFS may say that has no meaning here.
//!
//! It is passed over with a warning, so that such a file mounts as it is; what nobody knows is a
//! mistake all the same.

/// Kinds that nothing here has a use for: the kernel's page cache and read-ahead do what GlusterFS'
/// performance translators were made for.
pub(crate) fn has_nothing_to_do(kind: &str) -> bool {
    kind.starts_with("performance/") || kind == "debug/io-stats"
}

/// Why a kind that GlusterFS has is not taken.
pub(crate) fn why_not(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "mount/fuse" => "the mount is not part of a volfile: `hermitfs mount` makes it",
        "cluster/distribute" | "cluster/dht" | "cluster/disperse" | "cluster/ec" => {
            "this release has `cluster/replicate` alone to put bricks together"
        }
        _ => return None,
    })
}

/// Whether GlusterFS knows this option of this kind.
pub(crate) fn knows_option(kind: &str, option: &str) -> bool {
    let known: &[&str] = match kind {
        "storage/posix" => POSIX,
        "cluster/replicate" => REPLICATE,
        "features/locks" => LOCKS,
        // Who may come is a matter of the address, and of certificates.
        "protocol/server" if option.starts_with("auth.") => return true,
        "protocol/server" => SERVER,
        "protocol/client" => CLIENT,
        _ => &[],
    };
    known.contains(&option) || matches!(option, "log-level")
}

const POSIX: &[&str] = &[
    "background-unlink",
    "batch-fsync-delay-usec",
    "batch-fsync-mode",
    "brick-gid",
    "brick-uid",
    "export-statfs-size",
    "gfid2path",
    "glusterd-uuid",
    "health-check-interval",
    "janitor-sleep-duration",
    "linux-aio",
    "mandate-attribute",
    "node-uuid-pathinfo",
    "o-direct",
    "reserve",
    "shared-brick-count",
    "update-link-count-parent",
    "volume-id",
];

const SERVER: &[&str] = &[
    "auth-path",
    "forget",
    "inode-lru-limit",
    "manage-gids",
    "root-squash",
    "statedump-path",
    "tcp-window-size",
    "transport-type",
    "transport.address-family",
    "transport.listen-backlog",
    "transport.socket.keepalive",
    "transport.socket.keepalive-count",
    "transport.socket.keepalive-interval",
    "transport.socket.keepalive-time",
    "transport.socket.nodelay",
    "transport.tcp-user-timeout",
    "trusted-user",
    "volfile-server",
];

const CLIENT: &[&str] = &[
    "filter-O_DIRECT",
    "frame-timeout",
    "password",
    "send-gids",
    "strict-locks",
    "tcp-window-size",
    "transport-type",
    "transport.address-family",
    "transport.socket.keepalive",
    "transport.socket.keepalive-count",
    "transport.socket.keepalive-interval",
    "transport.socket.keepalive-time",
    "transport.socket.nodelay",
    "transport.tcp-user-timeout",
    "username",
    "volfile-server",
];

const LOCKS: &[&str] = &[
    "enforce-mandatory-lock",
    "lock-migration-in-progress",
    "mandatory-locking",
    "monkey-unlocking",
    "notify-contention",
    "notify-contention-delay",
    "revocation-clear-all",
    "revocation-max-blocked",
    "revocation-secs",
    "trace",
];

const REPLICATE: &[&str] = &[
    "afr-dirty-xattr",
    "afr-pending-xattr",
    "background-self-heal-count",
    "choose-local",
    "consistent-metadata",
    "data-self-heal",
    "data-self-heal-algorithm",
    "data-self-heal-window-size",
    "eager-lock",
    "ensure-durability",
    "entry-self-heal",
    "favorite-child",
    "favorite-child-policy",
    "full-lock",
    "granular-entry-heal",
    "heal-timeout",
    "heal-wait-queue-length",
    "iam-self-heal-daemon",
    "locking-scheme",
    "metadata-self-heal",
    "post-op-delay-secs",
    "quorum-count",
    "quorum-type",
    "read-hash-mode",
    "read-subvolume",
    "read-subvolume-index",
    "self-heal-daemon",
    "self-heal-readdir-size",
    "shd-max-threads",
    "use-compound-fops",
    "volume-id",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::fields;

    #[test]
    fn options_of_our_own_are_never_passed_over() {
        let own = [
            ("storage/posix", fields::<hermitfs_posix::Options>()),
            ("cluster/replicate", fields::<hermitfs_replicate::Options>()),
            ("protocol/client", fields::<hermitfs_client::Options>()),
            ("protocol/server", fields::<hermitfs_server::Options>()),
            ("features/locks", fields::<hermitfs_locks::Options>()),
        ];
        for (kind, options) in own {
            for option in options.unwrap() {
                assert!(!knows_option(kind, option), "{kind} {option}");
            }
        }
    }
}
