//! The table of rules and scenarios names tests; that they exist is not left to chance.

use std::path::{Path, PathBuf};

/// All Rust sources below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(home.join("RULES.md")).unwrap();
    let mut paths = Vec::new();
    for part in ["txn/src", "replication/src", "storage", "server", "chaos"] {
        sources(&home.join("..").join(part), &mut paths);
    }
    let texts: Vec<String> = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    // Every other piece between back quotes is code; names of tests have several words.
    let names = table.split('`').skip(1).step_by(2);
    let names: Vec<&str> = names.filter(|name| name.matches('_').count() > 2).collect();
    assert!(names.len() > 60, "the table is read: {}", names.len());
    for name in names {
        let test = format!("fn {name}()");
        let exists = texts.iter().any(|text| text.contains(&test));
        assert!(exists, "no test is called {name}");
    }
    let scenarios = table.lines().filter(|line| {
        let number = line.split('|').nth(1).map(str::trim);
        number.is_some_and(|number| number.parse::<u32>().is_ok()) && line.contains('`')
    });
    assert!(scenarios.count() >= 26, "each scenario has a test");
}
