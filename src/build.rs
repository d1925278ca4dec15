//! From a graph to translators that work.

use std::path::Path;
use std::sync::Arc;

use hermitfs_api::Translator;
use hermitfs_client::Client;
use hermitfs_posix::OwnMount;
use hermitfs_replicate::{OpenError, Rate, Replicate};
use hermitfs_server::{Near, Server};

use crate::bricks::Bricks;
use crate::exit::{Code, Failure, Result};
use crate::kinds::Settings;
use crate::volfile::Graph;

/// What a volfile describes, open.
pub(crate) struct Volume {
    /// To be mounted; `None` where all is for servers.
    pub(crate) top: Option<Arc<dyn Translator>>,
    /// The pair in it, if there is one.
    pub(crate) pair: Option<Arc<Replicate>>,
    pub(crate) clients: Clients,
    /// They have to stay as long as anything of the volume is used.
    pub(crate) servers: Vec<Server>,
}

/// Clients of servers; they take leave when this is dropped, whoever may still hold one of them. Else a server would
/// wait for each until it is sure that it has ended.
#[derive(Default)]
pub(crate) struct Clients(Vec<Arc<Client>>);

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.iter().for_each(|client| client.end());
    }
}

/// Whether others may work on what the mount shows, past the mount. What a pair's users see is its
/// source alone, and nobody may change that past the pair: what a server of this very file has of
/// it is not shared.
pub(crate) fn is_shared(graph: &Graph) -> bool {
    let mut at: Vec<(usize, bool)> = graph.root.map(|root| (root, false)).into_iter().collect();
    while let Some((node, paired)) = at.pop() {
        let node = &graph.nodes[node];
        match &node.settings {
            Settings::Client(options) if !(paired && graph.behind(options).is_some()) => {
                return true;
            }
            Settings::Replicate(_) => at.extend(node.children.first().map(|&child| (child, true))),
            _ => at.extend(node.children.iter().map(|&child| (child, paired))),
        }
    }
    false
}

/// The volumes by which servers show a pair, as clients call them.
pub(crate) fn shown_pairs(graph: &Graph) -> Vec<String> {
    let exports = graph
        .doors
        .iter()
        .flat_map(|&door| &graph.nodes[door].children);
    exports
        .filter(|&&export| has_pair(graph, export))
        .map(|&export| graph.nodes[export].name.value.clone())
        .collect()
}

fn has_pair(graph: &Graph, at: usize) -> bool {
    let node = &graph.nodes[at];
    let mut children = node.children.iter();
    matches!(node.settings, Settings::Replicate(_)) || children.any(|&child| has_pair(graph, child))
}

/// What the program knows and the volfile does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) state_dir: &'a Path,
    /// What tells this daemon from others, as the name of a file.
    pub(crate) slot: &'a str,
    /// Takes sinks that are not empty.
    pub(crate) adopt: bool,
    /// Also when most of what is in them would go.
    pub(crate) delete_from_new: bool,
    /// Bytes a second for healing, instead of what the volfile says.
    pub(crate) limit: Option<Rate>,
    /// The last run at this place had the very same bricks.
    pub(crate) resumed: bool,
    /// The last run's dead mount is still there.
    pub(crate) continuous: bool,
    /// Leave out what is mounted in the bricks.
    pub(crate) one_file_system: bool,
    /// A brick that our mount is to go over, and where it is opened instead.
    pub(crate) moved: Option<(&'a Path, &'a Path)>,
    /// The source's directory, where it is to be worked in by a mount of our own, and which.
    pub(crate) own: Option<(&'a Path, OwnMount)>,
}

impl Circumstances<'_> {
    fn own_mount_of(&self, directory: &Path) -> Option<OwnMount> {
        self.own
            .filter(|(source, _)| *source == directory)
            .map(|(_, own)| own)
    }

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
    let mut building = Building {
        graph,
        circumstances,
        pair: None,
        serving: false,
        servers: Vec::new(),
        clients: Clients::default(),
    };
    // Before those who come to them.
    for &door in &graph.doors {
        let server = building.serve(door)?;
        building.servers.push((door, server));
    }
    let top = graph.root.map(|root| building.layer(root));
    Ok(Volume {
        top: top.transpose()?,
        pair: building.pair,
        servers: building.servers.into_iter().map(|(_, at)| at).collect(),
        clients: building.clients,
    })
}

