//! Keeps what `docs/architecture.md` promises about the shape of the code: who may know whom, what does not happen
//! where, and how long things may get.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Non-test lines of one file.
const FILE_LINES_MAX: usize = 500;
/// Lines of one function.
const FUNCTION_LINES_MAX: usize = 70;

/// Package -> our packages that it may depend on. `docs/architecture.md` draws it.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("meridian-proto", &[]),
    ("meridian-runtime", &["meridian-proto"]),
    ("meridian-models", &["meridian-proto"]),
    ("meridian-regions", &["meridian-proto"]),
    ("meridian-kernels", &[]),
    (
        "meridian-engine",
        &["meridian-proto", "meridian-models", "meridian-kernels"],
    ),
    (
        "geo-router",
        &["meridian-proto", "meridian-runtime", "meridian-regions"],
    ),
    (
        "edge-node",
        &[
            "meridian-proto",
            "meridian-runtime",
            "meridian-models",
            "meridian-engine",
            "meridian-regions",
        ],
    ),
    (
        "control-plane",
        &[
            "meridian-proto",
            "meridian-runtime",
            "meridian-models",
            "meridian-regions",
        ],
    ),
    (
        "fleet",
        &[
            "meridian-proto",
            "meridian-runtime",
            "meridian-models",
            "meridian-engine",
            "meridian-regions",
        ],
    ),
];

/// Heavy crate -> the packages that may name it.
const OWNERS: &[(&str, &[&str])] = &[
    ("tract-onnx", &["meridian-engine"]),
    ("ort", &["meridian-engine"]),
    ("sled", &["edge-node", "control-plane"]),
    ("quinn", &["meridian-runtime"]),
    ("rustls", &["meridian-runtime"]),
    ("hickory-proto", &["geo-router", "meridian-tests"]),
    ("tokenizers", &["meridian-engine"]),
];

/// Folder -> words that must not stand in its code (tests excepted), and why.
const ABSENT: &[(&str, &[&str], &str)] = &[
    (
        "proto/src",
        &[
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "tokio::",
            "SystemTime",
            "Instant",
        ],
        "proto is pure",
    ),
    (
        "regions/src",
        &[
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "tokio::",
            "SystemTime",
            "Instant",
        ],
        "regions opens no socket, file or clock",
    ),
    (
        "models/src",
        &["std::net", "tokio::", "SystemTime"],
        "models knows no network",
    ),
    (
        "models/engine/src",
        &["tokio::", "std::net::Tcp"],
        "inference runs on OS threads and opens no socket",
    ),
    (
        "control-plane/src",
        &["tract_", "engine::"],
        "the control plane runs no model",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder)
            .expect("source folders can be read")
            .flatten()
        {
            let path = item.path();
            let name = item.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn is_test(path: &Path) -> bool {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    inside
        .components()
        .any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "tests.rs" | "benches" | "fuzz")))
}

/// A file's lines before its `#[cfg(test)] mod ..`.
fn production(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("sources are text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let inline_tests = lines
        .windows(2)
        .position(|w| w[0] == "#[cfg(test)]" && w[1].starts_with("mod ") && w[1].ends_with('{'));
    lines.into_iter().take(inline_tests.unwrap_or(usize::MAX)).collect()
}

fn workspace() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let name = |v: &serde_json::Value| v["name"].as_str().unwrap_or_default().to_owned();
    let normal = |d: &&serde_json::Value| d["kind"].is_null();
    let packages = metadata["packages"].as_array().expect("a workspace has packages");
    let dependencies = |p: &serde_json::Value| {
        p["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(normal)
            .map(name)
            .collect()
    };
    packages.iter().map(|p| (name(p), dependencies(p))).collect()
}

#[test]
fn nobody_knows_more_of_our_packages_than_the_drawing_allows() {
    let packages = workspace();
    for (package, dependencies) in &packages {
        if package == "meridian-tests" {
            continue;
        }
        let allowed = MAY_KNOW.iter().find(|(p, _)| p == package).map(|(_, a)| *a);
        let allowed = allowed.unwrap_or_else(|| panic!("`{package}` is not in the drawing: add it to MAY_KNOW"));
        let ours = dependencies.iter().filter(|d| packages.contains_key(*d));
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "`{package}` may not know `{dependency}`"
            );
        }
    }
}

