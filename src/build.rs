//! From a graph to translators that work.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hermitfs_api::Translator;
use hermitfs_replicate::{OpenError, Rate, Replicate};

use crate::exit::{Code, Failure, Result};
use crate::kinds::Settings;
use crate::volfile::Graph;

/// A volume, ready to be mounted.
pub(crate) struct Volume {
    pub(crate) top: Arc<dyn Translator>,
    /// The pair in it, if there is one.
    pub(crate) pair: Option<Arc<Replicate>>,
}

/// A directory that the volume uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Brick {
    /// What the layer above calls it: the name of the pair's subvolume.
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// What is mounted in it is left out.
    pub(crate) one_file_system: bool,
}

/// The bricks of a graph, the source first.
pub(crate) fn bricks(graph: &Graph) -> Vec<Brick> {
    let mut found = Vec::new();
    collect(graph, graph.root, None, &mut found);
    found
}

fn collect(graph: &Graph, at: usize, name: Option<&str>, found: &mut Vec<Brick>) {
    let node = &graph.nodes[at];
    let name = name.unwrap_or(&node.name.value);
    if let Settings::Posix(options) = &node.settings {
        found.push(Brick {
            name: name.into(),
            directory: options.directory.clone(),
            one_file_system: options.one_file_system,
        });
    }
    for &child in &node.children {
        let below = matches!(node.settings, Settings::Replicate(_));
        let child_name = if below {
            &graph.nodes[child].name.value
        } else {
            name
        };
        collect(graph, child, Some(child_name), found);
    }
}

/// What the program knows and the volfile does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) state_dir: &'a Path,
    /// Takes sinks that are not empty.
    pub(crate) adopt: bool,
    /// Bytes a second for healing, instead of what the volfile says.
    pub(crate) limit: Option<Rate>,
    /// The last run's dead mount is still there.
    pub(crate) continuous: bool,
    /// Leave out what is mounted in the bricks.
    pub(crate) one_file_system: bool,
    /// A brick that our mount is to go over, and where it is opened instead.
    pub(crate) moved: Option<(&'a Path, &'a Path)>,
}

impl Circumstances<'_> {
    /// Where a brick is to be opened.
    pub(crate) fn place_of<'b>(&'b self, directory: &'b Path) -> &'b Path {
        match self.moved {
            Some((from, to)) if from == directory => to,
            _ => directory,
        }
    }
}

/// Opens everything, from the bricks up.
pub(crate) fn build(graph: &Graph, circumstances: Circumstances<'_>) -> Result<Volume> {
    let mut pair = None;
    let top = layer(graph, graph.root, circumstances, &mut pair)?;
    Ok(Volume { top, pair })
}

fn layer(
    graph: &Graph,
    at: usize,
    circumstances: Circumstances<'_>,
    pair: &mut Option<Arc<Replicate>>,
) -> Result<Arc<dyn Translator>> {
    let node = &graph.nodes[at];
    let mut children = Vec::new();
    for &child in &node.children {
        let name = graph.nodes[child].name.value.clone();
        children.push((name, layer(graph, child, circumstances, pair)?));
    }
    let mut children = children.into_iter();
    let mut child = || {
        let missing =
            || Failure::configuration(format!("`{}` has too few subvolumes", node.name.value));
        children.next().ok_or_else(missing)
    };
    Ok(match &node.settings {
        Settings::Posix(options) => {
            let mut options = options.clone();
            options.one_file_system |= circumstances.one_file_system;
            options.directory = circumstances.place_of(&options.directory).to_owned();
            let brick = hermitfs_posix::Posix::open(&options);
            Arc::new(brick.map_err(|error| Failure::configuration(error.to_string()))?)
        }
        Settings::Trace(options) => Arc::new(hermitfs_trace::Trace::new(
            &node.name.value,
            child()?.1,
            options.clone(),
        )),
        Settings::Fault(options) => {
            Arc::new(hermitfs_fault::Fault::new(child()?.1, options.clone()))
        }
        Settings::PassedOver => child()?.1,
        Settings::Replicate(options) => {
            let source = child()?;
            let mut options = options.clone();
            options.adopt |= circumstances.adopt;
            options.limit = circumstances.limit.or(options.limit);
            options.continuous = circumstances.continuous;
            let opened =
                Replicate::open(options, source, children.collect(), circumstances.state_dir);
            let opened = opened.map_err(refused)?;
            *pair = Some(opened.clone());
            opened
        }
    })
}

fn refused(error: OpenError) -> Failure {
    let code = match error {
        OpenError::Identity(_) | OpenError::Refused(_) => Code::Configuration,
        OpenError::Io(_) => Code::Other,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::{Source, Variables, load};

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
        let bricks: Vec<_> = bricks(&graph)
            .into_iter()
            .map(|brick| format!("{} {}", brick.name, brick.directory.display()))
            .collect();
        assert_eq!(bricks, ["t /a", "b /b"]);
    }
}
