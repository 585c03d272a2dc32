//! What the module costs a server that swaps nothing.

use std::time::Instant;

use crate::server::{Server, Way};
use crate::world::World;

const PAIRS: usize = 15;
const TOKENS: usize = 400;
const STREAMS: usize = 4;

/// Tokens a second of one stream and of four, without the module and with it, in turns.
pub fn decode_speed(world: &mut World) {
    let more = ["-c", "4096", "-np", "4", "--cache-ram", "0"];
    let servers = [Way::Stock, Way::Preload]
        .map(|way| Server::start(&world.place, way, &world.set.base, &more));
    servers[1].load(&world.adapter(0));
    let lora = world.adapter(0).display().to_string();
    let stock = Server::start(
        &world.place,
        Way::Stock,
        &world.set.base,
        &[&more[..], &["--lora", &lora]].concat(),
    );
    let servers = [&stock, &servers[1]];
    for streams in [1, STREAMS] {
        let mut rates: Vec<[f64; 2]> = (0..PAIRS)
            .map(|pair| {
                let mut rates = [0.0; 2];
                // Who goes first changes.
                for which in [pair % 2, 1 - pair % 2] {
                    rates[which] = rate(servers[which], &world.prompts, streams);
                }
                rates
            })
            .collect();
        let mut middle = |of: &dyn Fn(&[f64; 2]) -> f64| {
            rates.sort_by(|a, b| of(a).total_cmp(&of(b)));
            of(&rates[PAIRS / 2])
        };
        println!(
            "  {streams} streams, medians of {PAIRS} pairs: {:.0} tokens/s without, {:.0} with, ratio {:.3} ({:.3} to {:.3} between the quartiles)",
            middle(&|pair| pair[0]),
            middle(&|pair| pair[1]),
            middle(&|pair| pair[1] / pair[0]),
            quartile(&rates, 1),
            quartile(&rates, 3),
        );
    }
}

/// A quartile of the ratios, of pairs that are sorted by it.
fn quartile(rates: &[[f64; 2]], which: usize) -> f64 {
    let pair = rates[rates.len() * which / 4];
    pair[1] / pair[0]
}

fn rate(server: &Server, prompts: &[String], streams: usize) -> f64 {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (slot, prompt) in (0..).zip(&prompts[..streams]) {
            scope.spawn(move || {
                assert_eq!(
                    server.stream(prompt, slot, TOKENS).read(TOKENS).len(),
                    TOKENS
                );
            });
        }
    });
    (streams * TOKENS) as f64 / begun.elapsed().as_secs_f64()
}
