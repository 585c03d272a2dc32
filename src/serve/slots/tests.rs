use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::engine::OpenOptions;
use crate::engine::host::Hosted;
use crate::engine::toy::{Toy, world};
use crate::record::TestClock;

fn probe(host: &dyn Host) -> Probe {
    Probe::new(host).expect("the toy encodes everything")
}

fn hosted(slots: usize) -> Hosted {
    let hosted = Toy.host_base(
        world::old_base(),
        &OpenOptions {
            context: 400,
            ..OpenOptions::default()
        },
        slots,
    );
    hosted.expect("it has a template of its own")
}

/// A request under the generations of `key`; scheduling looks at keys only.
fn request(prompt: &str, key: &[u64], tokens_max: usize) -> (Request, UnboundedReceiver<Event>) {
    let (events, receiver) = unbounded_channel();
    let key = key
        .iter()
        .map(|number| (*number, 1.0_f32.to_bits()))
        .collect();
    let request = Request {
        id: 0,
        prompt: prompt.bytes().map(Token::from).collect(),
        with: Choice {
            weights: Vec::new(),
            key,
            names: [].into(),
        },
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        stops: Vec::new(),
        grammar: None,
        tokens_max,
        ignore_end: false,
        alternatives: None,
        sent_ms: 0.0,
        asking: None,
        cache: true,
        events,
    };
    (request, receiver)
}

fn step(slots: &mut Slots<'_>) {
    slots.step();
    slots.send_ends();
}

fn ended(receiver: &mut UnboundedReceiver<Event>) -> Option<Done> {
    std::iter::from_fn(|| receiver.try_recv().ok()).find_map(|event| match event {
        Event::Done(done) => Some(done),
        _ => None,
    })
}

#[test]
fn a_short_request_on_another_adapter_takes_every_second_step() {
    let clock = TestClock::default();
    let Hosted { host, decoder } = hosted(3);
    let mut slots = Slots::new(&*host, decoder, &clock, 3, probe(&*host));
    let (first, mut streams) = request("on and", &[], 300);
    slots.begin(first);
    (0..20).for_each(|_| step(&mut slots));
    let (short, mut answer) = request("a b", &[7], 4);
    slots.begin(short);
    let steps = (1..100).find(|_| {
        step(&mut slots);
        ended(&mut answer).is_some()
    });
    // The prompt with the first token, and three more; between two of them one step for the stream.
    assert_eq!(steps, Some(7));
    assert!(ended(&mut streams).is_none());
}

#[test]
fn slots_of_one_adapter_share_their_steps() {
    let clock = TestClock::default();
    let Hosted { host, decoder } = hosted(4);
    let mut slots = Slots::new(&*host, decoder, &clock, 4, probe(&*host));
    let mut answers: Vec<_> = (0..4)
        .map(|_| {
            let (request, answer) = request("a b", &[7], 10);
            slots.begin(request);
            answer
        })
        .collect();
    while !slots.is_idle() {
        step(&mut slots);
    }
    assert_eq!(slots.totals().steps, 10);
    assert!(answers.iter_mut().all(|answer| ended(answer).is_some()));
}

#[test]
fn a_beginning_is_shared_within_a_generation_only() {
    let clock = TestClock::default();
    let Hosted { host, decoder } = hosted(2);
    let mut slots = Slots::new(&*host, decoder, &clock, 2, probe(&*host));
    let mut cached = |prompt: &str, key: &[u64]| {
        let (request, mut answer) = request(prompt, key, 2);
        slots.begin(request);
        while !slots.is_idle() {
            step(&mut slots);
        }
        ended(&mut answer).expect("it ended").cached
    };
    assert_eq!(cached("the cat sat", &[1]), 0);
    // All but the last token, whose logits are wanted.
    assert_eq!(cached("the cat sat", &[1]), 10);
    assert_eq!(cached("the cat ran", &[1]), 8);
    assert_eq!(cached("the cat sat", &[2]), 0);
    assert_eq!(cached("the cat sat", &[]), 0);
    // Both slots were taken by others meanwhile.
    assert_eq!(cached("the cat sat", &[1]), 0);
}

/// The beginning of a long conversation is copied for another, and the conversation stays.
#[test]
fn a_shared_beginning_does_not_cost_the_one_it_came_from() {
    let clock = TestClock::default();
    let Hosted { host, decoder } = hosted(2);
    let mut slots = Slots::new(&*host, decoder, &clock, 2, probe(&*host));
    let mut cached = |prompt: &str| {
        let (request, mut answer) = request(prompt, &[1], 1);
        slots.begin(request);
        while !slots.is_idle() {
            step(&mut slots);
        }
        ended(&mut answer).expect("it ended").cached
    };
    let long = format!("system {}", "x".repeat(50));
    assert_eq!(cached(&long), 0);
    assert_eq!(cached("system y"), 7);
    assert_eq!(cached(&long), long.len() - 1);
}

#[test]
fn a_client_that_left_is_swept_and_its_slot_taken() {
    let clock = TestClock::default();
    let Hosted { host, decoder } = hosted(1);
    let mut slots = Slots::new(&*host, decoder, &clock, 1, probe(&*host));
    let (stream, receiver) = request("on and", &[], 300);
    slots.begin(stream);
    step(&mut slots);
    assert!(!slots.is_free());
    drop(receiver);
    slots.sweep();
    assert!(slots.is_free() && slots.totals().cancelled == 1);
}
