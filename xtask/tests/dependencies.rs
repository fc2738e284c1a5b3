//! docs/dependencies.md and Cargo.toml say the same.

use std::collections::BTreeSet;
use std::fs;

/// The workspace's own crates, which need no reason.
const OWN: [&str; 4] = ["switch-core", "datapath", "control", "xtask"];

/// What the project was asked to build on and does not use; the page says why.
const NOT_USED: [&str; 4] = ["tun-tap", "pnet", "dashmap", "af_xdp"];

/// Names in `[workspace.dependencies]`.
fn dependencies() -> BTreeSet<String> {
    let manifest =
        fs::read_to_string(xtask::host::root().join("Cargo.toml")).expect("the workspace has a manifest");
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !OWN.contains(&name.as_str()))
        .collect()
}

/// Names in the first column of the page's tables.
fn documented() -> BTreeSet<String> {
    let page =
        fs::read_to_string(xtask::host::root().join("docs/dependencies.md")).expect("the page is there");
    page.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" |").next())
        .filter(|cell| *cell != "Crate")
        .flat_map(|cell| cell.split(", "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_dependency_has_its_reason() {
    let documented = documented();
    let missing: Vec<String> = dependencies().difference(&documented).cloned().collect();
    assert!(
        missing.is_empty(),
        "docs/dependencies.md does not name {}",
        missing.join(", ")
    );
}

#[test]
fn the_page_names_nothing_else() {
    let mut known = dependencies();
    known.extend(NOT_USED.map(str::to_owned));
    let more: Vec<String> = documented().difference(&known).cloned().collect();
    assert!(
        more.is_empty(),
        "docs/dependencies.md names {}, which Cargo.toml does not",
        more.join(", ")
    );
}
