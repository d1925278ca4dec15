//! `hermitfs errors MOUNTPOINT`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::Class;
use serde_json::json;

use super::heal::within;
use crate::cli::Global;
use crate::client::{Target, refused};
use crate::exit::{Code, Failure, Result};
use crate::screen::{self, Paint, escape, human, paint};

/// List what could not be healed, and what the new brick does not get.
///
/// Each line is a class and an object. Three kinds of classes:
///
/// Something failed, and is tried again; no cut-over comes before it came off or was waived: name, content, owner,
/// mode, time, xattr, flags.
///
/// The new brick cannot have it, and no cut-over comes before somebody has agreed: encryption (nothing of it is copied
/// until then, as it would arrive in plain text), verity, protection (append-only, immutable), durability
/// (synchronous, journalled), casefold, project.
///
/// The new brick cannot have it; this is told, and stops nothing: compression, nocow, extent-size, dax, other-flags,
/// reserved-space, shared-blocks. Times of birth are never carried, and not listed.
///
/// Ends with 65 when there are errors that are not waived.
#[derive(Debug, Args)]
pub(crate) struct Errors {
    /// The mount point, or any path in it; of what is only served, its volfile
    mountpoint: PathBuf,
    /// As JSON; `escaped` is the path as --waive takes it, `path` is for people
    #[arg(long)]
    json: bool,
    /// Say that what is lost of PATH (from the root of the mount, as it is listed) does not matter
    ///
    /// Everything of it but its content and its name, unless --class says what. Content that is waived is incomplete on
    /// the new brick, of mode 0000, or not there at all.
    #[arg(long, value_name = "PATH")]
    waive: Vec<OsString>,
    /// What of it
    #[arg(long, value_name = "CLASS", requires = "waive")]
    class: Vec<Class>,
    /// Say that all objects may lose this, now and later; only of what the new brick cannot have
    #[arg(long, value_name = "CLASS")]
    waive_all: Vec<Class>,
}

impl Errors {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::of(global, &self.mountpoint)?;
        let mountpoint = target.mountpoint.clone();
        target.talk(|mut admin| async move {
            let mut requests = Vec::new();
            if !self.waive.is_empty() {
                let reply = admin.errors(proto::ErrorsRequest {});
                let known = reply.await.map_err(refused)?.into_inner().errors;
                for given in &self.waive {
                    let path = meant(&mountpoint, given, &known)?;
                    requests.push(proto::WaiveRequest {
                        path,
                        classes: self.class.iter().map(|class| class.name().into()).collect(),
                        everywhere: None,
                    });
                }
            }
            requests.extend(self.waive_all.iter().map(|class| proto::WaiveRequest {
                everywhere: Some(class.name().into()),
                ..proto::WaiveRequest::default()
            }));
            let asked = !requests.is_empty();
            for request in requests {
                let reply = admin.waive(request.clone()).await.map_err(refused)?;
                said(&request, &reply.into_inner())?;
            }
            if asked && !self.json {
                return Ok(());
            }
            let reply = admin.errors(proto::ErrorsRequest {});
            let reply = reply.await.map_err(refused)?.into_inner();
            if self.json {
                screen::print(&format!("{:#}\n", json(&reply)));
            } else {
                show(&reply);
            }
            match reply.errors.iter().any(|error| !error.waived) {
                true => Err(Failure::silent(Code::Differences)),
                false => Ok(()),
            }
        })
    }
}

/// The path that was meant: as it is listed (escaped), or as it is.
fn meant(mountpoint: &Path, given: &OsStr, known: &[proto::ObjectError]) -> Result<Vec<u8>> {
    let plain = within(mountpoint, given)?;
    let Some(read) = escape::bytes(given.as_bytes()).filter(|read| read != given.as_bytes()) else {
        return Ok(plain);
    };
    let read = within(mountpoint, &OsString::from_vec(read))?;
    let is_known = |path: &[u8]| known.iter().any(|error| error.path == path);
    match (is_known(&read), is_known(&plain)) {
        (true, true) => Err(Failure::usage(format!(
            "two names could be meant: {0}, or, with a backslash in it, {1}; say \"{2}\" for the first, \"{1}\" for \
             the second",
            human::name(&read),
            human::name(&plain),
            in_numbers(&read),
        ))),
        (false, true) => Ok(plain),
        _ => Ok(read),
    }
}

