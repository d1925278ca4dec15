//! A volfile whose variables are still open, looked at as if they had values.
//!
//! Most options are decoded into more than text (an address, a number), which `${address}` is
//! not. So each open variable gets a value of the shape that its place wants, and what is shown
//! afterwards has its name again.

use super::{Loaded, Source, Variables, load};

/// The shapes that a value may have, the commonest first: a path, an address with a port (of the
/// network that RFC 5737 keeps for documentation), a number.
const SHAPES: usize = 3;

/// A value of a shape for the variable `name`, the `at`-th of those that are open.
fn stand_in(shape: usize, at: usize, name: &str) -> String {
    match shape {
        0 => format!("/--{name}--"),
        1 => format!("192.0.2.{}:1", at % 256),
        _ => "1".into(),
    }
}

/// What stands in the place of open variables: the value, and the variable as it is written.
#[derive(Debug, Default)]
pub(crate) struct StandIns(Vec<(String, String)>);

impl StandIns {
    /// Puts the variables back into what was made with their stand-ins.
    pub(crate) fn put_back(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, variable) in &self.0 {
            text = text.replace(value, variable);
        }
        text
    }
}

/// Loads a volfile for a look at it: as [`load`], and where variables are open, with a stand-in
/// for each of them.
pub(crate) fn load_to_look(source: &Source, variables: &Variables) -> (Loaded, StandIns) {
    let plain = load(source, variables);
    if plain.graph.is_some() || plain.errors() > 0 || plain.open.is_empty() {
        return (plain, StandIns::default());
    }
    let names: Vec<&String> = plain.open.iter().collect();
    let with = |shapes: &[usize]| {
        let mut filled = variables.clone();
        let values = shapes.iter().zip(&names).enumerate();
        let values = values.map(|(at, (&shape, &name))| (name.clone(), stand_in(shape, at, name)));
        filled.set.extend(values);
        load(source, &filled)
    };
    let mut shapes = vec![0; names.len()];
    let mut best = with(&shapes);
    for at in 0..names.len() {
        let mut tried = shapes.clone();
        for shape in 1..SHAPES {
            tried[at] = shape;
            let loaded = with(&tried);
            if loaded.errors() < best.errors() {
                best = loaded;
                shapes.clone_from(&tried);
            }
        }
    }
    let stand_ins = shapes.iter().zip(&names).enumerate();
    let stand_ins = stand_ins
        // A number says nothing of whose it is.
        .filter(|(_, (shape, _))| **shape + 1 < SHAPES)
        .map(|(at, (&shape, name))| (stand_in(shape, at, name), format!("${{{name}}}")))
        .collect();
    let loaded = Loaded {
        graph: best.graph,
        findings: plain.findings,
        open: plain.open,
    };
    (loaded, StandIns(stand_ins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::draw;

    fn look(text: &str) -> String {
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        let by_itself = Variables {
            allow_open: true,
            ..Variables::default()
        };
        let (loaded, stand_ins) = load_to_look(&source, &by_itself);
        stand_ins.put_back(&draw(&loaded.graph.expect("a graph"), None))
    }

    #[test]
    fn open_variables_are_drawn_by_name_whatever_their_place_wants() {
        let drawn = look(
            "[volume.o]\ntype='protocol/client'\naddress='unix:${socket}'\nremote-subvolume='a'\n\
            [volume.n]\ntype='protocol/client'\naddress='${there}'\nremote-subvolume='${name}'\n\
            authority='${tls}/a.pem'\ncertificate='${tls}/b.pem'\nkey='${tls}/b.key'\n\
            [volume.pair]\ntype='cluster/replicate'\nsource='o'\nsinks=['n']\n",
        );
        assert!(drawn.contains("a at unix:${socket}\n"), "{drawn}");
        assert!(drawn.contains("${name} at ${there}\n"), "{drawn}");
    }

    #[test]
    fn every_worked_example_can_be_drawn_by_itself() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/volfiles");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let drawn = look(&std::fs::read_to_string(&path).unwrap());
            assert!(drawn.contains("${"), "{}: {drawn}", path.display());
            assert!(!drawn.contains("--"), "{}: {drawn}", path.display());
        }
    }
}
