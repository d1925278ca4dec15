//! The bricks of a volume: what each is to the pair, and where it stands.

use std::path::{Path, PathBuf};

use hermitfs_replicate::{Leg, SinkNumber};

use crate::kinds::Settings;
use crate::volfile::Graph;

/// Where a leaf has its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// In a directory of this machine.
    Directory(PathBuf),
    /// With another process: its address, and the volume there.
    Served(PathBuf),
    /// Where it alone knows: what people call it.
    Elsewhere(PathBuf),
}

/// What a volume stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Brick {
    /// What the layer above calls it: the name of the pair's subvolume.
    pub(crate) name: String,
    pub(crate) stand: Stand,
    /// What is mounted in it is left out.
    pub(crate) one_file_system: bool,
}

impl Brick {
    /// Where it is in this machine's tree of directories, if it is.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.stand {
            Stand::Directory(directory) => Some(directory),
            Stand::Served(_) | Stand::Elsewhere(_) => None,
        }
    }

    /// What people call it: its directory, or its address.
    pub(crate) fn called(&self) -> &Path {
        match &self.stand {
            Stand::Directory(called) | Stand::Served(called) | Stand::Elsewhere(called) => called,
        }
    }
}

/// All bricks of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bricks {
    /// The pair's, the source first, as the pair counts them. Without a pair the brick that users see stands for its
    /// source.
    legs: Vec<(Leg, Brick)>,
    /// Those that no pair has.
    others: Vec<Brick>,
    pair: bool,
}

impl Bricks {
    /// Those of a graph.
    pub(crate) fn of(graph: &Graph) -> Bricks {
        let mut found = Bricks::default();
        let tops = graph
            .root
            .as_ref()
            .map_or(&*graph.doors, std::slice::from_ref);
        for &top in tops {
            found.look(graph, top, None);
        }
        let legs: Vec<_> = found
            .legs
            .iter()
            .map(|(_, leg)| leg.stand.clone())
            .collect();
        // A server of the same file may have the pair's as well.
        found.others.retain(|other| !legs.contains(&other.stand));
        if !found.pair && !found.others.is_empty() {
            found.legs.push((Leg::Source, found.others.remove(0)));
        }
        found
    }

    /// A pair of these.
    pub(crate) fn pair(source: Brick, sinks: Vec<Brick>) -> Bricks {
        let legs = std::iter::once(source).chain(sinks);
        Bricks {
            legs: Leg::all().zip(legs).collect(),
            others: Vec::new(),
            pair: true,
        }
    }

    fn look(&mut self, graph: &Graph, at: usize, name: Option<&str>) {
        let node = &graph.nodes[at];
        let name = name.unwrap_or(&node.name.value);
        match &node.settings {
            // It may be served by several ways.
            Settings::Replicate(_) if self.pair => {}
            Settings::Replicate(_) => {
                self.pair = true;
                for (leg, &child) in Leg::all().zip(&node.children) {
                    let mut below = Bricks::default();
                    below.look(graph, child, Some(&graph.nodes[child].name.value));
                    let mut below = below.all().cloned();
                    self.legs.extend(below.next().map(|brick| (leg, brick)));
                    self.others.extend(below);
                }
            }
            Settings::Server(_) => {
                for &child in &node.children {
                    self.look(graph, child, Some(&graph.nodes[child].name.value));
                }
            }
            settings => {
                // It may be in this very process, whatever way leads there.
                let served = match settings {
                    Settings::Client(options) => graph.behind(options),
                    _ => None,
                };
                for &child in node.children.iter().chain(&served) {
                    self.look(graph, child, Some(name));
                }
                if node.children.is_empty() && served.is_none() {
                    self.others.push(Brick {
                        name: name.into(),
                        stand: settings.stand(&node.name.value),
                        one_file_system: settings.is_one_file_system(),
                    });
                }
            }
        }
    }

    /// Whether there is a pair.
    pub(crate) fn is_pair(&self) -> bool {
        self.pair
    }

    /// What users see: the pair's source, or the brick of a volume without a pair.
    pub(crate) fn source(&self) -> Option<&Brick> {
        self.legs
            .iter()
            .find(|(leg, _)| *leg == Leg::Source)
            .map(|(_, brick)| brick)
    }

    /// The pair's sinks.
    pub(crate) fn sinks(&self) -> impl Iterator<Item = (SinkNumber, &Brick)> {
        self.legs.iter().filter_map(|(leg, brick)| match leg {
            Leg::Sink(number) => Some((*number, brick)),
            Leg::Source => None,
        })
    }

