//! Link options of the library.

fn main() {
    // A JVM unloads a library when the class loader that loaded it is collected. Our runtime's
    // threads would then run unmapped code.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
