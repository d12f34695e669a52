//! Lists the licences of the crates inside the programs, which require their notices to be distributed with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Prefixes of the names of licence and notice files, in lower case.
const FILES: [&str; 7] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
    "authors",
];

/// Lists each external crate that `program` of `package` links for `target`, with its licence; then each distinct licence
/// text with the crates that it belongs to.
pub(crate) fn of_program(program: &str, package: &str, target: &str) -> Result<String> {
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform",
        target,
    ])?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata: expected JSON")?;
    // The metadata has the features of the whole workspace, so it does not show what is linked.
    let tree = cargo(&[
        "tree",
        "--package",
        package,
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--format={p}",
        "--target",
        target,
    ])?;
    // "anyhow 1.0.104", of lines such as "anyhow v1.0.104 (*)".
    let linked = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let version = words.next()?.strip_prefix('v')?;
            Some(format!("{name} {version}"))
        })
        .collect();
    list(program, &metadata, &linked)
}

/// Runs cargo and returns its output.
fn cargo(arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .arg("--locked")
        .args(arguments)
        .output()
        .context("cargo: expected to run")?;
    ensure!(
        output.status.success(),
        "cargo {}: {}",
        arguments[0],
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("cargo: expected UTF-8")
}

fn list(program: &str, metadata: &Value, linked: &BTreeSet<String>) -> Result<String> {
    let mut text = format!(
        "{program} contains Rust's standard library (https://www.rust-lang.org, MIT OR Apache-2.0) and these crates\n\
         (https://crates.io). Their licence texts follow.\n\n",
    );
    // The key is the text without line breaks, as some texts differ in nothing else.
    let mut texts = BTreeMap::<String, (String, BTreeSet<String>)>::new();
    let mut rows = BTreeSet::new();
    for package in array(metadata, "packages")? {
        let name = format!(
            "{} {}",
            string(package, "name")?,
            string(package, "version")?
        );
        if package["source"].is_null() || !linked.contains(&name) {
            continue;
        }
        let authors: Vec<_> = array(package, "authors")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        rows.insert(format!(
            "{name}: {}{}{}\n",
            package["license"].as_str().unwrap_or("see its text"),
            if authors.is_empty() { "" } else { "; by " },
            authors.join(", ")
        ));
        let folder = Path::new(string(package, "manifest_path")?)
            .parent()
            .context("cargo metadata: expected a manifest in a folder")?;
        let mut found = !package["license"].is_null();
        for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
            let path = entry?.path();
            let file = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase();
            if !FILES.iter().any(|start| file.starts_with(start)) || !path.is_file() {
                continue;
            }
            let licence =
                fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            let words = licence.split_whitespace().collect::<Vec<_>>().join(" ");
            texts
                .entry(words)
                .or_insert((licence, BTreeSet::new()))
                .1
                .insert(name.clone());
            found = true;
        }
        ensure!(
            found,
            "{name}: expected a licence in its manifest or a file with one"
        );
    }
    text.extend(rows);
    for (licence, crates) in texts.values() {
        let crates: Vec<_> = crates.iter().map(String::as_str).collect();
        write!(
            text,
            "\n{}\n{}\n\n{}\n",
            "=".repeat(80),
            crates.join(", "),
            licence.trim_end()
        )?;
    }
    Ok(text)
}

fn array<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field]
        .as_array()
        .with_context(|| format!("cargo metadata: expected a list {field}"))
}

fn string<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("cargo metadata: expected a string {field}"))
}
