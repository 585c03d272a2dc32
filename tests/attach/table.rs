//! The cases, and for each the faults that it notices.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::world::{World, world};
use crate::{cases, hosts, jobs, kept, kinds, load, speed};

/// A case: its name, itself, and faults of the module (`ffi/attach/src/faults.rs`) with which it
/// fails.
type Case = (&'static str, fn(&mut World), &'static [&'static str]);

const CASES: &[Case] = &[
    ("same prompt again", cases::same_prompt_again, &["replay"]),
    (
        "rollback and unload",
        cases::rollback_and_unload,
        &["replay"],
    ),
    (
        "a server's own adapter",
        cases::own_adapter,
        &["replay", "put in"],
    ),
    ("RAM prompt cache", cases::ram_prompt_cache, &["states"]),
    ("slot file", cases::slot_file, &["replay", "notes"]),
    ("sleep and wake", cases::sleep_and_wake, &["put in"]),
    (
        "stream in flight",
        cases::stream_in_flight,
        &["pin", "rows"],
    ),
    ("sliding-window model", cases::sliding_window, &["replay"]),
    ("hybrid model", kinds::hybrid, &["replay"]),
    ("recurrent model", kinds::recurrent, &["replay", "states"]),
    ("context shift", cases::context_shift, &["pin"]),
    ("draft model", kinds::draft, &["replay", "pin"]),
    ("images", kinds::images, &["reprocess"]),
    (
        "images and checkpoints",
        kinds::images_and_checkpoints,
        &["refuse"],
    ),
    ("several adapters", hosts::several_adapters, &["refuse"]),
    ("another backend", hosts::another_backend, &["replay"]),
    ("router", hosts::router, &["replay"]),
    ("PEFT folder", cases::peft_folder, &["put in"]),
    ("bad file", cases::bad_file, &["checks"]),
    ("two servers", cases::two_servers, &["replay"]),
    ("command line", cases::command_line, &["replay"]),
    ("launcher", cases::launcher, &["put in"]),
    ("kept prompts", kept::kept_prompts, &["put in"]),
    (
        "many swaps under load",
        load::many_swaps,
        &["pin", "replay", "free"],
    ),
    // The module alone carries out no transfers.
    ("transfer over HTTP", jobs::transfer_over_http, &[]),
    ("transfer by command", jobs::transfer_by_command, &[]),
];

/// What is run only by its name, for it measures.
const MEASURED: Case = ("decode speed", speed::decode_speed, &[]);

/// Run the cases that are selected.
pub fn run(llama_server: &Path) -> ExitCode {
    let mut world = world(llama_server);
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let is_wanted = |name: &str| wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    let chosen = CASES
        .iter()
        .filter(|(name, ..)| wanted.is_empty() || is_wanted(name))
        .chain([&MEASURED].into_iter().filter(|(name, ..)| is_wanted(name)));
    let faults = std::env::var_os("TRANSLORA_FAULTS").is_some();
    let mut failed = 0;
    for case in chosen {
        failed += if faults {
            with_faults(&mut world, case)
        } else {
            usize::from(!passes(&mut world, case, ""))
        };
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn passes(world: &mut World, (name, case, _): &Case, fault: &'static str) -> bool {
    let begun = Instant::now();
    world.place.fault = fault;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(world)));
    world.place.fault = "";
    let (said, with) = (
        if outcome.is_ok() { "ok" } else { "FAILED" },
        if fault.is_empty() {
            String::new()
        } else {
            format!(" with fault `{fault}`")
        },
    );
    println!(
        "{name:28} {said}{with} ({:.1} s)",
        begun.elapsed().as_secs_f64()
    );
    outcome.is_ok()
}

/// Run a case without faults, and with each of its own; count what failed of the first and what
/// passed of the others. A case that fails by itself would seem to notice everything.
fn with_faults(world: &mut World, case: &Case) -> usize {
    if case.2.is_empty() {
        println!("{:28} has no faults to notice", case.0);
        return 0;
    }
    let broken = usize::from(!passes(world, case, ""));
    let unseen = |fault: &&&'static str| passes(world, case, fault);
    // A case that was skipped notices nothing.
    let faults = if case.0 == "another backend" && !hosts::has_another_backend() {
        &[]
    } else {
        case.2
    };
    broken
        + faults
            .iter()
            .filter(unseen)
            .inspect(|fault| println!("  `{fault}` was NOT NOTICED"))
            .count()
}
