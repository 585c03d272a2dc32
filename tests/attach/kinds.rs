//! Other kinds of models: with recurrent state, with a draft before them, with images.

use serde_json::{Value, json};

use crate::models::{self, Set};
use crate::server::{Server, Way, request, tokens};
use crate::world::World;

/// Attention and convolutions in turns.
pub fn hybrid(world: &mut World) {
    let set = models::hybrid(&world.set, &world.place.folder);
    recurrent_state(world, &set);
}

/// No attention at all.
pub fn recurrent(world: &mut World) {
    let set = models::recurrent(&world.set, &world.place.folder);
    // Random numbers say what some versions of the server find no text in, for any client.
    for adapter in &set.adapters[..2] {
        let lora = adapter.display().to_string();
        let stock = world.start_of(Way::Stock, &set, &["--lora", &lora]);
        let (long, short) = (world.prompts.join(" "), world.prompts[..8].join(" "));
        for prompt in [&long, &short, &format!("{long} {short}")] {
            if let (500, said) = stock.answer("/completion", &request(prompt, 0)) {
                println!("  SKIPPED: without the module the server answers {said} to its words");
                return;
            }
        }
    }
    recurrent_state(world, &set);
}

/// A state cannot be cut back: the server restores checkpoints, which may be another adapter's.
fn recurrent_state(world: &mut World, set: &Set) {
    let server = world.start_of(Way::Preload, set, &[]);
    let long = world.prompts.join(" ");
    let short = world.prompts[..8].join(" ");
    let longer = format!("{long} {short}");
    for (adapter, prompt) in [
        (0, &long),
        (0, &long),
        (1, &long),
        (1, &short),
        (0, &longer),
        (0, &short),
        (1, &longer),
        (1, &longer),
    ] {
        server.load(&set.adapters[adapter]);
        let wanted = world.reference(set, Some(&set.adapters[adapter]), prompt, 0);
        server.answers(prompt, &wanted, &format!("adapter {adapter}"));
    }
    stale_checkpoint(world, set);
    let other = world.reference(set, Some(&set.adapters[0]), &longer, 0);
    assert_ne!(
        other,
        world.reference(set, Some(&set.adapters[1]), &longer, 0),
        "the adapters answer alike"
    );
}

/// A checkpoint of the first adapter lies before what the second one made, and a longer prompt goes
/// back to it.
fn stale_checkpoint(world: &mut World, set: &Set) {
    let server = world.start_of(Way::Preload, set, &["-lv", "4"]);
    let short = world.prompts[..8].join(" ");
    let longer = format!("{short} and then {}", world.prompts[9]);
    let plain = |server: &Server, prompt: &str, cache: bool| {
        let mut body = request("", 0);
        body["prompt"] = prompt.into();
        body["cache_prompt"] = cache.into();
        tokens(&server.post("/completion", &body))
    };
    for (adapter, prompt) in [
        (0, &short),
        (1, &short),
        (1, &longer),
        (0, &longer),
        (0, &short),
    ] {
        server.load(&set.adapters[adapter]);
        let wanted = plain(
            world.stock(set, Some(&set.adapters[adapter])),
            prompt,
            false,
        );
        assert_eq!(
            plain(&server, prompt, true),
            wanted,
            "adapter {adapter}\n{}",
            server.said()
        );
    }
    assert!(
        server.said().contains("restored context checkpoint"),
        "no checkpoint was used\n{}",
        server.said()
    );
}

