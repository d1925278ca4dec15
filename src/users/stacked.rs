//! File systems that stand on directories of others, of which no process has anything open: the
//! kernel has, and tells it in their options alone.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Usage, Use, fixed, name, processes};
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

/// An overlay, whatever its layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Overlay {
    /// In whose mount namespace; 0 for our own.
    pid: u32,
    process: String,
    point: PathBuf,
    device: (u32, u32),
    /// These tell it from one that comes after it, with the same numbers.
    id: u64,
    options: String,
}

impl Overlay {
    /// `st_dev` of its directories: major, minor.
    pub(crate) fn device(&self) -> (u32, u32) {
        self.device
    }

    /// The path by which this process comes to it, unless something else is mounted over it.
    pub(crate) fn way(&self) -> PathBuf {
        way(self.pid, &self.point)
    }

    /// With a layer in our mount.
    pub(crate) fn usage(&self) -> Usage {
        fixed(self.pid, &self.process, "overlay", self.point.clone()).usage
    }
}

/// The path by which this process comes to one that another (0: itself) has.
pub(crate) fn way(pid: u32, path: &Path) -> PathBuf {
    let inside = path.strip_prefix("/").unwrap_or(path);
    match pid {
        0 => path.to_owned(),
        pid => Path::new("/proc")
            .join(pid.to_string())
            .join("root")
            .join(inside),
    }
}

/// Those of all mount namespaces, each once.
pub(crate) fn overlays() -> Vec<Overlay> {
    let mut namespaces = HashSet::new();
    namespaces.extend(fs::read_link("/proc/self/ns/mnt"));
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    of_one(
        &Mounts::read().unwrap_or_default(),
        0,
        &mut seen,
        &mut found,
    );
    for (pid, dir) in processes() {
        if let Ok(namespace) = fs::read_link(dir.join("ns/mnt"))
            && namespaces.insert(namespace)
            && let Ok(mounts) = Mounts::of(&pid.to_string())
        {
            of_one(&mounts, pid, &mut seen, &mut found);
        }
    }
    found
}

fn of_one(mounts: &Mounts, pid: u32, seen: &mut HashSet<(u32, u32)>, found: &mut Vec<Overlay>) {
    let overlays = mounts.0.iter().filter(|mount| mount.kind == "overlay");
    for mount in overlays.filter(|mount| seen.insert(mount.device)) {
        let process = match pid {
            0 => "the kernel".to_owned(),
            pid => name(pid),
        };
        found.push(Overlay {
            pid,
            process,
            point: mount.point.clone(),
            device: mount.device,
            id: mount.id,
            options: mount.super_options.clone(),
        });
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
    #[test]
    fn overlays_are_known_by_how_one_comes_to_them() {
        let mounts = Mounts::parse(
            b"1 0 0:50 / /data rw - fuse.hermitfs h rw\n\
              2 0 0:60 / /a rw - overlay o rw,lowerdir=image:../x\n\
              3 0 0:60 / /again rw - overlay o rw,lowerdir=image:../x\n\
              4 0 0:61 / / rw - overlay o rw,lowerdir=l/ABC:l/DEF\n",
        );
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        of_one(&mounts, 0, &mut seen, &mut found);
        of_one(&mounts, 1, &mut seen, &mut found);
        let ways: Vec<_> = found.iter().map(Overlay::way).collect();
        assert_eq!(ways, ["/a", "/"].map(PathBuf::from));
        seen.clear();
        of_one(&mounts, 1, &mut seen, &mut found);
        assert_eq!(found[2].way(), Path::new("/proc/1/root/a"));
        assert_eq!(
            (found[2].device(), found[2].usage().path),
            ((0, 60), "/a".into())
        );
    }
}
