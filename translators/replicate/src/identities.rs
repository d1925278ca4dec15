//! Whether the source keeps what marks go by: an object's identity, for as long as it lives.
//!
//! Where a change gives an object another one, a mark that was made under the old one leads to nothing, and a name
//! that is not marked may show what was never copied. So from then on the sink is not relied upon.

use std::sync::OnceLock;

use hermitfs_api::Inode;

/// What was found out at the end of users' operations.
#[derive(Debug, Default)]
pub(crate) struct Identities(OnceLock<String>);

impl Identities {
    /// The first of some objects that a change has given another identity, unless that was told before.
    pub(crate) fn lost<'a, T: AsRef<Inode>>(&self, changed: &[&'a T]) -> Option<&'a T> {
        let lost = changed
            .iter()
            .find(|object| object.as_ref().is_renumbered());
        lost.filter(|_| self.0.get().is_none()).copied()
    }

    /// Where that was, as a path for people.
    pub(crate) fn tell(&self, path: &str) {
        let sentence = format!(
            "{path} has got another number by a change: the old brick does not keep what tells its files apart, so \
             the new one cannot be relied upon. Nobody lost anything; give up with `hermitfs abort`, and copy the old \
             brick while nobody works in it"
        );
        if self.0.set(sentence.clone()).is_ok() {
            tracing::error!("{sentence}");
        }
    }

    /// Why no cut-over may come, if so.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hermitfs_api::{
        Attr, Context, File, Filter, Make, Name, OpenFlags, Result, Role, SetAttr, Translator,
        async_trait, block_on,
    };
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::HEAL;
    use crate::ledger::Ledger;
    use crate::leg::Leg;
    use crate::users::{UserLeg, Users};

    const USER: Context = Context::internal(hermitfs_api::Origin::Admin);

    /// A brick that makes another object of what is opened to write, or gets other attributes.
    struct CopiesUp(Memory);

    #[async_trait]
    impl Filter for CopiesUp {
        fn below(&self) -> &dyn Translator {
            &self.0
        }

        async fn open(
            &self,
            cx: &Context,
            inode: &Arc<Inode>,
            flags: OpenFlags,
        ) -> Result<Arc<File>> {
            if flags.writes() {
                inode.renumber();
            }
            self.0.open(cx, inode, flags).await
        }

        async fn setattr(
            &self,
            cx: &Context,
            inode: &Arc<Inode>,
            file: Option<&File>,
            set: &SetAttr,
        ) -> Result<Attr> {
            inode.renumber();
            self.0.setattr(cx, inode, file, set).await
        }
    }

    /// Whether anything is known to be wrong, and to be compared, after a user's operation on a file.
    fn is_noticed(operation: impl FnOnce(&Users, &Arc<Inode>)) -> bool {
        let brick: Arc<dyn Translator> = Arc::new(CopiesUp(Memory::with_dev(1)));
        block_on(brick.role(Role::Plain)).unwrap();
        let root = block_on(brick.root(&HEAL)).unwrap().inode;
        let leg = Arc::new(Leg::in_memory(Ledger::default(), Vec::new()));
        let users = Users {
            source: brick,
            root: root.clone(),
            legs: vec![UserLeg {
                leg: leg.clone(),
                held: Default::default(),
                copies: Default::default(),
            }],
            gate: Default::default(),
            rest: 0,
            leases: Default::default(),
            identities: Default::default(),
        };
        let make = Make {
            kind: hermitfs_api::Kind::File,
            mode: 0o644,
            umask: 0,
            rdev: 0,
        };
        let name = Name::new(b"file").unwrap();
        let file = block_on(users.mknod(&USER, &root, name, &make)).unwrap();
        assert_eq!(users.identities.reason(), None);
        operation(&users, &file.inode);
        let compared = leg.ledger(|ledger| ledger.unverified() && ledger.trees() == 1);
        let told = users.identities.reason();
        assert_eq!(told.is_some(), compared);
        told.is_some_and(|told| told.starts_with("/file "))
    }

    #[test]
    fn a_file_that_is_another_one_after_a_change_is_noticed_at_the_end_of_the_change() {
        let mode = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        assert!(is_noticed(|users, file| {
            block_on(users.setattr(&USER, file, None, &mode)).unwrap();
        }));
        assert!(is_noticed(|users, file| {
            block_on(users.open(&USER, file, OpenFlags::WRITE)).unwrap();
        }));
        assert!(!is_noticed(|users, file| {
            block_on(users.open(&USER, file, OpenFlags::READ)).unwrap();
        }));
    }
}
