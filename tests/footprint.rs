//! Checks that the README's table and picture are those of the saved run, so they cannot drift apart.
//!
//! After a new run, or a change in `tests/common/src/footprint`, run:
//!
//! ```text
//! cargo bench --bench footprint -- --from benches/record/RECORD.json --svg benches/record/RECORD.svg --markdown
//! ```
//!
//! Then put its output between the two comments in the README.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::footprint::record::{Kind, Record, goals};
use common::footprint::{picture, tables};
use common::number::number;
use common::output::Output;
use serde_json::Value;

const README: &str = include_str!("../README.md");

/// The file that the README names as the record.
fn record_path() -> PathBuf {
    let end = README.find(".json)").expect("the README links a JSON file") + ".json".len();
    let start = README[..end].rfind("benches/record/").expect("it is among the records");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(&README[start..end])
}

fn saved() -> Record {
    serde_json::from_str(&fs::read_to_string(record_path()).unwrap()).unwrap()
}

#[test]
fn the_table_in_the_readme_is_that_of_the_record() {
    let (begin, end) = ("<!-- footprint: begin -->\n", "<!-- footprint: end -->");
    let table = README.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
    let (table, _) = table.expect("the README has the two comments");
    assert_eq!(table, tables::markdown(&saved()), "see the head of this file");
}

#[test]
fn the_picture_is_that_of_the_record() {
    let picture = fs::read_to_string(record_path().with_extension("svg")).unwrap();
    assert!(picture == picture::svg(&saved()), "see the head of this file");
    let name = record_path().with_extension("svg");
    let name = format!("benches/record/{}", name.file_name().unwrap().display());
    assert!(README.contains(&name), "the README shows {name}");
}

/// The README's table of the pod contains the figures of the records that `pod-overhead --json` wrote.
#[test]
fn the_table_of_the_pod_is_that_of_its_records() {
    let charged = |pause: &str, handler: &str| -> u64 {
        let stem = record_path().file_stem().unwrap().display().to_string();
        let path = record_path().with_file_name(format!("{stem}-pods-{pause}.json"));
        let saved: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let runs = saved["runs"].as_array().unwrap();
        let run = runs.iter().find(|run| run["subject"]["handler"] == handler).unwrap();
        let figures = run["figures"].as_array().unwrap();
        let figure = figures.iter().find(|figure| figure["name"] == "charged").unwrap();
        figure["value"].as_f64().unwrap() as u64
    };
    for (handler, version) in [("runc", "1.1"), ("crun", "1.8")] {
        let (ours, theirs) = (charged("pause", handler), charged("pause-3.9", handler));
        let row =
            format!("| charged to the sandbox, {handler} {version}, KiB | {ours} | {theirs} |");
        assert!(README.contains(&row), "the README should have {row}");
    }
}

/// The record is of the program in this repository. Another compiler may make the program a few bytes larger
/// or smaller, so only a larger difference requires a new run.
#[test]
fn the_record_is_of_this_program() {
    let record = saved();
    let pause = record.programs.iter().find(|program| program.kind == Kind::Pause).unwrap();
    let headline = format!("{} bytes", number(pause.file_bytes));
    let text = README.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&headline), "the README says {headline}");
    if record.machine.architecture == std::env::consts::ARCH {
        let difference = pause.file_bytes.abs_diff(podpause::ELF.len() as u64);
        assert!(difference < 50, "make a new run");
    }
}

/// The goals in the record follow from its figures.
#[test]
fn the_goals_are_those_of_the_figures() {
    let record = saved();
    let found = goals(&record.programs);
    assert_eq!(found.len(), record.goals.len());
    for (found, saved) in found.iter().zip(&record.goals) {
        assert_eq!((&found.what, found.limit), (&saved.what, saved.limit));
        // JSON may lose the last digit.
        let difference = found.measured.unwrap_or(-1.0) - saved.measured.unwrap_or(-1.0);
        assert!(difference.abs() < 1e-9, "{}: {difference}", found.what);
    }
}

/// The files that the benchmark writes: an earlier one is kept until the new one is complete.
#[test]
fn an_output_file_is_written_completely_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let names = || common::folder::files(folder.path());
    drop(Output::new(&path("run.json")).unwrap());
    assert!(names().is_empty());
    Output::new(&path("run.json")).unwrap().write("first").unwrap();
    symlink("run.json", path("latest.json")).unwrap();
    let second = Output::new(&path("latest.json")).unwrap();
    assert_eq!(fs::read_to_string(path("run.json")).unwrap(), "first");
    second.write("second").unwrap();
    assert_eq!(fs::read_to_string(path("run.json")).unwrap(), "second");
    assert!(path("latest.json").is_symlink());
    assert_eq!(names().len(), 2, "no temporary file is left");
}

/// The benchmark often runs as root, which could replace a device by a file.
#[test]
fn an_output_file_replaces_nothing_but_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let dangling = folder.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    let missing = folder.path().join("missing/run.json");
    for (path, expected) in [
        (folder.path(), "it is not a regular file"),
        (Path::new("/dev/null"), "it is not a regular file"),
        (&dangling, "No such file or directory"),
        (&missing, "No such file or directory"),
    ] {
        let error = Output::new(path).err().unwrap();
        assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
    }
}
