//! From volumes to a graph: kinds, options, and that the parts fit together as one stack.

use std::collections::HashMap;

use super::diagnostic::{Finding, closest};
use super::document::{At, Document, Options, Syntax, Volume};
use crate::gluster;
use crate::kinds::{self, KINDS, Kind, Settings, Shape};

/// A stack that fits together.
#[derive(Clone)]
pub(crate) struct Graph {
    /// In the order of the text.
    pub(crate) nodes: Vec<Node>,
    /// The volume that is mounted; `None` where all are for servers.
    pub(crate) root: Option<usize>,
    /// Servers: places in `nodes`.
    pub(crate) doors: Vec<usize>,
}

impl Graph {
    /// The server of this graph that a client comes to.
    pub(crate) fn door(&self, client: &hermitfs_client::Options) -> Option<usize> {
        let mut doors = self.doors.iter().copied();
        doors.find(|&door| match &self.nodes[door].settings {
            Settings::Server(server) => {
                let mut heard = server.listen.iter().map(ToString::to_string);
                heard.any(|heard| heard == client.address.to_string())
            }
            _ => false,
        })
    }

    /// What a client reaches without leaving this graph: the volume that a server of it has under
    /// that name.
    pub(crate) fn behind(&self, client: &hermitfs_client::Options) -> Option<usize> {
        let mut volumes = self.nodes[self.door(client)?].children.iter();
        let named = |&&at: &&usize| self.nodes[at].name.value == client.remote_subvolume;
        volumes.find(named).copied()
    }
}

/// One volume of it.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: At<String>,
    /// As it is written, which may be an old name.
    pub(crate) written: String,
    pub(crate) kind: &'static Kind,
    pub(crate) settings: Settings,
    /// Places in [`Graph::nodes`].
    pub(crate) children: Vec<usize>,
}

/// A volume whose own text is good; its children are names.
struct Part<'a> {
    volume: &'a Volume,
    kind: &'static Kind,
    settings: Settings,
    children: Vec<At<String>>,
}

/// Tells all that does not fit. `None` when something does not.
pub(crate) fn check(document: &Document, text: &str, findings: &mut Vec<Finding>) -> Option<Graph> {
    let before = findings.len();
    if document.volumes.is_empty() {
        if findings.is_empty() {
            findings.push(
                Finding::error("there is no volume in this file", 0..text.len().min(1))
                    .help("it wants at least a brick: `[volume.old]`, `type = \"storage/posix\"`, `directory = \"/srv/old\"`"),
            );
        }
        return None;
    }
    let names = names(document, findings);
    let mut parts = Vec::new();
    let mut whole = true;
    for volume in &document.volumes {
        match part(volume, document.syntax, findings) {
            Some(part) => parts.push(part),
            None => whole = false,
        }
    }
    for part in &parts {
        arity(part, document.syntax, findings);
        defined(part, &names, findings);
    }
    uses(&parts, findings);
    replicates(&parts, findings);
    // Loops and roots are only true of a stack whose parts are all there.
    if !whole || errors(&findings[before..]) {
        return None;
    }
    let nodes: Vec<Node> = parts
        .into_iter()
        .map(|part| Node {
            name: part.volume.name.clone(),
            written: part
                .volume
                .kind
                .as_ref()
                .map_or_else(String::new, |kind| kind.value.clone()),
            kind: part.kind,
            settings: part.settings,
            children: part
                .children
                .iter()
                .filter_map(|child| names.get(child.value.as_str()).copied())
                .collect(),
        })
        .collect();
    let doors: Vec<usize> = (0..nodes.len())
        .filter(|&at| nodes[at].kind.shape == Shape::Door)
        .collect();
    let root = root(&nodes, &doors, findings)?;
    Some(Graph { nodes, root, doors })
}

fn errors(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|f| f.severity == super::Severity::Error)
}

fn names<'a>(document: &'a Document, findings: &mut Vec<Finding>) -> HashMap<&'a str, usize> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (at, volume) in document.volumes.iter().enumerate() {
        match names.get(volume.name.value.as_str()) {
            Some(&first) => findings.push(
                Finding::error(
                    format!("volume `{}` is defined twice", volume.name.value),
                    volume.name.span.clone(),
                )
                .context(
                    document.volumes[first].name.span.clone(),
                    "the first is here",
                ),
            ),
            None => {
                names.insert(&volume.name.value, at);
            }
        }
    }
    names
}