/// A name with each byte that has to be escaped as a number.
fn in_numbers(name: &[u8]) -> String {
    let text = human::name(name);
    let numbered = [("\\n", "\\x0a"), ("\\r", "\\x0d"), ("\\t", "\\x09")];
    numbered
        .iter()
        .fold(text, |text, (short, long)| text.replace(short, long))
}

/// What a waiver came to. That there was nothing to be waived is a failure.
fn said(request: &proto::WaiveRequest, reply: &proto::WaiveReply) -> Result<()> {
    for error in &reply.covered {
        let path = human::name(&error.path);
        screen::print_error(&format!(
            "waived: {path}: {}: {}\n",
            error.class, error.reason
        ));
    }
    if let Some(class) = &request.everywhere {
        screen::print_error(&format!("from now on all objects may lose their {class}\n"));
        return Ok(());
    }
    let path = human::name(&request.path);
    for error in &reply.left {
        screen::print_error(&format!(
            "not waived: {path}: {}: {}; --class {} waives it\n",
            error.class, error.reason, error.class
        ));
    }
    match (reply.covered.is_empty(), reply.left.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => Err(Failure::other(format!("{path} has no error to be waived"))),
        (true, false) => Err(Failure::new(
            Code::Differences,
            format!("nothing of {path} is waived"),
        )),
    }
}

fn json(reply: &proto::ErrorsReply) -> serde_json::Value {
    let since = |seconds| {
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
    };
    let errors = reply.errors.iter().map(|error| {
        json!({
            "path": String::from_utf8_lossy(&error.path),
            "escaped": human::name(&error.path),
            "class": error.class,
            "stops": !error.waived,
            "side": error.side,
            "operation": error.operation,
            "errno": error.errno,
            "reason": error.reason,
            "count": error.count,
            "since": since(error.since),
            "waived": error.waived,
        })
    });
    let losses = reply.losses.iter().map(|loss| {
        json!({
            "path": String::from_utf8_lossy(&loss.path),
            "escaped": human::name(&loss.path),
            "class": loss.class,
            "stops": false,
            "reason": loss.what,
            "waived": loss.agreed,
            "more": reply.more.contains(&loss.class),
        })
    });
    errors.chain(losses).collect()
}

fn show(reply: &proto::ErrorsReply) {
    let colour = screen::colour_on_stdout();
    if reply.errors.is_empty() {
        screen::print_error("no errors\n");
    }
    let mut text = list(&reply.errors, colour);
    text.push_str(&losses(reply, colour));
    screen::print(&text);
}

