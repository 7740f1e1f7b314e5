//! Every symbol must be defined, and only what the exports reach is kept.
fn main() {
    for argument in ["-Wl,-z,defs", "-Wl,--gc-sections", "-lc"] {
        println!("cargo::rustc-link-arg-cdylib={argument}");
    }
}
