//! Which crate of ours may know which: the rooms of the design, kept.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Each crate, and what it may depend on outside of its tests.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("xen-sys", &[]),
    ("xen-xl", &["xen-sys"]),
    ("xen-store", &["xen-sys"]),
    ("xupg-images", &[]),
    ("xupg-hooks", &[]),
    ("xupg-agent", &["xupg-hooks"]),
    (
        "xupg",
        &["xen-store", "xen-xl", "xupg-hooks", "xupg-images"],
    ),
    ("xenstored-lab", &[]),
    ("guest-probe", &[]),
    ("xtask", &[]),
];

/// Checks every crate of the workspace.
///
/// # Errors
/// All edges that are not allowed, and crates that the table does not know.
pub(super) fn check() -> Result<()> {
    let metadata = super::program(&["metadata", "--format-version", "1", "--no-deps"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(metadata.status.success(), "cargo metadata failed");
    let wrong = wrong_edges(&serde_json::from_slice(&metadata.stdout)?);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn wrong_edges(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.flat_map(wrong_edges_of).collect()
}

fn wrong_edges_of(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, may_know)) = MAY_KNOW.iter().find(|(known, _)| *known == name) else {
        return vec![format!(
            "{name} is in no room: add it to the table of layers"
        )];
    };
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    dependencies
        // Tests may use what they like, build scripts may not.
        .filter(|dependency| dependency["kind"] != "dev")
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|dependency| {
            let ours = MAY_KNOW.iter().any(|(known, _)| known == dependency);
            // Whoever may not know our crates for Xen may not go around them either.
            let xen = dependency.starts_with("xen") && *dependency != "xenstore-rs";
            let agents = *dependency == "xenstore-rs" && name != "xupg-agent";
            (ours || xen || agents) && !may_know.contains(dependency)
        })
        .map(|dependency| format!("{name} must not depend on {dependency}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependency: &str, kind: Value) -> Value {
        json!({ "packages": [
            { "name": name, "dependencies": [{ "name": dependency, "kind": kind }] }
        ]})
    }

    #[test]
    fn edges_of_the_design_are_fine() {
        assert!(wrong_edges(&package("xupg", "xen-xl", Value::Null)).is_empty());
        assert!(wrong_edges(&package("xupg-agent", "xenstore-rs", Value::Null)).is_empty());
        assert!(wrong_edges(&package("xupg-agent", "xen-store", json!("dev"))).is_empty());
        assert!(wrong_edges(&package("xupg-images", "serde", Value::Null)).is_empty());
    }

    #[test]
    fn other_edges_are_named() {
        for (name, dependency, kind) in [
            ("xupg-images", "xen-store", Value::Null),
            ("xupg-images", "xupg-hooks", Value::Null),
            ("xupg-hooks", "xenstore-rs", Value::Null),
            ("xupg-agent", "xen-sys", json!("build")),
            ("xtask", "xupg-images", Value::Null),
            ("a-stranger", "serde", Value::Null),
        ] {
            let wrong = wrong_edges(&package(name, dependency, kind));
            assert!(wrong.len() == 1 && wrong[0].contains(name), "{wrong:?}");
        }
    }
}
