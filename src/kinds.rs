//! The registry: every kind of translator that a volfile can name, in one list.

use serde::Deserialize;

mod wire;

use crate::bricks::Stand;
use crate::gluster;
use crate::volfile::{At, Finding, Syntax, Text, Value, Volume, decode};

/// How many volumes stand below one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// None: it serves something of its own.
    Leaf,
    /// One.
    Filter,
    /// Several.
    FanOut,
    /// Any number: each is a volume that clients may have. Nothing stands above it.
    Door,
}

/// The options of a volume, decoded.
#[derive(Clone, Debug)]
pub(crate) enum Settings {
    Posix(hermitfs_posix::Options),
    Replicate(hermitfs_replicate::Options),
    Trace(hermitfs_trace::Options),
    Fault(hermitfs_fault::Options),
    Locks(hermitfs_locks::Options),
    Client(hermitfs_client::Options),
    Server(hermitfs_server::Options),
    /// Only in volfiles written for GlusterFS: this volume has nothing to do here, and what is
    /// above it talks to what is below it.
    PassedOver,
    /// A leaf that has no directory: for tests.
    #[cfg(test)]
    Memory,
}

impl Settings {
    /// Where a leaf has its content. `name` is its volume's.
    pub(crate) fn stand(&self, name: &str) -> Stand {
        match self {
            Settings::Posix(options) => Stand::Directory(options.directory.clone()),
            Settings::Client(options) => {
                Stand::Served(format!("{}/{}", options.address, options.remote_subvolume).into())
            }
            _ => Stand::Elsewhere(name.into()),
        }
    }

    /// Whether a leaf leaves out what is mounted in it.
    pub(crate) fn is_one_file_system(&self) -> bool {
        matches!(self, Settings::Posix(options) if options.one_file_system)
    }
}

/// A kind of translator.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What GlusterFS called it in other times.
    pub(crate) alias: Option<&'static str>,
    pub(crate) shape: Shape,
    /// What it is for.
    pub(crate) about: &'static str,
    /// Options, and children in the order in which they are used.
    pub(crate) read: fn(&Volume, Syntax, &mut Vec<Finding>) -> Option<(Settings, Vec<At<String>>)>,
}

/// All of them.
pub(crate) static KINDS: &[Kind] = &[
    Kind {
        name: "storage/posix",
        alias: None,
        shape: Shape::Leaf,
        about: "a brick on a directory",
        read: posix,
    },
    Kind {
        name: "cluster/replicate",
        alias: Some("cluster/afr"),
        shape: Shape::FanOut,
        about: "a source, and sinks that are made equal to it",
        read: replicate,
    },
    Kind {
        name: "features/locks",
        alias: Some("features/posix-locks"),
        shape: Shape::Filter,
        about: "keeps the locks of all who share the volume",
        read: |volume, _, findings| plain(volume, findings, Settings::Locks),
    },
    Kind {
        name: "protocol/client",
        alias: None,
        shape: Shape::Leaf,
        about: "a brick that a server has",
        read: wire::client,
    },
    Kind {
        name: "protocol/server",
        alias: None,
        shape: Shape::Door,
        about: "bricks for clients",
        read: wire::server,
    },
    Kind {
        name: "debug/trace",
        alias: None,
        shape: Shape::Filter,
        about: "logs the operations that pass",
        read: |volume, _, findings| plain(volume, findings, Settings::Trace),
    },
    Kind {
        name: "debug/fault",
        alias: Some("debug/error-gen"),
        shape: Shape::Filter,
        about: "fails, delays or stops operations on demand",
        read: |volume, _, findings| plain(volume, findings, Settings::Fault),
    },
    #[cfg(test)]
    Kind {
        name: "debug/memory",
        alias: None,
        shape: Shape::Leaf,
        about: "a brick in memory",
        read: |_, _, _| Some((Settings::Memory, Vec::new())),
    },
];

/// Only in the classic syntax: see [`gluster::has_nothing_to_do`].
pub(crate) static PASSED_OVER: Kind = Kind {
    name: "passed over",
    alias: None,
    shape: Shape::Filter,
    about: "nothing to do here",
    read: |volume, _, _| Some((Settings::PassedOver, volume.children.clone())),
};

/// The kind of this name.
pub(crate) fn find(name: &str, syntax: Syntax) -> Option<&'static Kind> {
    let found = KINDS
        .iter()
        .find(|kind| kind.name == name || syntax == Syntax::Classic && kind.alias == Some(name));
    match found {
        None if syntax == Syntax::Classic && gluster::has_nothing_to_do(name) => Some(&PASSED_OVER),
        found => found,
    }
}

