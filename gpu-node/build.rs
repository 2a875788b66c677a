//! Builds the shim over what tch does not reach of libtorch, and gives the binaries and tests a run path to it: torch-sys links
//! it but cannot set another crate's path. `$ORIGIN/lib` comes first, so that a deployment may put the libraries beside the
//! binary.

fn main() {
    build_shim();
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

/// With the C++ compiler that torch-sys needs anyway, against the same headers.
fn build_shim() {
    let source = "src/diffusion/device/shim.cpp";
    println!("cargo:rerun-if-changed={source}");
    let libtorch = std::env::var("LIBTORCH").unwrap_or_else(|_| {
        println!("cargo:warning=LIBTORCH is not set: `eval $(make env)` sets it");
        std::process::exit(1);
    });
    cc::Build::new()
        .cpp(true)
        .file(source)
        .std("c++17")
        // As libtorch was built: classes of its headers have members more without it.
        .define("NDEBUG", None)
        .flag("-isystem")
        .flag(format!("{libtorch}/include"))
        .warnings(true)
        .compile("bildkante_shim");
}
