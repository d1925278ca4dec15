//! Other FUSE file systems, mounted over a directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hermitfs_tests::lab::Lab;
use hermitfs_tests::need;
use hermitfs_tests::shell::{run_command, text};
use hermitfs_tests::wait::until;
use rustix::mount::UnmountFlags;

/// A mount whose server is a child of ours.
pub(crate) struct PeerMount {
    child: Child,
    path: PathBuf,
}

impl PeerMount {
    /// Starts a server in the foreground, and waits until it serves.
    pub(crate) fn start(lab: &Lab, name: &str, command: &mut Command) -> PeerMount {
        let path = lab.dir(name);
        let before = device(&path);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mount = PeerMount { child, path };
        until(Duration::from_secs(30), "a mount", || {
            (device(&mount.path) != before).then_some(())
        });
        mount
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PeerMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| meta.dev())
}

/// mergerfs over one branch, with the caches that its manual recommends for speed.
pub(crate) fn mergerfs(lab: &Lab, brick: &Path) -> PeerMount {
    let mut command = Command::new(need::program_at("mergerfs"));
    command
        .args([
            "-f",
            "-o",
            "cache.files=auto-full,cache.attr=3600,cache.entry=3600,cache.readdir=true,minfreespace=0,allow_other",
        ])
        .arg(brick)
        .arg(lab.dir("mergerfs"));
    PeerMount::start(lab, "mergerfs", &mut command)
}

/// libfuse's fast example, built from Debian's source of the libfuse that is installed.
pub(crate) fn passthrough_hp(lab: &Lab, program: &Path, brick: &Path) -> PeerMount {
    let mut command = Command::new(program);
    command
        .arg("--foreground")
        .arg(brick)
        .arg(lab.dir("passthrough_hp"));
    PeerMount::start(lab, "passthrough_hp", &mut command)
}

/// Builds it; the error says what is missing.
pub(crate) fn build_passthrough_hp(lab: &Lab) -> Result<PathBuf, String> {
    let dir = lab.dir("libfuse");
    let script = r#"
        dpkg -s libfuse3-dev > /dev/null 2>&1 || apt-get install -qy --no-install-recommends libfuse3-dev > /dev/null
        package=$(apt-get download --print-uris libfuse3-dev | cut -d"'" -f2)
        version=$(basename "$package" | cut -d_ -f2)
        source=fuse3_${version%-*}.orig.tar.xz
        wget -q -O "$source" "$(dirname "$package")/$source"
        tar -xf "$source" --strip-components=1
        test -e config.h || : > config.h
        g++ -std=c++17 -O2 -I. -DHAVE_LIBC_CLOSE_RANGE=0 -DHAVE_UTIMENSAT $(pkg-config --cflags fuse3) \
            -o passthrough_hp.out example/passthrough_hp.cc $(pkg-config --libs fuse3)
    "#;
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said
            .lines()
            .last()
            .unwrap_or("it does not build")
            .to_owned());
    }
    Ok(dir.join("passthrough_hp.out"))
}

/// What a script in a directory says.
pub(crate) fn sh(directory: &Path, script: &str) -> String {
    text(&run_command(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(directory),
    ))
}
