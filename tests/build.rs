//! Gives the binaries and tests a run path to libtorch: torch-sys links it but cannot set another crate's path.
//! `$ORIGIN/lib` comes first, so that a deployment may put the libraries beside the binary.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/lib");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
        if std::path::Path::new(&libtorch).join("lib/libtorch_cuda.so").exists() {
            // Nothing refers to a symbol of libtorch_cuda: without this the linker drops it and CUDA is "not available".
            println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-L{libtorch}/lib,-ltorch_cuda,--as-needed");
        }
    }
}
