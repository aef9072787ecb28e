//! `synod`: the one binary.
fn main() {}
