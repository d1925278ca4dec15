//! How many files the daemon may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What users have open is open here, too, and a brick without handles takes a descriptor for each object
/// in use. So the limit is the kernel's own (`fs.nr_open`) where we may raise it (CAP_SYS_RESOURCE), else the
/// highest that the starter allows.
pub(super) fn raise() {
    let allowed = getrlimit(Resource::Nofile).maximum;
    let kernels = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let kernels = kernels.and_then(|most| most.trim().parse().ok());
    let mut tried = Ok(());
    for limit in wanted(allowed, kernels) {
        tried = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        );
        if tried.is_ok() {
            return;
        }
    }
    if let Err(error) = tried {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// What to try, the highest first; `None` is no limit.
fn wanted(allowed: Option<u64>, kernels: Option<u64>) -> impl Iterator<Item = Option<u64>> {
    let higher = kernels.filter(|most| allowed.is_some_and(|allowed| allowed < *most));
    higher.map(Some).into_iter().chain([allowed])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_limit_is_tried_first_and_never_less_than_what_is_allowed() {
        let tried = |allowed, kernels| wanted(allowed, kernels).collect::<Vec<_>>();
        assert_eq!(
            tried(Some(20_000), Some(1_048_576)),
            [Some(1_048_576), Some(20_000)]
        );
        assert_eq!(tried(Some(1_048_576), Some(1_048_576)), [Some(1_048_576)]);
        assert_eq!(tried(Some(1_048_576), Some(20_000)), [Some(1_048_576)]);
        assert_eq!(tried(Some(20_000), None), [Some(20_000)]);
        assert_eq!(tried(None, Some(20_000)), [None]);
    }
}
