//! The look at the CPU that runs before everything else in this crate's programs.

fn main() {
    println!("cargo::rerun-if-changed=cpu.c");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        // An object, not a library: nothing refers to it, so a linker would leave it out.
        for object in cc::Build::new()
            .file("cpu.c")
            .opt_level(1)
            .compile_intermediates()
        {
            println!("cargo::rustc-link-arg-bins={}", object.display());
        }
    }
}
