//! Swaps one after another while clients ask.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use crate::cases::World;
use crate::server::{Server, Way};

const CLIENTS: usize = 8;
/// How much a server may grow between a quarter of the swaps and the last.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// Every answer is that of one adapter which was live between the request and its end, and if only one was, of that one.
pub fn many_swaps(world: &mut World) {
    let swaps = std::env::var("TRANSLORA_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let answers = |world: &mut World, prompt: &str| [0, 1, 2].map(|adapter| world.short(Some(adapter), prompt));
    let all: Vec<(String, [Vec<i64>; 3])> =
        world.prompts.clone().into_iter().map(|prompt| (prompt.clone(), answers(world, &prompt))).collect();
    // Only prompts whose answer tells which adapter gave it.
    let all: Vec<_> = all.into_iter().filter(|(_, [a, b, c])| a != b && b != c && a != c).collect();
    assert!(all.len() >= CLIENTS, "{} prompts tell the adapters apart", all.len());
    let server = Server::start(&world.place, Way::Preload, &world.set.base, &["-c", "4096", "-np", "8", "--cache-ram", "0"]);
    server.load(&world.set.adapters[0]);
    // Swaps that were asked for, and those that were answered: swap n puts in adapter n modulo 3.
    let (asked, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    let wrong: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let (served, sure) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let early = RwLock::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (asked, answered, stop, wrong, served, sure) = (&asked, &answered, &stop, &wrong, &served, &sure);
            let (server, all) = (&server, &all);
            scope.spawn(move || {
                for turn in client.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (prompt, wanted) = &all[turn * 5 % all.len()];
                    let from = answered.load(Ordering::SeqCst);
                    let got = server.ask(prompt, -1);
                    let to = asked.load(Ordering::SeqCst);
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
            asked.store(n, Ordering::SeqCst);
            server.load(&world.set.adapters[n % 3]);
            answered.store(n, Ordering::SeqCst);
            if n == swaps / 4 {
                *early.write().expect("one writer") = server.resident();
            }
            // Time for requests that begin and end between two swaps, after every other one.
            std::thread::sleep(std::time::Duration::from_millis(if n % 2 == 0 { 40 } else { 5 }));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let (early, late) = (*early.read().expect("nobody writes"), server.resident());
    println!(
        "  {swaps} swaps, {} answers, {} of them within one generation; memory {:.1} MB after a quarter, {:.1} MB at the end",
        served.into_inner(),
        sure.into_inner(),
        early as f64 / 1e6,
        late as f64 / 1e6
    );
    let wrong = wrong.into_inner().expect("no client panics here");
    assert!(wrong.is_empty(), "{} wrong answers, among them {}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    assert!(late < early + GROWTH_BYTES_MAX, "the server grew from {early} to {late} bytes");
}
