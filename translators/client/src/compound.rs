//! Compounds: as many objects in one call as one message can have.

use std::sync::Arc;

use bytes::Bytes;
use hermitfs_api::{Attr, Context, Errno, Inode, NameBuf, Result, Snapshot, Whole};
use hermitfs_proto::brick::{MAX_DATA, MAX_TOGETHER, Malformed, v1};

use crate::brick::Brick;
use crate::call::Nature::{Once, Reads};
use crate::client::{Client, malformed};

/// What a file takes in a message beside its content and extended attributes, more or less.
const BESIDE: usize = 512;

impl Client {
    pub(crate) async fn snapshot_together(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let asked = names.get(..MAX_TOGETHER).unwrap_or(names);
        let called = asked.iter();
        let request = v1::SnapshotRequest {
            dir: self.object(dir)?,
            names: called
                .map(|name| Bytes::copy_from_slice(name.as_bytes()))
                .collect(),
            most,
            ..v1::SnapshotRequest::default()
        };
        let send = |mut brick: Brick, request| async move { brick.snapshot(request).await };
        let fill = |_: &mut v1::SnapshotRequest, _: &[u64]| ();
        let answered = self.line.call(cx, Reads, &[], request, fill, send).await?;
        let snapshots = answered.reply.snapshots;
        must_answer(snapshots.len(), asked.len())?;
        let session = &answered.session;
        let read = |(snapshot, name): (v1::Snapshot, &NameBuf)| {
            let snapshot = snapshot.read(|entry| self.entry(session, entry))?;
            self.saw(&snapshot.entry.inode, dir, name);
            Ok(snapshot)
        };
        Ok(snapshots.into_iter().zip(asked).map(read).collect())
    }

    pub(crate) async fn make_whole_together(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let mut room = MAX_DATA;
        let fits = |file: &&Whole| {
            let left = room.checked_sub(file.bytes() + file.xattrs.len() * 16 + BESIDE);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let asked: Vec<v1::Whole> = files
            .iter()
            .take(MAX_TOGETHER)
            .take_while(fits)
            .map(Into::into)
            .collect();
        if asked.is_empty() {
            // The first one alone is too large for a message.
            return Ok(vec![Err(Errno::E2BIG.into())]);
        }
        let count = asked.len();
        let request = v1::MakeWholeRequest {
            dir: self.object(dir)?,
            files: asked,
            ..v1::MakeWholeRequest::default()
        };
        let send = |mut brick: Brick, request| async move { brick.make_whole(request).await };
        let fill = |_: &mut v1::MakeWholeRequest, _: &[u64]| ();
        let answered = self.line.call(cx, Once, &[], request, fill, send).await?;
        let made = answered.reply.made;
        must_answer(made.len(), count)?;
        let read = |made: v1::Made| match (made.errno, made.attr) {
            (0, Some(attr)) => self.attr(&answered.session, attr),
            (0, None) => Err(malformed(Malformed("attributes are missing"))),
            (raw, _) => Err(Errno::from_raw(raw).into()),
        };
        Ok(made.into_iter().map(read).collect())
    }
}

/// For one at least, and for no more than were asked for.
fn must_answer(answers: usize, asked: usize) -> Result<()> {
    match (1..=asked).contains(&answers) {
        true => Ok(()),
        false => Err(malformed(Malformed(
            "an answer for each that was asked for",
        ))),
    }
}
