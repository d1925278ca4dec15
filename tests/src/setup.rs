//! What `cargo gate`, `cargo demo` and the benchmark do before they start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::need::{Program, find, missing_elsewhere, missing_packages};

/// The root of the project.
pub fn project_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Builds the programs of the project for speed, unless `HERMITFS_BIN` names one to be used.
pub fn build_release() -> Result<()> {
    if std::env::var_os("HERMITFS_BIN").is_some() {
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--workspace", "--bins"])
        .current_dir(project_root())
        .stdin(Stdio::null())
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "hermitfs could not be built");
    let binary = crate::hermitfs::binary();
    ensure!(binary.is_file(), "{} was not built", binary.display());
    Ok(())
}

/// Installs Debian's packages for what is missing of a list; does nothing when all is there.
pub fn install_packages(list: &[Program]) -> Result<()> {
    let missing = missing_packages(list);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let Some(apt) = find("apt-get") else {
        bail!(
            "these Debian packages are missing, and there is no apt-get to install them: {names}"
        );
    };
    println!("installing {names}");
    let quiet = |arguments: &[&str]| {
        let output = Command::new(&apt)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .context("apt-get")?;
        if !output.status.success() {
            bail!(
                "apt-get {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    };
    quiet(&["update", "-q"])?;
    let install = |packages: &[&str]| {
        let install = ["install", "-q", "-y", "--no-install-recommends"];
        quiet(&[&install, packages].concat())
    };
    install(&missing)?;
    match missing_elsewhere(list).as_slice() {
        [] => {}
        others => install(others)?,
    }
    match missing_packages(list).as_slice() {
        [] => Ok(()),
        still => bail!(
            "apt-get installed {names}, and yet something of it is missing: {}",
            still.join(" ")
        ),
    }
}
