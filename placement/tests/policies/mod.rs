//! The policies that a cluster starts with, and their tables, as files.

/// A file of this crate.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// All default policies, in their order.
pub fn defaults() -> String {
    let directory = format!("{}/policies", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    names.sort();
    assert!(names.len() >= 8);
    names
        .iter()
        .map(|name| read(&format!("policies/{name}")) + "\n")
        .collect()
}