/// What is decoded just as it is written.
fn plain<T: for<'de> Deserialize<'de>>(
    volume: &Volume,
    findings: &mut Vec<Finding>,
    settings: fn(T) -> Settings,
) -> Option<(Settings, Vec<At<String>>)> {
    let decoded = decode(&volume.name, &volume.options, findings)?;
    Some((settings(decoded), volume.children.clone()))
}

fn posix(
    volume: &Volume,
    _: Syntax,
    findings: &mut Vec<Finding>,
) -> Option<(Settings, Vec<At<String>>)> {
    let decoded: hermitfs_posix::Options = decode(&volume.name, &volume.options, findings)?;
    let written = volume
        .options
        .iter()
        .find(|(key, _)| key.value == "directory");
    let open = matches!(
        written,
        Some((
            _,
            At {
                value: Value::Text(Text { open: true, .. }),
                ..
            }
        ))
    );
    if let Some((_, value)) = written
        && !open
        && !decoded.directory.is_absolute()
    {
        findings.push(
            Finding::error("`directory` is not an absolute path", value.span.clone())
                .label(format!(
                    "`{}` has no `/` in front",
                    decoded.directory.display()
                ))
                .help("the daemon works in `/`, so a relative path would lead elsewhere"),
        );
        return None;
    }
    Some((Settings::Posix(decoded), volume.children.clone()))
}

/// `source` and `sinks` name the children; in the classic syntax `subvolumes` does, and the
/// first one is the source if `option source` does not say otherwise.
fn replicate(
    volume: &Volume,
    syntax: Syntax,
    findings: &mut Vec<Finding>,
) -> Option<(Settings, Vec<At<String>>)> {
    let mut decoded: hermitfs_replicate::Options = decode(&volume.name, &volume.options, findings)?;
    let mut children = Vec::new();
    if syntax == Syntax::Classic {
        children.clone_from(&volume.children);
        if let Some((_, said)) = volume.options.iter().find(|(key, _)| key.value == "source") {
            let name = decoded.source.as_deref().unwrap_or_default();
            match children.iter().position(|child| child.value == name) {
                Some(at) => children[..=at].rotate_right(1),
                None => {
                    let known = children.iter().map(|child| child.value.as_str());
                    findings.push(
                        Finding::error(
                            format!(
                                "`{name}` is none of the subvolumes of `{}`",
                                volume.name.value
                            ),
                            said.span.clone(),
                        )
                        .did_you_mean(name, known),
                    );
                    return None;
                }
            }
        }
        decoded.source = children.first().map(|child| child.value.clone());
        decoded.sinks = children
            .iter()
            .skip(1)
            .map(|child| child.value.clone())
            .collect();
    } else {
        if let Some(first) = volume.children.first() {
            findings.push(
                Finding::error(
                    "a pair does not say which side is which",
                    first.span.clone(),
                )
                .help("write `source = \"old\"` and `sinks = [\"new\"]` instead of subvolumes"),
            );
            return None;
        }
        let before = findings.len();
        for (option, empty) in [
            ("source", decoded.source.is_none()),
            ("sinks", decoded.sinks.is_empty()),
        ] {
            if empty {
                findings.push(
                    Finding::error(
                        format!("`{}` needs the option `{option}`", volume.name.value),
                        volume.name.span.clone(),
                    )
                    .label(format!("no `{option}`")),
                );
            }
        }
        if findings.len() > before {
            return None;
        }
        for option in ["source", "sinks"] {
            if let Some((_, value)) = volume.options.iter().find(|(key, _)| key.value == option) {
                names(value, &mut children);
            }
        }
    }
    if !(1..=64).contains(&decoded.workers) {
        let span = volume
            .options
            .iter()
            .find(|(key, _)| key.value == "workers");
        let span = span.map_or(volume.name.span.clone(), |(_, value)| value.span.clone());
        findings.push(Finding::error("`workers` is wrong", span).label("1 to 64 are possible"));
        return None;
    }
    Some((Settings::Replicate(decoded), children))
}

fn names(value: &At<Value>, into: &mut Vec<At<String>>) {
    match &value.value {
        Value::Text(text) => into.push(At::new(text.text.clone(), value.span.clone())),
        Value::List(list) => list.iter().for_each(|item| names(item, into)),
        _ => {}
    }
}
