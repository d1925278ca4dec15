//! What the arguments of an operation say about who and where.

use std::sync::Arc;

use hermitfs_api::*;

/// An operation's origin, and the objects and names that it is about.
#[derive(Default)]
pub(crate) struct Call<'a> {
    pub(crate) origin: Option<Origin>,
    /// An object; with a name, what stands under it there.
    at: Vec<(&'a Arc<Inode>, Option<&'a Name>)>,
}

/// An argument of an operation.
pub(crate) trait Part {
    /// Adds what it tells. By default nothing.
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        let _ = call;
    }
}

impl Part for &Context {
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        call.origin = Some(self.origin);
    }
}

impl Part for &Arc<Inode> {
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        call.at.push((self, None));
    }
}

impl Part for &Name {
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        if let Some(last) = call.at.last_mut() {
            last.1 = Some(self);
        }
    }
}

impl Part for &Arc<File> {
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        call.at.push((self.inode(), None));
    }
}

/// Names of the directory before them.
fn names_in<'a>(call: &mut Call<'a>, names: impl Iterator<Item = &'a NameBuf>) {
    if let Some((dir, None)) = call.at.pop() {
        call.at.extend(names.map(|name| (dir, Some(&**name))));
    }
}

impl Part for &[NameBuf] {
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        names_in(call, self.iter());
    }
}

impl Part for &[Whole] {
    fn tell<'a>(&'a self, call: &mut Call<'a>) {
        names_in(call, self.iter().map(|file| &file.name));
    }
}

macro_rules! silent {
    ($($ty:ty)*) => { $(impl Part for $ty {})* };
}

silent! {
    bool u32 u64 usize &[u8] &mut [u8] &Handle Option<&File> &SetAttr &Make &Lock &Fsx Allocate Lend
    OpenFlags RenameFlags Role Seek XattrFlags
}

impl Call<'_> {
    /// The paths of all that it is about, as far as the child knows them.
    pub(crate) async fn paths(&self, below: &dyn Translator) -> Vec<Vec<u8>> {
        let cx = Context::internal(Origin::Admin);
        let mut paths = Vec::new();
        for &(inode, name) in &self.at {
            if let Ok(location) = below.locate(&cx, inode).await {
                let names = location.path.iter().map(|name| &**name).chain(name);
                let path: Vec<u8> = names
                    .flat_map(|name| [b"/", name.as_bytes()].concat())
                    .collect();
                paths.push(if path.is_empty() { b"/".to_vec() } else { path });
            }
        }
        paths
    }
}
