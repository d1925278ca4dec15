//! What a process has from whoever started it and would hand on to all who use the mount: limits,
//! signals, priorities, variables. A daemon makes itself its own; what it cannot change it says, and what
//! would take the mount away from everybody is refused.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit, umask,
};
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

use crate::exit::{Failure, Result};
use crate::mounts::Mounts;
use crate::sys;

/// One of the last to be killed for want of memory: with it goes everybody's mount.
const OOM_SCORE: i32 = -900;

/// Enough for the first thread, which no limit of a library keeps.
const STACK: u64 = 8 << 20;

/// Limits that end a process or have it fail, with what they are called.
const DEADLY: [(Resource, &str, &str); 5] = [
    (Resource::Fsize, "ulimit -f", "write files beyond {} bytes"),
    (Resource::Cpu, "ulimit -t", "work for more than {} s"),
    (
        Resource::As,
        "ulimit -v",
        "use more than {} bytes of memory",
    ),
    (
        Resource::Data,
        "ulimit -d",
        "use more than {} bytes of memory",
    ),
    (
        Resource::Rttime,
        "ulimit -R",
        "work for more than {} us without a pause",
    ),
];

/// Variables of the starter that a daemon goes on with; what `${name}`s stand for is in its order.
const KEPT: [&str; 5] = [
    "GLIBC_TUNABLES",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TZ",
    "TMPDIR",
];

/// The variables that a daemon is started with.
pub(super) fn variables() -> impl Iterator<Item = (OsString, OsString)> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let kept = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("HERMITFS_") || KEPT.contains(&&*name)
    });
    let ours = [("PATH", path), ("LC_ALL", "C")].map(|(name, value)| (name.into(), value.into()));
    ours.into_iter().chain(kept)
}

/// What would end it, or have users' calls fail. To be called first of all, also where a service
/// manager has chosen the rest.
pub(super) fn unbind() -> Result<()> {
    sys::reset_signals();
    // What users make has their own umask; files of ours say theirs.
    umask(Mode::RWXG | Mode::RWXO);
    let stack = getrlimit(Resource::Stack);
    if stack.current.is_some_and(|now| now < STACK) {
        let wanted = stack.maximum.map_or(STACK, |most| most.min(STACK));
        let _ = set(Resource::Stack, Some(wanted), stack.maximum);
    }
    for resource in [
        Resource::Rss,
        Resource::Nproc,
        Resource::Locks,
        Resource::Sigpending,
    ] {
        lift(resource);
    }
    let left = DEADLY.iter().find_map(|(resource, name, what)| {
        let limit = lift(*resource)?;
        Some((name, what.replace("{}", &limit.to_string())))
    });
    match left {
        None => Ok(()),
        Some((name, what)) => Err(Failure::configuration(format!(
            "whoever starts hermitfs here may not {what} (`{name}`), which would hold for everybody who uses the mount, \
             and that limit cannot be lifted: start it from a shell that has none, or by a service manager"
        ))),
    }
}

/// Lifts a limit as far as may be; what is left of it.
fn lift(resource: Resource) -> Option<u64> {
    let now = getrlimit(resource);
    if now.current.is_none() || set(resource, None, None) {
        return None;
    }
    match now.maximum {
        Some(most) => {
            set(resource, Some(most), Some(most));
            Some(most)
        }
        None => (!set(resource, None, None)).then_some(now.current?),
    }
}

fn set(resource: Resource, current: Option<u64>, maximum: Option<u64>) -> bool {
    setrlimit(resource, Rlimit { current, maximum }).is_ok()
}

/// The rest, of a daemon that leaves its starter: what it could not change, in sentences.
pub(super) fn leave() -> Vec<String> {
    let mut left = Vec::new();
    if getpriority_process(None).is_ok_and(|nice| nice > 0)
        && let Err(error) = setpriority_process(None, 0)
    {
        left.push(format!("its low priority (`nice`) stays: {error}"));
    }
    sys::schedule_as_others();
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    // The kernel takes those that are there, and that its control group may use.
    let _ = sched_setaffinity(None, &all);
    let _ = set_current_timer_slack(None);
    left.extend(oom_score());
    left.extend(leave_session());
    left
}

/// Sentences about what nobody can change for itself. `status`: /proc/self/status.
pub(super) fn told(status: &str) -> Vec<String> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default()
    };
    let mut told = Vec::new();
    let held = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(u64::MAX);
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(bit, _)| held & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        told.push(format!(
            "it runs without {}: what needs that fails, for users of the mount as well",
            missing.join(", ")
        ));
    }
    if field("Seccomp:") == "2" {
        told.push("a filter of system calls (seccomp) is on it: what that forbids fails".into());
    }
    told
}

/// What bricks, other users' files and mounts take, with the kernel's numbers. Without
/// `CAP_SYS_RESOURCE` all works; its limits are looked at one by one.
const NEEDED: [(u32, &str); 12] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (9, "CAP_LINUX_IMMUTABLE"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
    (31, "CAP_SETFCAP"),
];

