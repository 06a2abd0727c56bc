//! The repository keeps its rules, and every rule catches what it is for.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use ash_layers::table::{BOUNDARIES, Boundary, LAYERS, MACHINE_PATH, MAX_LINES, UNSAFE_CRATE};
use ash_layers::{crates, modules, points, repository, text};

type Result = std::result::Result<(), Box<dyn Error>>;

fn fixtures() -> PathBuf {
    repository::package().join("fixtures")
}

fn check_modules(sources: &Path) -> std::io::Result<Vec<String>> {
    let texts = repository::texts(sources)?;
    let rust = texts.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "rs"));
    Ok(rust.flat_map(|(path, text)| modules::check(path, text)).collect())
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_of_ashd_name_only_what_lies_below_them() -> Result {
    none(&check_modules(&repository::root().join("ashd/src"))?);
    Ok(())
}

#[test]
fn every_layer_exists() {
    let sources = repository::root().join("ashd/src");
    let outer = LAYERS.iter().filter(|layer| !layer.module.contains("::"));
    let missing: Vec<_> = outer
        .map(|layer| layer.module)
        .filter(|module| !sources.join(module).is_dir())
        .filter(|module| !sources.join(module).with_extension("rs").is_file())
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn every_fixture_is_refused_for_its_reason() -> Result {
    let mut seen = 0;
    for entry in fs::read_dir(fixtures())? {
        let fixture = entry?.path();
        let texts = repository::texts(&fixture)?;
        let refusals = texts.iter().filter_map(|(_, text)| text.strip_prefix("//! refused: "));
        let expected: Vec<&str> = refusals.filter_map(|text| text.lines().next()).collect();
        let found = check_modules(&fixture)?;
        assert_eq!(found.len(), expected.len(), "{}: {found:?}", fixture.display());
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.ends_with(expected), "{}: {found}", fixture.display());
            seen += 1;
        }
    }
    assert!(seen >= 12, "only {seen} fixtures were refused");
    Ok(())
}

#[test]
fn crates_link_only_what_they_may() -> Result {
    for boundary in BOUNDARIES {
        let linked = crates::linked(&repository::root(), boundary.name)?;
        assert!(linked.contains(boundary.name), "{}: cargo said nothing", boundary.name);
        none(&crates::check_linked(boundary, &linked));
    }
    Ok(())
}

#[test]
fn a_crate_that_links_too_much_is_found() -> Result {
    let linked = crates::linked(&repository::root(), "ashd")?;
    let boundary = Boundary { name: "ashd", never: &["tokio", "syn-no"], because: "it is a test" };
    let found = crates::check_linked(&boundary, &linked);
    assert_eq!(found, ["ashd links tokio, but it is a test"]);
    assert!(crates::check_linked(&boundary, &BTreeSet::new()).is_empty());
    Ok(())
}

#[test]
fn members_inherit_the_lints() -> Result {
    let root = repository::root();
    let mut wrong = Vec::new();
    for member in crates::members(&fs::read_to_string(root.join("Cargo.toml"))?)? {
        let manifest = fs::read_to_string(root.join(&member).join("Cargo.toml"))?;
        let may_differ = member == UNSAFE_CRATE;
        wrong.extend(crates::check_manifest(Path::new(&member), &manifest, may_differ));
    }
    none(&wrong);
    Ok(())
}

#[test]
fn a_manifest_with_lints_of_its_own_is_found() {
    let here = Path::new("x");
    assert!(crates::check_manifest(here, "[lints]\nworkspace = true\n", false).is_none());
    assert!(
        crates::check_manifest(here, "[lints.rust]\nunsafe_code = \"allow\"\n", false).is_some()
    );
    assert!(crates::check_manifest(here, "[package]\n", false).is_some());
    assert!(crates::check_manifest(here, "not TOML", false).is_some());
}

#[test]
fn sources_are_safe_run_all_tests_and_stay_short() -> Result {
    let mut wrong = Vec::new();
    for (path, text) in repository::texts(&repository::root())? {
        if path.extension().is_some_and(|it| it == "rs") {
            wrong.extend(text::check_source(&path, &text, path.starts_with(UNSAFE_CRATE)));
        }
    }
    none(&wrong);
    Ok(())
}

