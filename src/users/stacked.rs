//! File systems that stand on directories of others, of which no process has anything open: the
//! kernel has, and tells it in their options alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Use, fixed};
use crate::mounts::{Mount, Mounts, unescape};

/// Overlays with a layer in our mount, of the namespace of one process. `seen` has those that are
/// listed already.
pub(super) fn layers(
    mounts: &Mounts,
    ours: &Mount,
    pid: u32,
    process: &str,
    seen: &mut HashSet<(u32, u32)>,
    found: &mut Vec<Use>,
) {
    let same = mounts.0.iter().filter(|mount| mount.device == ours.device);
    let points: Vec<&Path> = same.map(|mount| &*mount.point).collect();
    for mount in mounts.0.iter().filter(|mount| mount.kind == "overlay") {
        let is_in = |layer: &PathBuf| points.iter().any(|point| layer.starts_with(point));
        if layers_of(&mount.super_options).iter().any(is_in) && seen.insert(mount.device) {
            found.push(fixed(pid, process, "overlay", mount.point.clone()));
        }
    }
}

/// The directories that an overlay's options name.
fn layers_of(options: &str) -> Vec<PathBuf> {
    let mut layers = Vec::new();
    for option in options.split(',') {
        let Some((name, value)) = option.split_once('=') else {
            continue;
        };
        match name {
            "lowerdir" => layers.extend(value.split(':').filter(|layer| !layer.is_empty())),
            "lowerdir+" | "datadir+" | "upperdir" | "workdir" => layers.push(value),
            _ => {}
        }
    }
    let path = |layer: &str| unescape(layer.as_bytes());
    layers.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_with_a_layer_in_the_mount_is_found_once() {
        let mounts = Mounts::parse(
            b"1 0 0:50 / /data rw - fuse.hermitfs h rw\n\
              2 0 0:60 / /a rw - overlay o rw,lowerdir=/x:/data/image,upperdir=/u,workdir=/w\n\
              3 0 0:61 / /b rw - overlay o rw,lowerdir=/l,upperdir=/data/u\\040p,workdir=/data/w\n\
              4 0 0:62 / /c rw - overlay o rw,lowerdir=/database:/l,upperdir=/u2,workdir=/w2\n\
              5 0 0:63 / /d rw - overlay o ro,lowerdir+=/data/one,lowerdir+=/l\n",
        );
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        for _ in 0..2 {
            layers(
                &mounts,
                &mounts.0[0],
                0,
                "the kernel",
                &mut seen,
                &mut found,
            );
        }
        let found: Vec<_> = found.iter().map(|one| one.usage.path.clone()).collect();
        assert_eq!(found, ["/a", "/b", "/d"].map(PathBuf::from));
    }
}
