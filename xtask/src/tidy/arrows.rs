//! The arrows between crates: what may depend on what.

use std::collections::BTreeMap;

use super::Finding;
use crate::workspace::Package;

/// For each crate, the crates of the workspace that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("synod-membership", &[]),
    ("synod-placement", &[]),
    ("synod-testpoint", &[]),
    ("synod-storage", &["synod-testpoint"]),
    ("synod-client", &[]),
    ("synod-replication", &["synod-storage", "synod-testpoint"]),
    (
        "synod-txn",
        &["synod-replication", "synod-storage", "synod-testpoint"],
    ),
    (
        "synod",
        &[
            "synod-client",
            "synod-membership",
            "synod-placement",
            "synod-replication",
            "synod-storage",
            "synod-testpoint",
            "synod-txn",
        ],
    ),
    (
        "synod-chaos",
        &[
            "synod",
            "synod-client",
            "synod-membership",
            "synod-placement",
            "synod-replication",
            "synod-storage",
            "synod-testpoint",
            "synod-txn",
        ],
    ),
    (
        "synod-benches",
        &[
            "synod",
            "synod-client",
            "synod-membership",
            "synod-placement",
            "synod-replication",
            "synod-storage",
            "synod-txn",
        ],
    ),
    ("xtask", &[]),
];

/// The arrows that point where they may not.
pub fn check(packages: &BTreeMap<String, Package>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, package) in packages {
        let path = format!("{}/Cargo.toml", package.folder);
        let finding = |what: String| Finding {
            path: path.clone(),
            line: 0,
            what,
        };
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            findings.push(finding(format!("{name} is not in the map of crates")));
            continue;
        };
        let ours = package
            .dependencies
            .iter()
            .filter(|name| packages.contains_key(*name));
        for dependency in ours.filter(|dependency| !allowed.contains(&dependency.as_str())) {
            findings.push(finding(format!("{name} may not depend on {dependency}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_against_the_grain_is_found() {
        let package = |folder: &str, dependencies: &[&str]| Package {
            folder: folder.to_owned(),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        };
        let packages = BTreeMap::from([
            (
                "synod-storage".to_owned(),
                package("storage", &["synod-txn", "bytes"]),
            ),
            ("synod-txn".to_owned(), package("txn", &["synod-storage"])),
            ("synod-extra".to_owned(), package("extra", &[])),
        ]);
        let found: Vec<String> = check(&packages).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "extra/Cargo.toml: synod-extra is not in the map of crates",
                "storage/Cargo.toml: synod-storage may not depend on synod-txn",
            ]
        );
    }
}