fn part<'a>(volume: &'a Volume, syntax: Syntax, findings: &mut Vec<Finding>) -> Option<Part<'a>> {
    let written = volume.kind.as_ref()?;
    let kind = match kinds::find(&written.value, syntax) {
        Some(kind) => kind,
        None => {
            findings.push(unknown_kind(written));
            // What it was meant to be is taken for the rest: its other mistakes are told as well.
            let meant = closest(&written.value, KINDS.iter().map(|kind| kind.name))?;
            kinds::find(meant, syntax)?
        }
    };
    let volume_read = match syntax {
        Syntax::Toml => None,
        Syntax::Classic => Some(Volume {
            options: passing_over(volume, kind, &written.value, written, findings),
            ..volume.clone()
        }),
    };
    let (settings, children) =
        (kind.read)(volume_read.as_ref().unwrap_or(volume), syntax, findings)?;
    Some(Part {
        volume,
        kind,
        settings,
        children,
    })
}

fn unknown_kind(written: &At<String>) -> Finding {
    let finding = Finding::error(
        format!("there is no kind `{}`", written.value),
        written.span.clone(),
    )
    .label("not known");
    if let Some(why) = gluster::why_not(&written.value) {
        return finding.help(why);
    }
    let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let finding = finding.did_you_mean(&written.value, known.iter().copied());
    if finding.help.is_empty() {
        finding.help(format!("the kinds are: {}", known.join(", ")))
    } else {
        finding
    }
}

/// The options without those that have a meaning for GlusterFS alone.
fn passing_over(
    volume: &Volume,
    kind: &Kind,
    written: &str,
    place: &At<String>,
    findings: &mut Vec<Finding>,
) -> Options {
    if gluster::has_nothing_to_do(written) {
        findings.push(
            Finding::warning(
                format!("`{written}` has nothing to do here"),
                place.span.clone(),
            )
            .label(format!("`{}` is passed over", volume.name.value))
            .help("caching and read-ahead are the kernel's own"),
        );
        return Options::new();
    }
    let (passed, kept): (Options, Options) = volume
        .options
        .iter()
        .cloned()
        .partition(|(key, _)| gluster::knows_option(kind.name, &key.value));
    for (key, _) in passed {
        findings.push(
            Finding::warning(format!("`{}` has no effect here", key.value), key.span)
                .label("an option of GlusterFS alone"),
        );
    }
    kept
}

fn arity(part: &Part<'_>, syntax: Syntax, findings: &mut Vec<Finding>) {
    let (name, count) = (&part.volume.name, part.children.len());
    let kind = part
        .volume
        .kind
        .as_ref()
        .map_or("", |kind| kind.value.as_str());
    let write = match syntax {
        Syntax::Toml => "`subvolume = \"...\"`",
        Syntax::Classic => "`subvolumes ...`",
    };
    let finding = match part.kind.shape {
        Shape::Leaf if count > 0 => Finding::error(
            format!("`{}` takes no subvolume", name.value),
            part.children[0].span.clone(),
        )
        .label(format!("`{kind}` has nothing below it")),
        Shape::Filter if count == 0 => Finding::error(
            format!("`{}` needs a subvolume", name.value),
            name.span.clone(),
        )
        .label(format!("`{kind}` stands above one other volume"))
        .help(format!("name it with {write}")),
        Shape::Filter if count > 1 => Finding::error(
            format!("`{}` takes one subvolume", name.value),
            part.children[1].span.clone(),
        )
        .label("one too many"),
        Shape::Door if count == 0 => Finding::error(
            format!("`{}` has nothing to serve", name.value),
            name.span.clone(),
        )
        .label(format!(
            "`{kind}` stands above the volumes that clients may have"
        ))
        .help(format!(
            "name them with {}",
            match syntax {
                Syntax::Toml => "`subvolumes = [\"...\"]`",
                Syntax::Classic => "`subvolumes ...`",
            }
        )),
        Shape::FanOut if count < 2 => Finding::error(
            format!("`{}` needs a source and a sink", name.value),
            name.span.clone(),
        )
        .label(format!("`{kind}` stands above two volumes or more")),
        _ => return,
    };
    findings.push(finding);
}

