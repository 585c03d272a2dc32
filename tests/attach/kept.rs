//! Prompts that the module keeps for a later transfer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::translora;
use crate::server::{Server, Way};
use crate::world::World;

/// How long a prompt may take to be written.
const WRITTEN_MAX: Duration = Duration::from_secs(20);

/// Each adapter's own prompts, once each: those of a request that was under way at a swap under the
/// adapter it began with. What the base answers is nobody's.
pub fn kept_prompts(world: &mut World) {
    let folder = world.place.folder.join("kept");
    let path = folder.display().to_string();
    let environment = [("TRANSLORA_HARVEST", path.as_str())];
    let (model, more) = (world.same_set().base, ["-c", "2048", "-np", "2"]);
    let server = Server::start_with(&world.place, Way::Preload, &model, &more, &environment);
    let prompts = world.prompts.clone();
    world.check(&server, None, 8);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    world.check(&server, Some(0), 0);
    let mut stream = server.stream(&prompts[4], 1, 400);
    stream.read(2);
    server.load(&world.adapter(1));
    // A prompt that a cache holds to its last token, of the other adapter.
    world.check(&server, Some(1), 0);
    stream.read(4);
    let words = |of: &[&str]| -> BTreeSet<String> {
        let mark = |prompt: &&str| {
            format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
        };
        of.iter().map(mark).collect()
    };
    for (adapter, wanted) in [
        (0, words(&[&prompts[0], &prompts[4]])),
        (1, words(&[&prompts[0]])),
    ] {
        let file = world.adapter(adapter);
        let name = file.file_stem().and_then(|stem| stem.to_str());
        let name = name.expect("an adapter has a name");
        let begun = Instant::now();
        let mut rows = shown(&path, name);
        while rows.len() < wanted.len() && begun.elapsed() < WRITTEN_MAX {
            std::thread::sleep(Duration::from_millis(50));
            rows = shown(&path, name);
        }
        let once: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!((once, rows.len()), (wanted.clone(), wanted.len()), "{name}");
    }
    let (ok, said) = translora(&["harvest", "list", &path, "--json"]);
    let listed: Value = serde_json::from_str(&said).unwrap_or_default();
    assert!(
        ok && listed.as_array().is_some_and(|of| of.len() == 2),
        "{said}"
    );
    // A folder that cannot be had is said, and the server answers all the same.
    let environment = [("TRANSLORA_HARVEST", "/dev/null/kept")];
    let server = Server::start_with(&world.place, Way::Preload, &model, &more, &environment);
    world.check(&server, None, 0);
    assert!(
        server.said().contains("no prompts are kept: "),
        "{}",
        server.said()
    );
    assert!(!server.refuses(&json!({"do": "list"})));
}

/// The texts that are kept of an adapter.
fn shown(folder: &str, adapter: &str) -> Vec<String> {
    let (ok, said) = translora(&["harvest", "show", folder, adapter]);
    let text = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        row["text"].as_str().map(str::to_owned)
    };
    if ok {
        said.lines().filter_map(text).collect()
    } else {
        Vec::new()
    }
}