#[test]
fn a_source_that_breaks_a_rule_is_found() {
    let check = |path: &str, text: &str| text::check_source(Path::new(path), text, false);
    let breaks = [
        ("fn f() { unsafe { g() } }", "a/src/x.rs:1: unsafe code outside its one crate"),
        ("#[test]\n#[ignore]\nfn f() {}", "a/src/x.rs:2: a test that is never run"),
        ("#![allow(dead_code)]", "a/src/x.rs:1: allow instead of expect"),
        ("fn f( {", "a/src/x.rs is not Rust: "),
    ];
    for (source, expected) in breaks {
        let found = check("a/src/x.rs", source);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{source}: {found:?}");
    }
    none(&check("a/src/x.rs", "// unsafe #[ignore] #[allow(x)]\nconst A: &str = \"unsafe\";"));
    assert!(text::check_source(Path::new("x.rs"), "unsafe fn f() {}", true).is_empty());
}

#[test]
fn a_long_source_is_found_but_its_tests_do_not_count() {
    let lines = "const A: u8 = 0;\n".repeat(MAX_LINES);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{lines}}}\n");
    let check = |path: &str, text: &str| text::check_source(Path::new(path), text, false);
    none(&check("a/src/x.rs", &format!("{lines}{tests}")));
    none(&check("a/tests/x.rs", &format!("{lines}{lines}")));
    let found = check("tests/a/src/x.rs", &format!("{lines}// one more\n{tests}"));
    assert_eq!(found, ["tests/a/src/x.rs: 501 lines, at most 500"]);
}

#[test]
fn texts_name_no_registry_and_no_machine() -> Result {
    let texts = repository::texts(&repository::root())?;
    let written = texts.iter().filter(|(path, _)| !path.ends_with("Cargo.lock"));
    none(&written.flat_map(|(path, text)| text::check_words(path, text)).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_text_that_says_too_much_is_found() {
    let check = |text: &str| text::check_words(Path::new("x.md"), text).len();
    assert_eq!(check(&format!("see {MACHINE_PATH}/a\n`{MACHINE_PATH}`")), 2);
    assert_eq!(check(&format!("{MACHINE_PATH}space and a{MACHINE_PATH}/b")), 0);
    assert_eq!(check(concat!("from https://pypi.", "org/simple")), 1);
}

#[test]
fn every_fuzz_target_has_a_corpus() -> Result {
    none(&repository::check_corpora(&repository::root())?);
    Ok(())
}

#[test]
fn an_empty_corpus_is_found() -> Result {
    let scratch = tempfile::tempdir()?;
    let fuzz = scratch.path().join("fuzz");
    fs::create_dir_all(fuzz.join("fuzz_targets"))?;
    fs::write(fuzz.join("fuzz_targets/frames.rs"), "")?;
    fs::create_dir_all(fuzz.join("corpus/frames"))?;
    assert_eq!(repository::check_corpora(scratch.path())?.len(), 1);
    fs::write(fuzz.join("corpus/frames/hello"), "x")?;
    none(&repository::check_corpora(scratch.path())?);
    Ok(())
}

#[test]
fn fault_points_are_passed_and_listed_once() -> Result {
    for (program, least) in [("ashd", 80), ("bridge", 10), ("bridge/launcher", 8)] {
        let sources = repository::root().join(program).join("src");
        let listed = points::listed(&fs::read_to_string(sources.join("fault/points.rs"))?)?;
        assert!(listed.len() > least, "only {} points of {program} are listed", listed.len());
        let texts = repository::texts(&sources)?;
        let mut passed = Vec::new();
        let rust = texts.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "rs"));
        for (path, text) in rust {
            let found = points::passed(text)?.into_iter();
            passed.extend(found.map(|(name, line)| (path.as_path(), name, line)));
        }
        none(&points::check(&passed, &listed));
    }
    Ok(())
}

