//! Swaps one after another while clients ask.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use crate::server::{Server, Way};
use crate::world::{GAP_MIN, World};

const CLIENTS: usize = 8;
const PLACE: &[&str] = &["-c", "4096", "-np", "8", "--cache-ram", "0"];
/// How much a server may grow between a quarter of the swaps and the last.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// A prompt and what stock servers with each of the adapters answer.
type Known = (String, [Vec<i64>; 3]);

/// Every answer is that of one adapter which was live between the request and its end, and if only
/// one was, of that one.
pub fn many_swaps(world: &mut World) {
    let swaps = std::env::var("TRANSLORA_SWAPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    let all = known(world);
    for adapter in 0..3 {
        let noise = noise(world, &world.adapter(adapter), &all);
        println!(
            "  adapter {adapter}: in a stock server under the same load, gaps between the first two tokens move by up to {noise:.4}"
        );
        assert!(2.0 * noise < GAP_MIN, "a gap of {GAP_MIN} is not enough");
    }
    let server = Server::start(&world.place, Way::Preload, &world.set.base, PLACE);
    server.load(&world.set.adapters[0]);
    // Swaps that were requested, and those that were answered: swap n puts in adapter n modulo 3.
    let (requested, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    let wrong: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let (served, sure) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let early = RwLock::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (requested, answered, stop, wrong, served, sure) =
                (&requested, &answered, &stop, &wrong, &served, &sure);
            let (server, all) = (&server, &all);
            scope.spawn(move || {
                for turn in client.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (prompt, wanted) = &all[turn * 5 % all.len()];
                    let from = answered.load(Ordering::SeqCst);
                    let got = server.ask(prompt, -1);
                    let to = requested.load(Ordering::SeqCst);
                    let fits = |n: usize| wanted[n % 3] == got;
                    served.fetch_add(1, Ordering::Relaxed);
                    sure.fetch_add(usize::from(from == to), Ordering::Relaxed);
                    if !(from..=to).any(fits) {
                        let text = format!(
                            "{prompt:?} between swaps {from} and {to}: {got:?}, adapters {:?}",
                            (0..3).filter(|n| fits(*n)).collect::<Vec<_>>()
                        );
                        wrong.lock().expect("no client panics here").push(text);
                    }
                }
            });
        }
        for n in 1..=swaps {
            requested.store(n, Ordering::SeqCst);
            server.load(&world.set.adapters[n % 3]);
            answered.store(n, Ordering::SeqCst);
            if n == swaps / 4 {
                *early.write().expect("one writer") = server.resident();
            }
            // Time for requests that begin and end between two swaps, after every other one.
            std::thread::sleep(std::time::Duration::from_millis(if n % 2 == 0 {
                40
            } else {
                5
            }));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let (early, late) = (*early.read().expect("nobody writes"), server.resident());
    println!(
        "  {swaps} swaps, {} answers to {} prompts, {} of them within one generation; memory {:.1} MB after a quarter, {:.1} MB at the end",
        served.into_inner(),
        all.len(),
        sure.into_inner(),
        early as f64 / 1e6,
        late as f64 / 1e6
    );
    let wrong = wrong.into_inner().expect("no client panics here");
    assert!(
        wrong.is_empty(),
        "{} wrong answers, among them {}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    assert!(
        late < early + GROWTH_BYTES_MAX,
        "the server grew from {early} to {late} bytes"
    );
}

/// The prompts whose answer tells which adapter gave it, and comes to no near tie with any of them.
fn known(world: &mut World) -> Vec<Known> {
    let mut all = Vec::new();
    let (mut alike, mut near) = (0, 0);
    for prompt in world.many.clone() {
        let answers = [0, 1, 2].map(|adapter| world.short(Some(adapter), &prompt));
        let [a, b, c] = &answers;
        if a == b || b == c || a == c {
            alike += 1;
        } else if (0..3).any(|adapter| world.gap(Some(&world.adapter(adapter)), &prompt) < GAP_MIN)
        {
            near += 1;
        } else {
            all.push((prompt, answers));
        }
    }
    println!(
        "  {} prompts; left out: {alike} with the same answer by two adapters, {near} with a gap below {GAP_MIN}",
        all.len()
    );
    assert!(
        all.len() >= CLIENTS,
        "{} prompts tell the adapters apart",
        all.len()
    );
    all
}

/// How far the gaps of a stock server move when all clients ask at once.
fn noise(world: &World, adapter: &Path, all: &[Known]) -> f64 {
    let lora = adapter.display().to_string();
    let server = Server::start(
        &world.place,
        Way::Stock,
        &world.set.base,
        &[PLACE, &["--lora", &lora]].concat(),
    );
    let alone: Vec<_> = all
        .iter()
        .map(|(prompt, _)| server.ask_for_gaps(prompt, 0))
        .collect();
    let moved = |client: usize| {
        let mut most = 0.0_f64;
        for turn in 0..all.len() {
            let at = (client + turn * 5) % all.len();
            let (tokens, gaps) = server.ask_for_gaps(&all[at].0, -1);
            assert_eq!(
                tokens, alone[at].0,
                "a gap of {GAP_MIN} is not enough for {:?}",
                all[at].0
            );
            most = gaps
                .iter()
                .zip(&alone[at].1)
                .fold(most, |most, (gap, alone)| most.max((gap - alone).abs()));
        }
        most
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || moved(client)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no client panics"))
            .fold(0.0, f64::max)
    })
}
