//! Compiles the protocols without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "hermitfs/admin/v1/admin.proto",
        "hermitfs/brick/v1/brick.proto",
    ];
    println!("cargo:rerun-if-changed=hermitfs");
    let set = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".hermitfs.brick.v1")
        .compile_fds(set)?;
    Ok(())
}