#[test]
fn each_heavy_crate_has_its_owner() {
    for (package, dependencies) in workspace() {
        for (heavy, owners) in OWNERS {
            let knows = dependencies.iter().any(|d| d == heavy);
            assert!(
                !knows || owners.contains(&package.as_str()),
                "`{package}` may not use `{heavy}`"
            );
        }
    }
}

#[test]
fn what_must_not_happen_in_a_folder_is_not_written_there() {
    // The artifact store is the one file of `models` that touches the disk; entropy and clocks stay out there too.
    for (folder, words, why) in ABSENT {
        for path in sources(&root().join(folder)).iter().filter(|p| !is_test(p)) {
            for (number, line) in production(path).iter().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let found = words.iter().find(|w| code.contains(**w));
                assert!(
                    found.is_none(),
                    "{}:{}: `{}`: {why}",
                    path.display(),
                    number + 1,
                    found.unwrap_or(&"")
                );
            }
        }
    }
}

#[test]
fn no_file_is_longer_than_a_reader_holds() {
    for path in sources(&root()).iter().filter(|p| !is_test(p)) {
        let lines = production(path).len();
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines, allowed is {FILE_LINES_MAX}: split it",
            path.display()
        );
    }
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut long = Vec::new();
    for path in sources(&root()).iter().filter(|p| !is_test(p)) {
        let lines = production(path);
        for (start, line) in lines.iter().enumerate() {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            let begins = [
                "fn ",
                "pub fn ",
                "pub(super) fn ",
                "pub(crate) fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) async fn ",
                "pub(crate) async fn ",
            ];
            if !begins.iter().any(|b| text.starts_with(b)) {
                continue;
            }
            let head = lines[start..]
                .iter()
                .find(|l| l.ends_with('{') || l.ends_with(';') || l.ends_with('}'));
            if !head.is_some_and(|l| l.ends_with('{')) {
                continue; // a trait's promise, or a body on the same line
            }
            // rustfmt puts the closing brace of a function at the indent of its first line.
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|l| *l == close).map_or(1, |n| n + 1);
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{} has {length} lines: {text}", path.display(), start + 1));
            }
        }
    }
    assert!(
        long.is_empty(),
        "{FUNCTION_LINES_MAX} lines are allowed, and not kept by\n{}",
        long.join("\n")
    );
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for path in sources(&root()) {
        let text = std::fs::read_to_string(&path).expect("sources are text");
        let first = text
            .lines()
            .find(|l| !l.is_empty() && !l.starts_with("#!"))
            .unwrap_or_default();
        let is_moved_out_test = path.file_name().is_some_and(|n| n == "tests.rs") || is_test(&path);
        assert!(
            first.starts_with("//!") || is_moved_out_test,
            "{} begins without `//!`",
            path.display()
        );
    }
}

#[test]
fn unsafe_stands_only_where_it_is_argued() {
    let allowed = ["models/engine/kernels/src/"];
    for path in sources(&root()).iter().filter(|p| !is_test(p)) {
        let inside = path
            .strip_prefix(root())
            .expect("sources lie in the workspace")
            .to_string_lossy()
            .into_owned();
        let found = production(path)
            .iter()
            .any(|l| l.split("//").next().unwrap_or_default().contains("unsafe {"));
        assert!(
            !found || allowed.iter().any(|a| inside.starts_with(a)),
            "{inside} has an unsafe block"
        );
    }
}

#[test]
fn there_is_no_drawer_for_odds_and_ends() {
    for path in sources(&root()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(
            !["utils.rs", "helpers.rs", "common.rs", "misc.rs"].contains(&name.as_str()),
            "{}",
            path.display()
        );
    }
}
