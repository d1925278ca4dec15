//! A stack as text, its top at the top.

use super::check::{Graph, Node};
use crate::kinds::Settings;

/// Draws it, a line per volume; `mountpoint` stands above, where it is known.
pub(crate) fn draw(graph: &Graph, mountpoint: Option<&str>) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    if let Some(root) = graph.root {
        lines.push((
            format!("fuse {}", mountpoint.unwrap_or("MOUNTPOINT")),
            "the mount".into(),
        ));
        walk(graph, root, None, "", "└─ ", "   ", &mut lines);
    }
    for &door in &graph.doors {
        walk(graph, door, None, "", "", "", &mut lines);
    }
    let width = lines
        .iter()
        .map(|(left, _)| left.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (left, right) in lines {
        let pad = width - left.chars().count();
        out.push_str(format!("{left}{:pad$}   {right}", "").trim_end());
        out.push('\n');
    }
    out
}

fn walk(
    graph: &Graph,
    at: usize,
    role: Option<&str>,
    before: &str,
    branch: &str,
    below: &str,
    lines: &mut Vec<(String, String)>,
) {
    let node = &graph.nodes[at];
    let role = role.map_or_else(String::new, |role| format!("{role} "));
    lines.push((
        format!(
            "{before}{branch}{role}{}  {}",
            node.name.value, node.written
        ),
        about(graph, node),
    ));
    let before = format!("{before}{below}");
    let last = node.children.len().saturating_sub(1);
    for (i, &child) in node.children.iter().enumerate() {
        let role = match (&node.settings, i) {
            (Settings::Replicate(_), 0) => Some("source"),
            (Settings::Replicate(_), _) => Some("sink"),
            _ => None,
        };
        let (branch, below) = if i == last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        walk(graph, child, role, &before, branch, below, lines);
    }
}

fn about(graph: &Graph, node: &Node) -> String {
    match &node.settings {
        Settings::Posix(options) => options.directory.display().to_string(),
        Settings::Client(options) => {
            let far = format!("{} at {}", options.remote_subvolume, options.address);
            match graph.behind(options) {
                Some(_) if options.in_process => format!("{far}, served below in this process"),
                Some(_) => format!("{far}, served below"),
                None => far,
            }
        }
        Settings::Server(options) => {
            let heard: Vec<String> = options.listen.iter().map(ToString::to_string).collect();
            format!("listens at {}", heard.join(", "))
        }
        Settings::PassedOver => "passed over".into(),
        _ => node.kind.about.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::{Source, Variables, load};

    #[test]
    fn hosts_and_ports_are_drawn() {
        let text = "[volume.old]\ntype='storage/posix'\ndirectory='/a'\n\
            [volume.bricks]\ntype='protocol/server'\nlisten=['127.0.0.1:24107']\nsubvolumes=['old']\n\
            [volume.o]\ntype='protocol/client'\naddress='127.0.0.1:24107'\nremote-subvolume='old'\n\
            [volume.n]\ntype='protocol/client'\naddress='unix:/run/n'\nremote-subvolume='new'\n\
            [volume.pair]\ntype='cluster/replicate'\nsource='o'\nsinks=['n']\n";
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        let graph = load(&source, &Variables::default()).graph.unwrap();
        assert_eq!(
            draw(&graph, Some("/data")),
            "\
fuse /data                        the mount
└─ pair  cluster/replicate        a source, and sinks that are made equal to it
   ├─ source o  protocol/client   old at 127.0.0.1:24107, served below in this process
   └─ sink n  protocol/client     new at unix:/run/n
bricks  protocol/server           listens at 127.0.0.1:24107
└─ old  storage/posix             /a
"
        );
    }

    #[test]
    fn the_stack_is_drawn_from_the_mount_down() {
        let text = "[volume.old]\ntype='storage/posix'\ndirectory='/a'\n\
            [volume.watch]\ntype='debug/trace'\nsubvolume='old'\n\
            [volume.new]\ntype='storage/posix'\ndirectory='/b'\n\
            [volume.pair]\ntype='cluster/replicate'\nsource='watch'\nsinks=['new']\n";
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        let graph = load(&source, &Variables::default()).graph.unwrap();
        assert_eq!(
            draw(&graph, Some("/data")),
            "\
fuse /data                        the mount
└─ pair  cluster/replicate        a source, and sinks that are made equal to it
   ├─ source watch  debug/trace   logs the operations that pass
   │  └─ old  storage/posix       /a
   └─ sink new  storage/posix     /b
"
        );
    }
}
