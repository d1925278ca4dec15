//! What could not be healed, and what the new brick has not got, as a command is told of it.

use std::time::UNIX_EPOCH;

use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::{Class, Gravity, Losses, ObjectError, ObjectLoss, Replicate};

/// All of it.
pub(super) fn reply(errors: Vec<ObjectError>, losses: Losses) -> proto::ErrorsReply {
    proto::ErrorsReply {
        errors: errors.into_iter().map(error).collect(),
        losses: losses.listed.into_iter().map(loss).collect(),
        more: names(losses.more),
        agreed: names(losses.agreed),
    }
}

/// Waives what was meant; a sentence where that cannot be done.
pub(super) fn waive(
    pair: &Replicate,
    request: &proto::WaiveRequest,
) -> Result<proto::WaiveReply, String> {
    let classes = request.classes.iter().map(|name| name.parse());
    let classes = classes.collect::<Result<Vec<Class>, String>>()?;
    let covered = match &request.everywhere {
        None => pair.waive(&request.path, &classes),
        Some(class) => {
            let class: Class = class.parse()?;
            if class.gravity() != Gravity::Asked {
                return Err(everywhere(class));
            }
            pair.agree(class)
        }
    };
    let left = pair.errors().into_iter();
    let left = left.filter(|error| !error.waived && error.path == request.path);
    Ok(proto::WaiveReply {
        waived: covered.len() as u64,
        left: left.map(self::error).collect(),
        covered: covered.into_iter().map(error).collect(),
    })
}

/// Why a class is not waived for all objects at once.
fn everywhere(class: Class) -> String {
    let name = class.name();
    match class.gravity() {
        Gravity::Stated => {
            format!("`{name}` is told and stops nothing: there is nothing to be waived")
        }
        _ => format!("`{name}` is waived object by object: --waive PATH --class {name}"),
    }
}

/// What the new brick has not got when a pair ends: what was waived, agreed to, or stated.
pub(super) fn lost(pair: &Replicate) -> (Vec<proto::ObjectLoss>, Vec<String>) {
    let losses = pair.losses();
    let waived = pair.errors().into_iter().filter(|error| error.waived);
    let waived = waived.map(|error| proto::ObjectLoss {
        path: error.path,
        class: error.class.name().to_owned(),
        what: error.reason,
        agreed: true,
    });
    let lost = waived.chain(losses.listed.into_iter().map(loss));
    (lost.collect(), names(losses.more))
}

fn names(classes: Vec<Class>) -> Vec<String> {
    classes
        .into_iter()
        .map(|class| class.name().to_owned())
        .collect()
}

fn loss(loss: ObjectLoss) -> proto::ObjectLoss {
    proto::ObjectLoss {
        path: loss.path,
        class: loss.class.name().to_owned(),
        what: loss.what,
        agreed: loss.agreed,
    }
}

fn error(error: ObjectError) -> proto::ObjectError {
    let since = error.since.duration_since(UNIX_EPOCH);
    proto::ObjectError {
        path: error.path,
        side: error.side,
        place: error.place,
        operation: error.operation,
        errno: error.errno,
        reason: error.reason,
        count: error.count,
        since: since.unwrap_or_default().as_secs_f64(),
        waived: error.waived,
        class: error.class.name().to_owned(),
    }
}
