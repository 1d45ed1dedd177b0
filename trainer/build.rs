//! Gives the trainer's programs and tests an rpath to libtorch, so that they start without `LD_LIBRARY_PATH`, and links
//! libtorch's CUDA half where there is one.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(libtorch) = std::env::var("LIBTORCH") else { return };
    let libraries = Path::new(&libtorch).join("lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    // Nothing refers to a symbol of it, so a linker would leave it out, and then libtorch says that there is no CUDA.
    if libraries.join("libtorch_cuda.so").is_file() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-L{}", libraries.display());
        println!("cargo:rustc-link-arg=-ltorch_cuda");
    }
}