/// What is open so far.
struct Building<'a> {
    graph: &'a Graph,
    circumstances: Circumstances<'a>,
    pair: Option<Arc<Replicate>>,
    /// What is opened is for a server.
    serving: bool,
    /// Each with its place in the graph.
    servers: Vec<(usize, Server)>,
    clients: Clients,
}

impl Building<'_> {
    fn serve(&mut self, at: usize) -> Result<Server> {
        let node = &self.graph.nodes[at];
        let Settings::Server(options) = &node.settings else {
            let name = &node.name.value;
            return Err(Failure::configuration(format!("`{name}` is no server")));
        };
        let mut volumes = Vec::new();
        self.serving = true;
        for &child in &node.children {
            let name = self.graph.nodes[child].name.value.clone();
            volumes.push((name, self.layer(child)?));
        }
        self.serving = false;
        let state = format!("{}.{}", self.circumstances.slot, node.name.value);
        let state = self.circumstances.state_dir.join("servers").join(state);
        Server::open(options, volumes, &state).map_err(unheard)
    }

    fn layer(&mut self, at: usize) -> Result<Arc<dyn Translator>> {
        let node = &self.graph.nodes[at];
        let mut children = Vec::new();
        for &child in &node.children {
            let name = self.graph.nodes[child].name.value.clone();
            children.push((name, self.layer(child)?));
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
                options.one_file_system |= self.circumstances.one_file_system;
                options.own_mount = self.circumstances.own_mount_of(&options.directory);
                options.directory = self.circumstances.place_of(&options.directory).to_owned();
                let brick = hermitfs_posix::Posix::open(&options);
                let brick = brick.map_err(|error| Failure::configuration(error.to_string()))?;
                // Its root has one all the same, so a server does not find it out before its clients do.
                if self.serving && !brick.abilities().handles {
                    return Err(Failure::configuration(format!(
                        "{} cannot be served: its file system has no file handles, by which clients would find their \
                         files again. Put the brick on one that has them (ext4, xfs, btrfs)",
                        options.directory.display()
                    )));
                }
                Arc::new(brick)
            }
            Settings::Trace(options) => Arc::new(hermitfs_trace::Trace::new(
                &node.name.value,
                child()?.1,
                options.clone(),
            )),
            Settings::Fault(options) => {
                Arc::new(hermitfs_fault::Fault::new(child()?.1, options.clone()))
            }
            Settings::Locks(options) => {
                Arc::new(hermitfs_locks::Locks::new(child()?.1, options.clone()))
            }
            Settings::Client(options) => {
                let client = match self.near(options) {
                    Some(near) => Client::near(options, Arc::new(near)),
                    None => Client::open(options),
                };
                let client = Arc::new(client.map_err(unreached)?);
                self.clients.0.push(client.clone());
                client
            }
            Settings::Server(_) => {
                let name = &node.name.value;
                return Err(Failure::configuration(format!("`{name}` is a door")));
            }
            Settings::PassedOver => child()?.1,
            #[cfg(test)]
            Settings::Memory => Arc::new(hermitfs_testkit::Memory::new()),
            Settings::Replicate(options) => {
                let source = child()?;
                let mut options = options.clone();
                options.adopt |= self.circumstances.adopt;
                options.delete_from_sink = self.circumstances.delete_from_new;
                options.resumed = self.circumstances.resumed;
                options.source = Some(source.0.clone());
                options.places = Bricks::of(self.graph)
                    .legs()
                    .map(|(_, brick)| (brick.name.clone(), brick.called().display().to_string()))
                    .collect();
                options.limit = self.circumstances.limit.or(options.limit);
                options.continuous =
                    self.circumstances.continuous && !is_served_elsewhere(self.graph, at);
                let state_dir = self.circumstances.state_dir;
                let opened = Replicate::open(options, source, children.collect(), state_dir);
                let opened = opened.map_err(refused)?;
                self.pair = Some(opened.clone());
                opened
            }
        })
    }

    /// The way in to a server of this process, if the client may take it.
    fn near(&self, client: &hermitfs_client::Options) -> Option<Near> {
        let door = self.graph.door(client).filter(|_| client.in_process)?;
        let (_, server) = self.servers.iter().find(|(at, _)| *at == door)?;
        server.near()
    }
}

