//! Compounds: checked, done, and cut to what one message can have.

use hermitfs_api::{Errno, NameBuf, Result, Whole};
use hermitfs_proto::brick::{MAX_DATA, MAX_SMALL, MAX_TOGETHER, v1};
use prost::Message;

use crate::call::Call;
use crate::check::{self, malformed};

pub(crate) async fn snapshot(
    call: &Call,
    request: v1::SnapshotRequest,
) -> Result<v1::SnapshotReply> {
    let names = request.names.iter().take(MAX_TOGETHER);
    let names: Result<Vec<NameBuf>> = names
        .map(|name| Ok(check::name(name)?.to_owned()))
        .collect();
    let (names, most) = (names?, request.most.min(MAX_SMALL));
    if names.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    let dir = call.object(&request.dir).await?;
    let (cx, volume) = (&call.cx, call.volume());
    let found = volume.snapshot(cx, &dir, &names, most).await?;
    let mut snapshots = Vec::with_capacity(found.len());
    let mut room = MAX_DATA;
    for found in found {
        let message = match found {
            Ok(snapshot) => match call.export().entry(cx, &snapshot.entry).await {
                Ok(entry) => v1::Snapshot::of(entry, snapshot),
                Err(error) => v1::Snapshot::failed(&error),
            },
            Err(error) => v1::Snapshot::failed(&error),
        };
        // With room for its tag and length. What does not go in is asked for again.
        let len = message.encoded_len() + 8;
        if len > room {
            break;
        }
        room -= len;
        snapshots.push(message);
    }
    Ok(v1::SnapshotReply { snapshots })
}

pub(crate) async fn make_whole(
    call: &Call,
    request: v1::MakeWholeRequest,
) -> Result<v1::MakeWholeReply> {
    let files = request.files.into_iter().take(MAX_TOGETHER);
    let files = files.map(whole).collect::<Result<Vec<_>>>()?;
    if files.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    let dir = call.object(&request.dir).await?;
    let made = call.volume().make_whole(&call.cx, &dir, &files).await?;
    Ok(v1::MakeWholeReply {
        made: made.iter().map(v1::Made::of).collect(),
    })
}

fn whole(file: v1::Whole) -> Result<Whole> {
    check::name(&file.name)?;
    check::mode(file.mode)?;
    for xattr in &file.xattrs {
        check::xattr_name(&xattr.name)?;
        check::xattr_value(&xattr.value)?;
    }
    malformed(file.try_into())
}
