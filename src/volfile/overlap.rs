//! Bricks of one pair that share a directory: what one gets the other would get as well.
//!
//! Paths are compared as they are written. What links and mounts make of them is looked at again
//! when the volume starts.

use std::path::Path;

use super::check::Graph;
use super::diagnostic::Finding;
use crate::kinds::Settings;

/// Tells each two bricks of a pair of which one is the other, or stands in it.
pub(crate) fn check(graph: &Graph, findings: &mut Vec<Finding>) {
    let pairs = graph.nodes.iter();
    for pair in pairs.filter(|node| matches!(node.settings, Settings::Replicate(_))) {
        let legs = pair.children.iter();
        let bricks: Vec<Vec<usize>> = legs.map(|&leg| bricks_below(graph, leg)).collect();
        for (at, leg) in bricks.iter().enumerate() {
            for (&other, &brick) in bricks[..at]
                .iter()
                .flatten()
                .flat_map(|other| leg.iter().map(move |brick| (other, brick)))
            {
                findings.extend(overlap(graph, other, brick));
            }
        }
    }
}

/// The local bricks that a volume stands on, also through a server of the same file.
fn bricks_below(graph: &Graph, at: usize) -> Vec<usize> {
    let node = &graph.nodes[at];
    match &node.settings {
        Settings::Posix(_) => vec![at],
        Settings::Client(client) => graph
            .behind(client)
            .map_or_else(Vec::new, |behind| bricks_below(graph, behind)),
        _ => node
            .children
            .iter()
            .flat_map(|&child| bricks_below(graph, child))
            .collect(),
    }
}

fn directory(graph: &Graph, at: usize) -> Option<&Path> {
    match &graph.nodes[at].settings {
        Settings::Posix(options) => Some(&options.directory),
        _ => None,
    }
}

fn overlap(graph: &Graph, first: usize, second: usize) -> Option<Finding> {
    let (a, b) = (directory(graph, first)?, directory(graph, second)?);
    let (place, other) = (&graph.nodes[second].name, &graph.nodes[first].name);
    let finding = if a == b {
        Finding::error(
            format!("`{}` and `{}` are one directory", other.value, place.value),
            place.span.clone(),
        )
        .label(b.display().to_string())
    } else if a.starts_with(b) || b.starts_with(a) {
        let (inner, outer) = if a.starts_with(b) { (a, b) } else { (b, a) };
        Finding::error(
            format!("{} is in {}", inner.display(), outer.display()),
            place.span.clone(),
        )
        .label("a brick may not stand in another one of its pair")
    } else {
        return None;
    };
    Some(
        finding
            .context(other.span.clone(), "the other brick is here")
            .help("give each brick a directory of its own"),
    )
}

#[cfg(test)]
mod tests {
    use crate::volfile::{Source, Variables, load};

    fn errors(a: &str, b: &str, below: &str) -> Vec<String> {
        let text = format!(
            "[volume.a]\ntype='storage/posix'\ndirectory='{a}'\n\
             [volume.b]\ntype='storage/posix'\ndirectory='{b}'\n\
             {below}[volume.p]\ntype='cluster/replicate'\nsource='a'\nsinks=['{sink}']\n",
            sink = if below.is_empty() { "b" } else { "t" }
        );
        let source = Source {
            name: "t".into(),
            text,
        };
        let open = Variables {
            allow_open: true,
            ..Variables::default()
        };
        let loaded = load(&source, &open);
        loaded.findings.into_iter().map(|f| f.title).collect()
    }

    const TRACE: &str = "[volume.t]\ntype='debug/trace'\nsubvolume='b'\n";

    #[test]
    fn bricks_of_a_pair_have_directories_of_their_own() {
        assert!(errors("/a", "/ab", "").is_empty());
        assert!(errors("${old}", "${new}", "").is_empty());
        assert_eq!(
            errors("/a", "/a/", TRACE),
            ["`a` and `b` are one directory"]
        );
        assert_eq!(errors("/a/b/./c", "/a/b", ""), ["/a/b/./c is in /a/b"]);
        assert_eq!(errors("/a", "/a/b", TRACE), ["/a/b is in /a"]);
    }
}
