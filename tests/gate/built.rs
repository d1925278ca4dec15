//! Everything that is tested, built in one go: a command for each suite would choose other features of the
//! libraries, and build these anew.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

/// A program with tests in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tests {
    /// The folder of its package, from which it is run.
    pub(crate) folder: PathBuf,
    /// Its name in the package's manifest.
    pub(crate) name: String,
    /// `lib`, `bin` or `test`.
    pub(crate) kind: String,
    pub(crate) program: PathBuf,
}

/// Builds all programs and tests; `None` when that failed, which cargo has told then.
pub(crate) fn build(cargo: &mut Command) -> Result<Option<Vec<Tests>>> {
    let mut child = cargo
        .args(["build", "--workspace", "--bins", "--tests"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo build")?;
    let mut built = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            built.extend(tests(&line?));
        }
    }
    // Always in the same order, whatever was ready first.
    built.sort_by(|a, b| (&a.folder, &a.kind, &a.name).cmp(&(&b.folder, &b.kind, &b.name)));
    Ok(child.wait()?.success().then_some(built))
}

/// What a line of cargo's tells of, when that is a program with tests in it.
fn tests(line: &str) -> Option<Tests> {
    let told: Value = serde_json::from_str(line).ok()?;
    if told["reason"] != "compiler-artifact" || told["profile"]["test"] != true {
        return None;
    }
    let target = &told["target"];
    let manifest = PathBuf::from(told["manifest_path"].as_str()?);
    Some(Tests {
        folder: manifest.parent()?.to_owned(),
        name: target["name"].as_str()?.to_owned(),
        kind: target["kind"][0].as_str()?.to_owned(),
        program: told["executable"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_has_built_is_understood() {
        let line = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///p/locks#0.1.0",
                "manifest_path":"/p/locks/Cargo.toml","target":{{"kind":["test"],"crate_types":["bin"],
                "name":"fair"}},"profile":{{"opt_level":"1","test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = Tests {
            folder: "/p/locks".into(),
            name: "fair".into(),
            kind: "test".into(),
            program: "/t/fair-1".into(),
        };
        assert_eq!(tests(&line(true, r#""/t/fair-1""#)), Some(found));
        assert_eq!(tests(&line(false, r#""/t/fair""#)), None, "no tests in it");
        assert_eq!(tests(&line(true, "null")), None, "no program");
        assert_eq!(tests(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(tests("warning: something"), None);
    }
}