/// A line for each object, and one for each thing that is wrong with it.
pub(crate) fn list(errors: &[proto::ObjectError], colour: bool) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let mut out = String::new();
    let mut last: Option<&[u8]> = None;
    for error in errors {
        if last != Some(&error.path) {
            out.push_str(&paint(&human::name(&error.path), Paint::Bold, colour));
            out.push('\n');
            last = Some(&error.path);
        }
        let times = if error.count == 1 {
            "once".into()
        } else {
            format!("{} times", human::count(error.count))
        };
        let waived = if error.waived { "  (waived)" } else { "" };
        out.push_str(&format!(
            "    {}: {} on {}: {}{}{waived}\n",
            error.class,
            error.operation,
            error.place,
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

/// What the new brick does not get, a class at a time.
fn losses(reply: &proto::ErrorsReply, colour: bool) -> String {
    let mut out = String::new();
    let mut last = "";
    let ends = |out: &mut String, class: &str| {
        if reply.more.iter().any(|more| more == class) {
            out.push_str("    and more\n");
        }
    };
    for loss in &reply.losses {
        if last != loss.class {
            ends(&mut out, last);
            last = &loss.class;
            let title = format!("not on the new brick: {last}");
            out.push_str(&paint(&title, Paint::Bold, colour));
            out.push('\n');
        }
        let waived = if loss.agreed { "  (waived)" } else { "" };
        out.push_str(&format!(
            "    {}: {}{waived}\n",
            human::name(&loss.path),
            loss.what
        ));
    }
    ends(&mut out, last);
    for class in &reply.agreed {
        out.push_str(&format!("all objects may lose their {class}  (waived)\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &[u8], class: &str) -> proto::ObjectError {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        proto::ObjectError {
            path: path.into(),
            side: "new".into(),
            place: "/srv/new".into(),
            operation: "set size".into(),
            errno: Some("EFBIG".into()),
            reason: "File too large (EFBIG)".into(),
            count: 3,
            since: since.as_secs_f64(),
            waived: true,
            class: class.into(),
        }
    }

    #[test]
    fn an_error_names_object_class_side_operation_and_reason() {
        let errors = [error(b"/a\nb", "content"), error(b"/a\nb", "xattr")];
        let text = list(&errors, false);
        assert_eq!(
            text,
            "/a\\nb\n    content: set size on /srv/new: File too large (EFBIG)  3 times, for 0 s  (waived)\n    \
             xattr: set size on /srv/new: File too large (EFBIG)  3 times, for 0 s  (waived)\n"
        );
        let reply = proto::ErrorsReply {
            errors: errors.into(),
            ..proto::ErrorsReply::default()
        };
        let value = json(&reply);
        assert_eq!(value[0]["errno"], "EFBIG");
        assert_eq!(value[0]["escaped"], "/a\\nb");
    }

    #[test]
    fn losses_are_told_a_class_at_a_time_and_say_when_there_are_more() {
        let loss = |path: &str, class: &str, agreed| proto::ObjectLoss {
            path: path.into(),
            class: class.into(),
            what: "was there".into(),
            agreed,
        };
        let reply = proto::ErrorsReply {
            losses: vec![
                loss("/home", "encryption", true),
                loss("/a", "dax", false),
                loss("/b", "dax", false),
            ],
            more: vec!["dax".into()],
            ..proto::ErrorsReply::default()
        };
        assert_eq!(
            losses(&reply, false),
            "not on the new brick: encryption\n    /home: was there  (waived)\n\
             not on the new brick: dax\n    /a: was there\n    /b: was there\n    and more\n"
        );
    }

    #[test]
    fn the_help_names_every_class() {
        let mut all = crate::cli::visible();
        let errors = all.find_subcommand_mut("errors").unwrap();
        let help = errors.render_long_help().to_string();
        for class in Class::ALL {
            assert!(help.contains(class.name()), "{}", class.name());
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is_listed_or_as_it_is() {
        let mount = Path::new("/data");
        let meant = |given: &[u8], known: &[&[u8]]| {
            let known: Vec<_> = known.iter().map(|path| error(path, "time")).collect();
            super::meant(mount, OsStr::from_bytes(given), &known).map_err(|failure| failure.code)
        };
        assert_eq!(meant(b"/plain", &[]), Ok(b"/plain".to_vec()));
        assert_eq!(meant(b"/a\\nb", &[b"/a\nb"]), Ok(b"/a\nb".to_vec()));
        assert_eq!(meant(b"/data/a\\xff", &[b"/a\xff"]), Ok(b"/a\xff".to_vec()));
        assert_eq!(meant(b"/a\\nb", &[b"/a\\nb"]), Ok(b"/a\\nb".to_vec()));
        let both: [&[u8]; 2] = [b"/a\nb", b"/a\\nb"];
        assert_eq!(meant(b"/a\\nb", &both), Err(Code::Usage));
        assert_eq!(meant(b"/a\\\\nb", &both), Ok(b"/a\\nb".to_vec()));
        assert_eq!(meant(b"/a\\x0ab", &both), Ok(b"/a\nb".to_vec()));
        assert_eq!(meant(b"/raw\xff", &[b"/raw\xff"]), Ok(b"/raw\xff".to_vec()));
    }
}