    /// The source, then the sinks.
    pub(crate) fn legs(&self) -> impl Iterator<Item = (Leg, &Brick)> {
        self.legs.iter().map(|(leg, brick)| (*leg, brick))
    }

    /// All there are, the source first, and then the sinks.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Brick> {
        self.legs.iter().map(|(_, brick)| brick).chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::{Source, Variables, load};

    #[test]
    fn a_brick_behind_a_server_of_the_same_file_is_a_directory() {
        let text = "[volume.a]\ntype='storage/posix'\ndirectory='/a'\n\
            [volume.s]\ntype='protocol/server'\nlisten=['unix:/run/s']\nsubvolumes=['a']\n\
            [volume.c]\ntype='protocol/client'\naddress='unix:/run/s'\nremote-subvolume='a'\n\
            [volume.d]\ntype='protocol/client'\naddress='unix:/run/s'\nremote-subvolume='x'\n\
            [volume.p]\ntype='cluster/replicate'\nsource='c'\nsinks=['d']\n";
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        let graph = load(&source, &Variables::default()).graph.unwrap();
        let bricks = Bricks::of(&graph);
        let told: Vec<_> = bricks
            .all()
            .map(|brick| (&*brick.name, brick.stand.clone()))
            .collect();
        assert_eq!(
            told,
            [
                ("c", Stand::Directory("/a".into())),
                ("d", Stand::Served("unix:/run/s/x".into()))
            ]
        );
    }

    #[test]
    fn bricks_are_named_as_the_pair_knows_them() {
        let text = "[volume.a]\ntype='storage/posix'\ndirectory='/a'\n\
            [volume.t]\ntype='debug/trace'\nsubvolume='a'\n\
            [volume.b]\ntype='storage/posix'\ndirectory='/b'\n\
            [volume.p]\ntype='cluster/replicate'\nsource='t'\nsinks=['b']\n\
            [volume.top]\ntype='debug/trace'\nsubvolume='p'\n";
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        let graph = load(&source, &Variables::default()).graph.unwrap();
        let bricks: Vec<_> = Bricks::of(&graph)
            .all()
            .map(|brick| format!("{} {}", brick.name, brick.called().display()))
            .collect();
        assert_eq!(bricks, ["t /a", "b /b"]);
    }

    #[test]
    fn what_a_server_of_the_same_file_has_of_a_pair_is_no_further_sink() {
        let text = "[volume.old]\ntype='storage/posix'\ndirectory='/o'\n\
            [volume.new]\ntype='storage/posix'\ndirectory='/n'\n\
            [volume.more]\ntype='storage/posix'\ndirectory='/m'\n\
            [volume.bricks]\ntype='protocol/server'\nlisten=['unix:/b']\nsubvolumes=['new', 'more', 'old']\n\
            [volume.a]\ntype='protocol/client'\naddress='unix:/b'\nremote-subvolume='old'\n\
            [volume.b]\ntype='protocol/client'\naddress='unix:/b'\nremote-subvolume='new'\n\
            [volume.pair]\ntype='cluster/replicate'\nsource='a'\nsinks=['b']\n\
            [volume.door]\ntype='protocol/server'\nlisten=['unix:/d']\nsubvolumes=['pair']\n";
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        let bricks = Bricks::of(&load(&source, &Variables::default()).graph.unwrap());
        assert!(bricks.is_pair());
        assert_eq!(bricks.source().unwrap().called(), Path::new("/o"));
        let sinks: Vec<_> = bricks.sinks().map(|(_, brick)| &*brick.name).collect();
        assert_eq!(sinks, ["b"]);
        let all: Vec<_> = bricks.all().map(|brick| &*brick.name).collect();
        assert_eq!(all, ["a", "b", "more"]);
    }

    #[test]
    fn without_a_pair_users_see_the_only_brick_and_there_is_no_sink() {
        let source = Source {
            name: "t".into(),
            text: "[volume.a]\ntype='storage/posix'\ndirectory='/a'\n\
                [volume.t]\ntype='debug/trace'\nsubvolume='a'\n"
                .into(),
        };
        let bricks = Bricks::of(&load(&source, &Variables::default()).graph.unwrap());
        assert!(!bricks.is_pair() && bricks.sinks().next().is_none());
        assert_eq!(bricks.source().unwrap().called(), Path::new("/a"));
    }
}