/// A small model guesses ahead of the served one: its guesses are removed again, and the answers
/// are those of the served one.
pub fn draft(world: &mut World) {
    const TOKENS: usize = 200;
    let set = world.same_set();
    let draft = set.base.display().to_string();
    let more = [
        "-np",
        "2",
        "--spec-type",
        "draft-simple",
        "-md",
        &draft,
        "--spec-draft-n-max",
        "4",
    ];
    let server = world.start(Way::Preload, &more);
    let prompt = world.telling(0, 1);
    server.load(&set.adapters[0]);
    world.check_prompt(&server, Some(0), &prompt);
    let stock = |adapter: usize| {
        let lora = set.adapters[adapter].display().to_string();
        Server::start(
            &world.place,
            Way::Stock,
            &set.base,
            &[&["-c", "2048", "--lora", &lora], &more[..]].concat(),
        )
    };
    let wanted = stock(0)
        .stream_anew(&world.prompts[0], TOKENS)
        .read(TOKENS)
        .to_vec();
    let mut stream = server.stream(&world.prompts[0], 1, TOKENS);
    stream.read(20);
    server.load(&set.adapters[1]);
    world.check_prompt(&server, Some(1), &prompt);
    assert_eq!(
        stream.read(TOKENS),
        wanted,
        "the stream keeps its adapter\n{}",
        server.said()
    );
    world.check(&server, Some(1), 4);
}

/// A request with a picture of one colour.
fn picture(server: &Server, red: u8) -> Value {
    let marker = server
        .get("/props")
        .and_then(|(_, props)| Some(props["media_marker"].as_str()?.to_owned()));
    let mut image = b"P6 32 32 255\n".to_vec();
    image.extend([red, 80, 160].repeat(32 * 32));
    let mut body = request(
        &format!(
            "What is on {} to be seen?",
            marker.expect("the server takes images")
        ),
        0,
    );
    body["prompt"] = json!({"prompt_string": body["prompt"], "multimodal_data": [base64(&image)]});
    body
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| -> String {
        let word = (0..3).fold(0_u32, |word, i| {
            word << 8 | u32::from(three.get(i).copied().unwrap_or_default())
        });
        let letter = |i: usize| {
            if i > three.len() {
                '='
            } else {
                LETTERS[(word >> (18 - 6 * i) & 63) as usize] as char
            }
        };
        (0..4).map(letter).collect()
    };
    bytes.chunks(3).map(group).collect()
}

/// What an image was turned into is in no log: the server computes such a prompt again.
pub fn images(world: &mut World) {
    let projector = models::projector(&world.place.folder).display().to_string();
    let more = ["-np", "1", "--mmproj", &projector];
    let server = world.start(Way::Preload, &more);
    let stock: Vec<Server> = [0, 1]
        .map(|adapter| {
            world.start(
                Way::Stock,
                &[
                    &more[..],
                    &["--lora", &world.adapter(adapter).display().to_string()],
                ]
                .concat(),
            )
        })
        .into();
    for (adapter, red) in [(0, 10), (0, 10), (1, 10), (1, 250), (0, 250), (0, 10)] {
        server.load(&world.adapter(adapter));
        let mut anew = picture(&stock[adapter], red);
        anew["cache_prompt"] = false.into();
        let wanted = tokens(&stock[adapter].post("/completion", &anew));
        assert_eq!(
            tokens(&server.post("/completion", &picture(&server, red))),
            wanted,
            "adapter {adapter}\n{}",
            server.said()
        );
        world.check(&server, Some(adapter), 0);
    }
}

/// With context checkpoints there is no safe way, and no swap either.
pub fn images_and_checkpoints(world: &mut World) {
    let set = models::sliding(&world.set, &world.place.folder);
    let projector = models::projector(&world.place.folder).display().to_string();
    let server = world.start_of(Way::Preload, &set, &["--mmproj", &projector]);
    server.load(&set.adapters[0]);
    server.post("/completion", &picture(&server, 10));
    let said = server.command(&json!({"do": "load", "path": set.adapters[1]}));
    assert!(
        said["error"]["message"]
            .as_str()
            .is_some_and(|error| error.contains("has seen images")),
        "{said}"
    );
    assert!(said["error"]["hint"].is_string(), "{said}");
    assert_eq!(server.generation(), "1");
}
