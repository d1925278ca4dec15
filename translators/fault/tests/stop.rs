//! A `stop` in a process of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;

use hermitfs_api::{Context, NameBuf, Result, Translator, block_on};
use hermitfs_fault::{Fault, Options, Rule};
use hermitfs_testkit::Memory;

const IN_THE_CHILD: &str = "HERMITFS_FAULT_STOP";

#[test]
fn a_stop_ends_the_process_as_a_kill_would() {
    if std::env::var_os(IN_THE_CHILD).is_some() {
        return run_into_it().expect("the first one passes");
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_stop_ends_the_process_as_a_kill_would"])
        .env(IN_THE_CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(9), "{child:?}");
}

fn run_into_it() -> Result<()> {
    let options = Options::with([Rule::stop_at_change(1)]);
    let volume: Arc<dyn Translator> = Arc::new(Fault::new(Arc::new(Memory::new()), options));
    let cx = Context::default();
    block_on(async {
        let root = volume.root(&cx).await?.inode;
        for name in ["passes", "stops"] {
            volume
                .mkdir(&cx, &root, &NameBuf::new(name.as_bytes())?, 0o755, 0)
                .await?;
        }
        Ok(())
    })
}
