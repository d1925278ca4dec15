use std::sync::Arc;

use hermitfs_api::*;

/// A filter that takes compounds apart: what is below it meets their steps one by one.
pub struct BySteps(pub Arc<dyn Translator>);

#[async_trait]
impl Filter for BySteps {
    fn below(&self) -> &dyn Translator {
        &*self.0
    }

    async fn snapshot(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        snapshot_by_steps(&*self.0, cx, dir, names, most).await
    }

    async fn make_whole(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        make_whole_by_steps(&*self.0, cx, dir, files).await
    }
}