#[test]
fn a_fault_point_that_is_not_passed_or_not_listed_is_found() -> Result {
    let table = "pub const POINTS: &[(&str, &str)] = &[(\"a\", \"one\"), (\"b\", \"two\")];";
    let listed = points::listed(table)?;
    assert_eq!(listed, ["a", "b"]);
    let source = "fn f() -> R { fault::point(\"a\"); g().and_then(|()| fault::fail(\"c\")) }
        fn g() { fault::point(NAME) }
        #[cfg(test)]
        mod tests { fn f() { fault::point(\"b\") } }";
    let passed: Vec<_> = points::passed(source)?
        .into_iter()
        .map(|(name, line)| (Path::new("x.rs"), name, line))
        .collect();
    let expected = [
        "x.rs:1: the fault point \"c\" is not listed",
        "x.rs:2: the fault point \"\" is not listed",
        "the fault point \"b\" is passed in 0 places, not in one",
    ];
    assert_eq!(points::check(&passed, &listed), expected);
    let twice = [passed[0].clone(), passed[0].clone()];
    assert_eq!(points::check(&twice, &listed[..1]).len(), 1);
    Ok(())
}

/// Functions in which files get other names and no daemon dies on behalf of a test, and why.
const UNMARKED: [(&str, &str, &str); 8] = [
    ("sandbox/floor.rs", "own_bwrap", "it is copied at every start"),
    ("session/attachments.rs", "move_into", "attach.kept is behind it"),
    ("session/moved/agent.rs", "put", "import.agent is behind it"),
    ("snapshot/damage.rs", "write", "what is lost is found out again"),
    ("snapshot/scan.rs", "replace", "what is lost is read again"),
    ("tree/place.rs", "put", "write.staged is before it, and write.placed behind"),
    ("tree/place.rs", "move_out", "what is taken out is nobody's"),
    ("tree/remove.rs", "up", "all of it goes"),
];

#[test]
fn every_rename_is_at_a_fault_point() -> Result {
    let mut found = BTreeSet::new();
    for (path, text) in repository::texts(&repository::root().join("ashd/src"))? {
        let is_rust = path.extension().is_some_and(|it| it == "rs");
        let names = path.with_extension("");
        let is_of_tests = names.iter().any(|name| name.to_string_lossy().ends_with("tests"));
        if is_rust && !is_of_tests {
            let path = path.display().to_string();
            let functions = points::unmarked_renames(&text)?.into_iter();
            found.extend(functions.map(|function| (path.clone(), function)));
        }
    }
    let known = UNMARKED.map(|(path, function, _)| (path.to_owned(), function.to_owned()));
    assert_eq!(found, BTreeSet::from(known));
    Ok(())
}

#[test]
fn a_rename_at_no_fault_point_is_found() -> Result {
    let source = "fn a() { fs::rename(x, y)?; fault::point(\"a\"); }
        impl B { fn b(&self) -> R { retry(|| fs::renameat(x, y)) } }
        fn c(rename: fn(&str) -> u8);
        fn d() { struct D { #[serde(rename = \"type\")] kind: u8 } }
        #[cfg(test)]
        mod tests { fn e() { fs::rename(x, y) } }";
    assert_eq!(points::unmarked_renames(source)?, ["b"]);
    Ok(())
}

/// A release has no fault points: nobody asks for the feature but the development build.
#[test]
fn only_the_development_build_has_fault_points() -> Result {
    let root = repository::root();
    for name in ["ashd", "ash-fault"] {
        assert_eq!(crates::features(&root, name, &["--features", "faults"])?, "faults");
        assert_eq!(crates::features(&root, name, &[])?, "");
    }
    let texts = repository::texts(&root)?;
    for (feature, asks) in
        [("ashd/faults", "scripts/lib.sh"), ("ash-fault/faults", "ashd/Cargo.toml")]
    {
        let named = texts
            .iter()
            .filter(|(path, text)| !path.starts_with("tests/layers") && text.contains(feature));
        let named: Vec<_> = named.map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(named, [asks], "{feature}");
    }
    Ok(())
}
