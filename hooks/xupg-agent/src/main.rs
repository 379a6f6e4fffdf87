//! The program in a domU that reads the xenstore flag at boot and runs the hook.
fn main() {}
