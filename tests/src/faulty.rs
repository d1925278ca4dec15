//! A disk that fails on demand: an image that qemu-storage-daemon exports through FUSE, with a
//! filter between that answers EIO, and a loop device over the export.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::{Deref, Range};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::disk::{Disk, Format};
use crate::need::program_at;
use crate::wait::until;

/// What a disk does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reading any of these blocks (of 4 KiB) is EIO.
    ReadsOf(Vec<Range<u64>>),
    /// Writing is EIO.
    Writes,
    /// It is as good as unplugged: all is EIO.
    Everything,
}

/// A mounted disk that can be made to fail. Nothing of it is left behind.
pub struct FaultyDisk {
    // Unmounted before its export ends.
    disk: Disk,
    image: PathBuf,
    export: Export,
}

impl Deref for FaultyDisk {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl FaultyDisk {
    pub(crate) fn new(base: &Path, name: &str, format: Format, mib: u64) -> FaultyDisk {
        let image = base.join(format!("{name}.raw"));
        File::create(&image)
            .and_then(|file| file.set_len(mib << 20))
            .unwrap();
        let exported = base.join(format!("{name}.img"));
        File::create(&exported).unwrap();
        let export = Export::start(&image, &exported, &base.join(format!("{name}.qmp")));
        FaultyDisk {
            disk: Disk::over(&exported, &base.join(name), format, &[], ""),
            image,
            export,
        }
    }

    /// The blocks (of 4 KiB) behind a file or directory of a disk of the ext family, by its path
    /// on that disk.
    pub fn blocks_of(&self, path: &str) -> Vec<u64> {
        let request = format!("blocks \"{path}\"");
        let image = self.image.to_string_lossy();
        let told = crate::shell::run("debugfs", &["-R", &request, &image]);
        let told = crate::shell::text(&told);
        let blocks = told.split_whitespace().map(|block| block.parse().unwrap());
        blocks.collect()
    }

    /// The block (of 4 KiB) that the inode behind a path is in, on a disk of the ext family.
    pub fn block_of_inode(&self, path: &str) -> u64 {
        let request = format!("imap \"{path}\"");
        let told = crate::shell::run("debugfs", &["-R", &request, &self.image.to_string_lossy()]);
        let told = crate::shell::text(&told);
        let block = told.split_once("located at block ").unwrap().1;
        block.split(',').next().unwrap().parse().unwrap()
    }

    /// Fails from now on. What the kernel has in its caches does not come from the disk: to have
    /// reads fail, unmount before and mount after.
    pub fn fail(&self, fault: &Fault) {
        self.mend();
        let rule = |what: &str, sector: Option<u64>| {
            let mut rule = json!({"event": "none", "iotype": what, "errno": libc::EIO});
            if let Some(sector) = sector {
                rule["sector"] = sector.into();
            }
            rule
        };
        // A flush goes through: what was not written makes it a lie, as with real disks, and
        // the export could not be mended any more.
        let rules: Vec<Value> = match fault {
            Fault::ReadsOf(blocks) => {
                let blocks = blocks.iter().cloned().flatten();
                blocks.map(|block| rule("read", Some(block * 8))).collect()
            }
            Fault::Writes => ["write", "write-zeroes", "discard"]
                .map(|what| rule(what, None))
                .into(),
            Fault::Everything => ["read", "write", "write-zeroes", "discard"]
                .map(|what| rule(what, None))
                .into(),
        };
        self.export.ask(
            "blockdev-add",
            &json!({"driver": "blkdebug", "node-name": "broken", "image": "image", "inject-error": rules}),
        );
        self.export.stand_on("broken");
    }

    /// Answers nothing from now on, until [`FaultyDisk::go_on`]: who asks, waits.
    pub fn block(&self) {
        self.export.signal(Signal::STOP);
    }

    /// The end of [`FaultyDisk::block`]; what was asked meanwhile is answered.
    pub fn go_on(&self) {
        self.export.signal(Signal::CONT);
    }

    /// All is well again.
    pub fn mend(&self) {
        self.export.stand_on("image");
        // There may be none.
        let _ = self
            .export
            .try_ask("blockdev-del", &json!({"node-name": "broken"}));
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.go_on();
        let _ = std::fs::remove_file(&self.image);
    }
}

/// A process that exports an image; ended when dropped.
struct Export {
    process: Child,
    socket: PathBuf,
    exported: PathBuf,
}

impl Export {
    fn start(image: &Path, exported: &Path, socket: &Path) -> Export {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let process = Command::new(program_at("setpriv"))
            // It must not outlive a test that is killed.
            .args(["--pdeathsig", "TERM"])
            .arg(program_at("qemu-storage-daemon"))
            .args(["--object", "throttle-group,id=free"])
            .arg("--blockdev")
            .arg(
                json!({"driver": "file", "node-name": "image", "filename": text(image), "locking": "off"})
                    .to_string(),
            )
            // A filter that does nothing, so that what is below it can be changed.
            .arg("--blockdev")
            .arg(
                json!({"driver": "throttle", "node-name": "top", "throttle-group": "free", "file": "image"})
                    .to_string(),
            )
            .arg("--export")
            .arg(
                json!({"type": "fuse", "id": "export", "node-name": "top", "mountpoint": text(exported), "writable": true})
                    .to_string(),
            )
            .arg("--chardev")
            .arg(format!(
                "socket,id=control,path={},server=on,wait=off",
                socket.display()
            ))
            .args(["--monitor", "chardev=control"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut export = Export {
            process,
            socket: socket.to_owned(),
            exported: exported.to_owned(),
        };
        let size = std::fs::metadata(image).unwrap().len();
        until(Duration::from_secs(60), "the export of an image", || {
            let ended = export.process.try_wait().unwrap();
            assert!(ended.is_none(), "qemu-storage-daemon ended: {ended:?}");
            let there = std::fs::metadata(exported).is_ok_and(|meta| meta.len() == size);
            (there && socket.exists()).then_some(())
        });
        export
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_child(&self.process);
        rustix::process::kill_process(process, signal).unwrap();
    }

    fn stand_on(&self, node: &str) {
        let top = json!({"driver": "throttle", "node-name": "top", "throttle-group": "free", "file": node});
        self.ask("blockdev-reopen", &json!({"options": [top]}));
    }

    fn ask(&self, command: &str, arguments: &Value) {
        if let Err(told) = self.try_ask(command, arguments) {
            panic!("{command} {arguments}: {told}");
        }
    }

    /// Says one thing to the process (QMP: a line of JSON there, a line of JSON back).
    fn try_ask(&self, command: &str, arguments: &Value) -> Result<(), Value> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut answer = || -> Value {
            loop {
                let line = lines.next().expect("an answer").unwrap();
                let told: Value = serde_json::from_str(&line).unwrap();
                if told.get("event").is_none() {
                    return told;
                }
            }
        };
        answer();
        for said in [
            json!({"execute": "qmp_capabilities"}),
            json!({"execute": command, "arguments": arguments}),
        ] {
            writeln!(stream, "{said}").unwrap();
            let told = answer();
            if let Some(error) = told.get("error") {
                return Err(error.clone());
            }
        }
        Ok(())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        while rustix::mount::unmount(&self.exported, UnmountFlags::DETACH).is_ok() {}
        let _ = std::fs::remove_file(&self.exported);
    }
}