fn defined(part: &Part<'_>, names: &HashMap<&str, usize>, findings: &mut Vec<Finding>) {
    for child in &part.children {
        if child.value == part.volume.name.value {
            findings.push(Finding::error(
                format!("`{}` stands on itself", child.value),
                child.span.clone(),
            ));
        } else if !names.contains_key(child.value.as_str()) {
            let mut known: Vec<&str> = names.keys().copied().collect();
            known.sort_unstable();
            findings.push(
                Finding::error(
                    format!("there is no volume `{}`", child.value),
                    child.span.clone(),
                )
                .label("not defined in this file")
                .did_you_mean(&child.value, known),
            );
        }
    }
}

fn uses(parts: &[Part<'_>], findings: &mut Vec<Finding>) {
    let mut first: HashMap<&str, &At<String>> = HashMap::new();
    for child in parts.iter().flat_map(|part| &part.children) {
        match first.get(child.value.as_str()) {
            Some(before) => findings.push(
                Finding::error(
                    format!("`{}` is used twice", child.value),
                    child.span.clone(),
                )
                .context(before.span.clone(), "the first use")
                .help("a volume stands below one other; define another one for a second use"),
            ),
            None => {
                first.insert(&child.value, child);
            }
        }
    }
}

fn replicates(parts: &[Part<'_>], findings: &mut Vec<Finding>) {
    let mut pairs = parts
        .iter()
        .filter(|part| matches!(part.settings, Settings::Replicate(_)));
    let Some(first) = pairs.next() else { return };
    for another in pairs {
        findings.push(
            Finding::error(
                "a second `cluster/replicate`",
                another.volume.name.span.clone(),
            )
            .context(first.volume.name.span.clone(), "the first is here")
            .help("one pair can have any number of sinks"),
        );
    }
}

/// The volume to be mounted: the one top that is no server; none in a file for servers alone.
fn root(nodes: &[Node], doors: &[usize], findings: &mut Vec<Finding>) -> Option<Option<usize>> {
    let mut below = vec![false; nodes.len()];
    for &child in nodes.iter().flat_map(|node| &node.children) {
        below[child] = true;
    }
    for &door in doors.iter().filter(|&&door| below[door]) {
        findings.push(
            Finding::error(
                format!("`{}` stands below another volume", nodes[door].name.value),
                nodes[door].name.span.clone(),
            )
            .label("a server is a door: only clients stand above it")
            .help("reach what it serves through a `protocol/client`"),
        );
    }
    let is_top = |at: &usize| !below[*at] && !doors.contains(at);
    let roots: Vec<usize> = (0..nodes.len()).filter(is_top).collect();
    for circle in circles(nodes) {
        let names: Vec<&str> = circle
            .iter()
            .map(|&at| nodes[at].name.value.as_str())
            .collect();
        let finding = Finding::error(
            format!("a circle: {} -> {}", names.join(" -> "), names[0]),
            nodes[circle[0]].name.span.clone(),
        )
        .label("stands on itself");
        findings.push(finding);
        if !roots.is_empty() {
            for &at in &circle {
                findings.push(unreachable(&nodes[at]));
            }
        }
    }
    match roots[..] {
        [] => (!errors(findings) && !doors.is_empty()).then_some(None),
        [root] => (!errors(findings)).then_some(Some(root)),
        [.., top] => {
            let others = &roots[..roots.len() - 1];
            let finding = Finding::error(
                format!(
                    "{} volumes stand on top, only one can be mounted",
                    roots.len()
                ),
                nodes[top].name.span.clone(),
            )
            .label("a top");
            findings.push(others.iter().fold(finding, |finding, &at| {
                finding.context(
                    nodes[at].name.span.clone(),
                    "another top: nothing leads to it",
                )
            }));
            None
        }
    }
}

fn unreachable(node: &Node) -> Finding {
    Finding::error(
        format!("nothing leads to `{}`", node.name.value),
        node.name.span.clone(),
    )
    .label("unreachable from the top")
}

/// Each circle once, from its first volume in the text on.
fn circles(nodes: &[Node]) -> Vec<Vec<usize>> {
    // 0: not seen, 1: on the way, 2: done.
    fn walk(
        at: usize,
        nodes: &[Node],
        seen: &mut [u8],
        way: &mut Vec<usize>,
        found: &mut Vec<Vec<usize>>,
    ) {
        match seen[at] {
            0 => {}
            1 => {
                let from = way.iter().position(|&other| other == at).unwrap_or(0);
                let mut circle = way[from..].to_vec();
                let first = (0..circle.len()).min_by_key(|&i| circle[i]).unwrap_or(0);
                circle.rotate_left(first);
                found.push(circle);
                return;
            }
            _ => return,
        }
        seen[at] = 1;
        way.push(at);
        for &child in &nodes[at].children {
            walk(child, nodes, seen, way, found);
        }
        way.pop();
        seen[at] = 2;
    }
    let mut found = Vec::new();
    let mut seen = vec![0; nodes.len()];
    for at in 0..nodes.len() {
        walk(at, nodes, &mut seen, &mut Vec::new(), &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::volfile::{Loaded, Severity, Source, Variables, load, render};

    fn look(text: &str) -> Loaded {
        let source = Source {
            name: "t.vol".into(),
            text: text.into(),
        };
        load(
            &source,
            &Variables {
                allow_open: true,
                ..Variables::default()
            },
        )
    }

    fn errors(text: &str) -> Vec<String> {
        let loaded = look(text);
        assert_eq!(loaded.graph.is_none(), loaded.errors() > 0);
        let mut findings = loaded.findings;
        findings.retain(|f| f.severity == Severity::Error);
        findings.into_iter().map(|f| f.title).collect()
    }

    const PAIR: &str = "[volume.old]\ntype='storage/posix'\ndirectory='/a'\n\
        [volume.new]\ntype='storage/posix'\ndirectory='${new}'\n\
        [volume.pair]\ntype='cluster/replicate'\nsource='old'\nsinks=['new']\n";

    #[test]
    fn a_pair_is_a_graph_with_the_pair_on_top() {
        let loaded = look(PAIR);
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        let graph = loaded.graph.unwrap();
        assert_eq!(graph.nodes[graph.root.unwrap()].name.value, "pair");
        assert_eq!(graph.nodes[graph.root.unwrap()].children, [0, 1]);
        assert!(loaded.open.contains("new"));
    }

    #[test]
    fn a_limit_is_a_rate_in_either_syntax() {
        let classic = |limit: &str| {
            format!(
                "volume a type storage/posix option directory /a end-volume\n\
                 volume b type storage/posix option directory /b end-volume\n\
                 volume p type cluster/replicate subvolumes a b option limit {limit} end-volume"
            )
        };
        let limit = |text: &str| {
            let graph = look(text).graph.unwrap();
            match &graph.nodes[graph.root.unwrap()].settings {
                crate::kinds::Settings::Replicate(options) => {
                    options.limit.map(hermitfs_replicate::Rate::bytes_a_second)
                }
                _ => None,
            }
        };
        assert_eq!(limit(PAIR), None);
        assert_eq!(limit(&format!("{PAIR}limit='50MB/s'\n")), Some(50_000_000));
        assert_eq!(limit(&classic("8MiB")), Some(8 << 20));
        for wrong in [format!("{PAIR}limit='fast'\n"), classic("fast")] {
            assert_eq!(errors(&wrong), ["`limit` is wrong"]);
        }
    }

    #[test]
    fn the_first_classic_subvolume_is_the_source_unless_said_otherwise() {
        let bricks = "volume a type storage/posix option directory /a end-volume\n\
            volume b type storage/posix option directory /b end-volume\n";
        for (pair, children) in [
            (
                "volume p type cluster/replicate subvolumes a b end-volume",
                [0, 1],
            ),
            (
                "volume p type cluster/afr option source b subvolumes a b end-volume",
                [1, 0],
            ),
        ] {
            let graph = look(&format!("{bricks}{pair}")).graph.unwrap();
            assert_eq!(graph.nodes[graph.root.unwrap()].children, children);
        }
    }

    #[test]
    fn a_glusterfs_file_with_locks_and_caches_is_taken_with_warnings() {
        let loaded = look(
            "volume a type storage/posix option directory /a option volume-id 5 end-volume\n\
             volume al type features/locks option mandatory-locking off subvolumes a end-volume\n\
             volume b type storage/posix option directory /b end-volume\n\
             volume p type cluster/replicate option self-heal-daemon on subvolumes al b end-volume\n\
             volume wb type performance/write-behind option cache-size 1MB subvolumes p end-volume\n",
        );
        assert_eq!(loaded.errors(), 0);
        assert_eq!(loaded.findings.len(), 4);
        assert_eq!(loaded.graph.map(|graph| graph.nodes.len()), Some(5));
    }

    #[test]
    fn what_there_is_not_yet_is_said_so() {
        let source = Source {
            name: "t".into(),
            text: "[volume.a]\ntype='cluster/distribute'\n".into(),
        };
        let loaded = load(&source, &Variables::default());
        assert!(render(&source, &loaded.findings, false).contains("this release has"));
    }

    #[test]
    fn mistakes_in_all_volumes_are_told_at_once() {
        assert_eq!(
            errors(
                "[volume.a]\ntype='storage/posiks'\nlist=1\n\
                 [volume.b]\ntype='storage/posix'\ndirectory='/b'\nsubvolume='c'\n\
                 [volume.c]\ntype='storage/posix'\ndirectroy='/c'\n\
                 [volume.t]\ntype='debug/trace'\n\
                 [volume.p]\ntype='cluster/replicate'\nsource='b'\nsinks=['bb', 'c', 'c']\n"
            ),
            [
                "there is no kind `storage/posiks`",
                "`a` has no option `list`",
                "`a` needs the option `directory`",
                "`c` has no option `directroy`",
                "`c` needs the option `directory`",
                "`b` takes no subvolume",
                "`t` needs a subvolume",
                "there is no volume `bb`",
                "`c` is used twice",
                "`c` is used twice",
            ]
        );
    }

    #[test]
    fn a_relative_brick_and_a_pair_without_sides_are_refused() {
        assert_eq!(
            errors(
                "[volume.a]\ntype='storage/posix'\ndirectory='a'\n[volume.p]\ntype='cluster/replicate'\nworkers=0\n"
            ),
            [
                "`directory` is not an absolute path",
                "`p` needs the option `source`",
                "`p` needs the option `sinks`",
            ]
        );
    }

    #[test]
    fn two_tops_are_shown_together() {
        assert_eq!(
            errors(
                "[volume.a]\ntype='storage/posix'\ndirectory='/a'\n[volume.b]\ntype='storage/posix'\ndirectory='/b'\n"
            ),
            ["2 volumes stand on top, only one can be mounted"]
        );
    }

    #[test]
    fn a_circle_is_named_from_its_first_volume_on() {
        let circle = "[volume.x]\ntype='debug/trace'\nsubvolume='y'\n[volume.y]\ntype='debug/trace'\nsubvolume='x'\n";
        assert_eq!(errors(circle), ["a circle: x -> y -> x"]);
        let beside = format!("[volume.a]\ntype='storage/posix'\ndirectory='/a'\n{circle}");
        assert_eq!(
            errors(&beside),
            [
                "a circle: x -> y -> x",
                "nothing leads to `x`",
                "nothing leads to `y`"
            ]
        );
        assert_eq!(
            errors("[volume.x]\ntype='debug/trace'\nsubvolume='x'\n"),
            ["`x` stands on itself"]
        );
    }

    #[test]
    fn a_second_pair_is_refused_in_this_release() {
        let text = format!(
            "{PAIR}[volume.third]\ntype='storage/posix'\ndirectory='/c'\n\
             [volume.outer]\ntype='cluster/replicate'\nsource='pair'\nsinks=['third']\n"
        );
        assert_eq!(errors(&text), ["a second `cluster/replicate`"]);
    }

    #[test]
    fn an_empty_file_is_said_to_be_empty() {
        assert_eq!(errors(""), ["there is no volume in this file"]);
        assert_eq!(errors("# nothing\n"), ["there is no volume in this file"]);
    }
}
