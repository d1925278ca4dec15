//! `hermitfs errors MOUNTPOINT`

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use serde_json::json;

use super::heal::within;
use crate::cli::Global;
use crate::client::{Target, refused};
use crate::exit::{Failure, Result};
use crate::screen::{self, Paint, human, paint};

/// Lists each object that could not be healed.
#[derive(Debug, Args)]
pub(crate) struct Errors {
    mountpoint: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Say that the difference at PATH (from the root of the mount) does not matter
    #[arg(long, value_name = "PATH")]
    waive: Vec<OsString>,
}

impl Errors {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::new(global, &self.mountpoint)?;
        let mountpoint = target.mountpoint.clone();
        target.talk(|mut admin| async move {
            for path in &self.waive {
                let path = within(&mountpoint, path)?;
                let request = proto::WaiveRequest { path: path.clone() };
                let reply = admin.waive(request).await.map_err(refused)?.into_inner();
                if reply.waived == 0 {
                    return Err(Failure::other(format!(
                        "{} has no error to be waived",
                        human::name(&path)
                    )));
                }
                screen::print_error(&format!("waived: {}\n", human::name(&path)));
            }
            if !self.waive.is_empty() && !self.json {
                return Ok(());
            }
            let reply = admin
                .errors(proto::ErrorsRequest {})
                .await
                .map_err(refused)?
                .into_inner();
            if self.json {
                screen::print(&format!("{:#}\n", json(&reply.errors)));
            } else if reply.errors.is_empty() {
                screen::print_error("no errors\n");
            } else {
                screen::print(&list(&reply.errors, screen::colour_on_stdout()));
            }
            Ok(())
        })
    }
}

fn json(errors: &[proto::ObjectError]) -> serde_json::Value {
    let since = |seconds| {
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
    };
    errors
        .iter()
        .map(|error| {
            json!({
                "path": String::from_utf8_lossy(&error.path),
                "side": error.side,
                "operation": error.operation,
                "errno": error.errno,
                "reason": error.reason,
                "count": error.count,
                "since": since(error.since),
                "waived": error.waived,
            })
        })
        .collect()
}

/// Two lines for each object.
pub(crate) fn list(errors: &[proto::ObjectError], colour: bool) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let mut out = String::new();
    for error in errors {
        let mut path = human::name(&error.path);
        if error.waived {
            path.push_str("  (waived)");
        }
        let times = if error.count == 1 {
            "once".into()
        } else {
            format!("{} times", human::count(error.count))
        };
        out.push_str(&paint(&path, Paint::Bold, colour));
        out.push('\n');
        out.push_str(&format!(
            "    {} on {}: {}{}\n",
            error.operation,
            error.side,
            error.reason,
            paint(
                &format!("  {times}, for {}", human::time(now - error.since)),
                Paint::Dim,
                colour
            )
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_object_side_operation_and_reason() {
        let error = proto::ObjectError {
            path: b"/a b".to_vec(),
            side: "new".into(),
            operation: "set size".into(),
            errno: Some("EFBIG".into()),
            reason: "File too large (EFBIG)".into(),
            count: 3,
            since: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs_f64(),
            waived: true,
        };
        let text = list(std::slice::from_ref(&error), false);
        assert_eq!(
            text,
            "/a b  (waived)\n    set size on new: File too large (EFBIG)  3 times, for 0 s\n"
        );
        let value = json(&[error]);
        assert_eq!(value[0]["errno"], "EFBIG");
    }
}