/// Others can have reached what another process serves, also while this one was dead.
fn is_served_elsewhere(graph: &Graph, at: usize) -> bool {
    let node = &graph.nodes[at];
    match &node.settings {
        Settings::Client(client) => graph.door(client).is_none(),
        _ => {
            let mut children = node.children.iter();
            children.any(|&child| is_served_elsewhere(graph, child))
        }
    }
}

/// What a service manager should try again: a machine that is not up yet is no wrong volfile.
fn unreached(error: hermitfs_client::OpenError) -> Failure {
    let code = match error {
        hermitfs_client::OpenError::NoAnswer { .. } => Code::TryAgain,
        _ => Code::Configuration,
    };
    Failure::new(code, error.to_string())
}

/// The same of a network that is not up yet.
fn unheard(error: hermitfs_server::OpenError) -> Failure {
    let code = match error {
        hermitfs_server::OpenError::Listen { .. } => Code::TryAgain,
        _ => Code::Configuration,
    };
    Failure::new(code, error.to_string())
}

fn refused(error: OpenError) -> Failure {
    let code = match error {
        OpenError::Identity(_) | OpenError::Refused(_) => Code::Configuration,
        OpenError::Busy(_) => Code::TryAgain,
        OpenError::Io(_) => Code::Other,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::{Source, Variables, load};

    #[test]
    fn who_comes_to_a_pair_is_told_from_who_comes_to_its_bricks() {
        let text = "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"/o\"\n\
            [volume.new]\ntype = \"storage/posix\"\ndirectory = \"/n\"\n\
            [volume.bricks]\ntype = \"protocol/server\"\nlisten = [\"unix:/b\"]\nsubvolumes = [\"old\", \"new\"]\n\
            [volume.a]\ntype = \"protocol/client\"\naddress = \"unix:/b\"\nremote-subvolume = \"old\"\n\
            [volume.b]\ntype = \"protocol/client\"\naddress = \"unix:/b\"\nremote-subvolume = \"new\"\n\
            [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"a\"\nsinks = [\"b\"]\n\
            [volume.data]\ntype = \"features/locks\"\nsubvolume = \"pair\"\n\
            [volume.door]\ntype = \"protocol/server\"\nlisten = [\"unix:/d\"]\nsubvolumes = [\"data\"]\n";
        let source = Source {
            name: "served.vol".into(),
            text: text.into(),
        };
        let loaded = load(&source, &Variables::default());
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        assert_eq!(shown_pairs(&loaded.graph.unwrap()), ["data"]);
    }

    #[test]
    fn a_brick_without_handles_is_mounted_and_never_served() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().display();
        let brick = format!(
            "[volume.bare]\ntype='storage/posix'\ndirectory='{directory}'\nhandles=false\n"
        );
        let door =
            "[volume.s]\ntype='protocol/server'\nlisten=['unix:/nowhere/s']\nsubvolumes=['bare']\n";
        let opened = |text: String| {
            let source = Source {
                name: "t".into(),
                text,
            };
            let graph = load(&source, &Variables::default()).graph.unwrap();
            let circumstances = Circumstances {
                state_dir: dir.path(),
                slot: "t",
                adopt: false,
                delete_from_new: false,
                limit: None,
                resumed: false,
                continuous: false,
                one_file_system: false,
                moved: None,
                own: None,
            };
            build(&graph, circumstances).map(drop)
        };
        opened(brick.clone()).unwrap();
        let refused = opened(brick + door).unwrap_err().to_string();
        assert!(refused.contains("file handles"), "{refused}");
        assert!(refused.contains(&directory.to_string()), "{refused}");
    }
}
