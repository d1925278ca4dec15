/// All calls of `brick/v1`, as `method: Request => Reply;`, given to a macro: for what has to be said of each
/// of them alike.
#[macro_export]
macro_rules! each_brick_call {
    ($make:ident) => {
        $make! {
            hello: HelloRequest => HelloReply;
            ping: PingRequest => Empty;
            bye: ByeRequest => Empty;
            root: RootRequest => Entry;
            lookup: LookupRequest => Entry;
            resolve: ObjectRequest => Entry;
            locate: ObjectRequest => LocateReply;
            whence: ObjectRequest => WhenceReply;
            getattr: GetattrRequest => Attr;
            setattr: SetattrRequest => Attr;
            readlink: ObjectRequest => DataReply;
            mknod: MknodRequest => Entry;
            mkdir: MkdirRequest => Entry;
            symlink: SymlinkRequest => Entry;
            link: LinkRequest => Entry;
            unlink: NameRequest => UnlinkReply;
            rmdir: NameRequest => UnlinkReply;
            rename: RenameRequest => RenameReply;
            create: CreateRequest => CreateReply;
            open: OpenRequest => OpenReply;
            read: ReadRequest => DataReply;
            write: WriteRequest => CountReply;
            flush: FlushRequest => Empty;
            release: ReleaseRequest => Empty;
            fsync: FsyncRequest => Empty;
            fsyncdir: FsyncdirRequest => Empty;
            readdir: ReaddirRequest => ReaddirReply;
            snapshot: SnapshotRequest => SnapshotReply;
            make_whole: MakeWholeRequest => MakeWholeReply;
            getxattr: XattrRequest => DataReply;
            listxattr: ObjectRequest => DataReply;
            setxattr: SetxattrRequest => Empty;
            removexattr: XattrRequest => Empty;
            get_flags: ObjectRequest => FlagsReply;
            set_flags: SetFlagsRequest => Empty;
            get_fsx: ObjectRequest => FsxReply;
            set_fsx: SetFsxRequest => Empty;
            fallocate: FallocateRequest => Empty;
            lseek: LseekRequest => CountReply;
            copy_file_range: CopyRequest => CountReply;
            extents: ExtentsRequest => ExtentsReply;
            clone_range: CopyRequest => Empty;
            statfs: ObjectRequest => StatfsReply;
            getlk: LockRequest => GetlkReply;
            setlk: LockRequest => Empty;
            end_setlk: EndSetlkRequest => Empty;
            quiet: ObjectRequest => QuietReply;
            sync: SyncRequest => Empty;
            role: RoleRequest => RoleReply;
        }
    };
}
