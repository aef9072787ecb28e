//! The workspace as cargo describes it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// A crate of the workspace.
#[derive(Debug)]
pub struct Package {
    /// Its folder, relative to the root.
    pub folder: String,
    /// Names of all crates that it depends on, for whatever purpose.
    pub dependencies: Vec<String>,
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map(Path::to_owned)
        .unwrap_or_else(|| here.to_owned())
}

/// The program that runs cargo: the one that runs this.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Cargo, for one verb, with the simulator in the place of tokio. What it builds stands apart: its flags differ, and
/// would rebuild everything each time.
pub fn simulated_cargo(verb: &str) -> Command {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = cargo();
    command
        .env("RUSTFLAGS", format!("{flags} --cfg madsim").trim())
        .args([verb, "--profile", "simulated"])
        .args(["--target-dir", "target/madsim"]);
    command
}

/// The crates of the workspace, by name.
pub fn packages() -> Result<BTreeMap<String, Package>, String> {
    let output = cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata is no JSON: {error}"))?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata names no packages")?;
    packages.iter().map(package).collect()
}

fn package(package: &Value) -> Result<(String, Package), String> {
    let text = |value: &Value| {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or("cargo metadata has changed")
    };
    let manifest = PathBuf::from(text(&package["manifest_path"])?);
    let folder = manifest
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let dependencies = package["dependencies"]
        .as_array()
        .ok_or("cargo metadata has changed")?;
    let dependencies = dependencies
        .iter()
        .map(|dependency| text(&dependency["name"]))
        .collect::<Result<_, _>>()?;
    let folder = folder.to_string_lossy().into_owned();
    Ok((
        text(&package["name"])?,
        Package {
            folder,
            dependencies,
        },
    ))
}
