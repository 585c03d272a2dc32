use super::*;

#[test]
fn data_is_taken_for_what_it_is() {
    let world = World::new();
    let cases = root().join("tests/fixtures/cases");
    let mut all: Vec<_> = crate::source::root().join("tests/fixtures/cases").read_dir().unwrap().flat_map(|d| d.unwrap().path().read_dir().unwrap().map(|e| e.unwrap().path())).collect();
    all.sort();
    for path in all {
        let name = path.strip_prefix(&cases).unwrap().display().to_string();
        let (code, said) = run(&world, &["train", "-m", "old.json", "--data", path.to_str().unwrap(), "--out", "a.gguf", "--epochs", "1"]);
        println!("CASE {name} {code}\n{said}");
        _ = std::fs::remove_file(world.path("a.gguf"));
        for n in world.names() { if n.starts_with("a.") { _ = std::fs::remove_file(world.path(&n)); } }
    }
    panic!();
}