/// Says so where it would be killed before others.
fn oom_score() -> Option<String> {
    let file = "/proc/self/oom_score_adj";
    let now = || -> Option<i32> { fs::read_to_string(file).ok()?.trim().parse().ok() };
    for wanted in [OOM_SCORE, 0] {
        if now().is_some_and(|now| now > wanted) {
            let _ = fs::write(file, wanted.to_string());
        }
    }
    let score = now().filter(|score| *score > 0)?;
    Some(format!(
        "it is killed before others when memory is short (oom_score_adj is {score}, and may not be lowered)"
    ))
}

/// Goes out of a login session, which takes what is in it along when it ends and has limits for a person.
/// Where a service manager has put it, it stays.
fn leave_session() -> Vec<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = Mounts::read().unwrap_or_default();
    let mut stays = Vec::new();
    for (controllers, path) in sessions(&groups) {
        let moved = root_of(controllers, &mounts)
            .map(|root| fs::write(root.join("cgroup.procs"), std::process::id().to_string()));
        match moved {
            Some(Ok(())) => {}
            Some(Err(error)) => stays.push(format!("{path} ({error})")),
            None => stays.push(format!("{path} (no root of its hierarchy is mounted)")),
        }
    }
    match stays.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "it stays in the control group of a login session, with its limits, and may end with it: {}; start it by a \
             unit, or by `systemd-run`",
            stays.join(", ")
        )],
    }
}

/// Hierarchies, by their controllers, in which this is part of a login session, and where.
fn sessions(groups: &str) -> impl Iterator<Item = (&str, &str)> {
    let fields = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    fields.filter(|(_, path)| path.starts_with("/user.slice/"))
}

/// The root of a hierarchy: the second version has no controllers' names.
fn root_of(controllers: &str, mounts: &Mounts) -> Option<PathBuf> {
    let is_it = |options: &str| {
        let has = |wanted: &str| options.split(',').any(|option| option == wanted);
        controllers.split(',').all(has)
    };
    let mount = mounts.0.iter().find(|mount| match controllers {
        "" => mount.kind == "cgroup2",
        _ => mount.kind == "cgroup" && is_it(&mount.super_options),
    })?;
    (mount.root == Path::new("/")).then(|| mount.point.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_left_and_a_service_is_not() {
        let all = |text| sessions(text).collect::<Vec<_>>();
        let session = "0::/user.slice/user-0.slice/session-3.scope\n";
        assert_eq!(
            all(session),
            [("", "/user.slice/user-0.slice/session-3.scope")]
        );
        assert!(all("0::/system.slice/cron.service\n0::/\n0::/init.scope\n").is_empty());
        let first =
            "4:cpu,cpuacct:/user.slice/x\n1:name=systemd:/user.slice/x/session-1.scope\n3:pids:/\n";
        assert_eq!(
            all(first),
            [
                ("cpu,cpuacct", "/user.slice/x"),
                ("name=systemd", "/user.slice/x/session-1.scope")
            ]
        );
    }

    #[test]
    fn a_hierarchy_is_found_by_its_controllers() {
        let mounts = Mounts::parse(
            b"1 0 0:1 / / rw - ext4 a rw\n\
              2 1 0:2 / /cg/unified rw - cgroup2 cgroup2 rw\n\
              3 1 0:3 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
              4 1 0:4 /in /cg/pids rw - cgroup cgroup rw,pids\n",
        );
        let root = |controllers| root_of(controllers, &mounts);
        assert_eq!(root(""), Some("/cg/unified".into()));
        assert_eq!(root("cpu,cpuacct"), Some("/cg/cpu".into()));
        assert_eq!(root("pids"), None, "what is mounted is no root");
        assert_eq!(root("memory"), None);
    }

    #[test]
    fn what_is_withheld_is_told() {
        assert!(told("CapEff:\t000001ffffffffff\nSeccomp:\t0\n").is_empty());
        // CAP_SYS_RESOURCE.
        assert!(told("CapEff:\t000001fffeffffff\nSeccomp:\t0\n").is_empty());
        let docker = told("CapEff:\t00000000a80425fb\nSeccomp:\t2\n");
        assert!(
            docker[0].contains(
                "CAP_DAC_READ_SEARCH, CAP_LINUX_IMMUTABLE, CAP_SYS_PTRACE, CAP_SYS_ADMIN:"
            )
        );
        assert!(docker[1].contains("seccomp"));
    }

    #[test]
    fn the_starters_variables_stay_behind() {
        let names: Vec<_> = variables().map(|(name, _)| name).collect();
        assert!(names.contains(&"PATH".into()) && !names.contains(&"LD_PRELOAD".into()));
        assert!(
            !names.contains(&"NOTIFY_SOCKET".into()) && !names.contains(&"CARGO_PKG_NAME".into())
        );
    }
}
