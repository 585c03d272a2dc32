//! Prompts that a server kept, as inputs of a transfer.

use std::fs;
use std::path::{Path, PathBuf};

use translora::engine::toy::{Toy, world};
use translora::pipeline::{self, PipelineError, Verdict};
use translora::record::{Blame, ContentHash, InJson, Pair};
use translora::request::{Inputs, Request, Transfer};
use translora_harvest::{Asked, Bounds, Harvest, Role, Row, Turn, erase, file_of};

use super::{left, plan, resumed, sound, stages_of, stopping, train, transfer};
use crate::toy::World;

const DAY: u64 = 24 * 3600;

/// Keep these prompts under a name, as a server does that served `lora`. Every third is a text that
/// the template of the toy wrote.
fn keep(folder: &Path, name: &str, lora: &Path, rows: &[Pair], answers: bool) {
    let hash = ContentHash::of(&fs::read(lora).expect("readable")).to_string();
    let mut harvest = Harvest::open(folder, Bounds::default()).expect("it opens");
    for (number, row) in rows.iter().enumerate() {
        let turn = Turn {
            role: Role::User,
            content: row.prompt.text.clone(),
        };
        let asked = if number % 3 == 2 {
            Asked::of_text(format!("user: {}\nassistant: ", row.prompt.text))
        } else {
            Asked::of_turns(vec![turn])
        };
        let row = Row {
            at: 0,
            until: DAY,
            sha256: hash.clone(),
            asked: asked.expect("it asks"),
            answer: answers.then(|| row.completion.clone()),
        };
        harvest.keep(name, &row, 7).expect("it can be written");
    }
}

struct Case {
    world: World,
    lora: PathBuf,
    kept: PathBuf,
}

impl Case {
    /// A hundred prompts of users, none of which the adapter was trained on.
    fn new() -> Self {
        let world = World::new();
        let lora = train(&world, &world.source, &world.train, "old.gguf");
        let kept = world.path("kept");
        let case = Self { world, lora, kept };
        case.fill();
        case
    }

    fn fill(&self) {
        keep(
            &self.kept,
            "ticket",
            &self.lora,
            &world::rows(100, 77),
            true,
        );
    }

    fn plan(&self, inputs: Inputs<'_>, name: &str) -> Transfer {
        Transfer {
            harvest: Some(self.kept.clone()),
            samples: 60,
            ..plan(&self.world, &self.lora, inputs, name)
        }
    }
}

#[test]
fn what_users_asked_is_learnt_and_judged_on() {
    let case = Case::new();
    let file = case.kept.join(file_of("ticket"));
    let seeds = Inputs::Seeds(&case.world.seeds);
    for (name, inputs, harvest) in [
        ("seeds.gguf", seeds, &case.kept),
        ("file.gguf", seeds, &file),
        ("alone.gguf", Inputs::Harvest(&case.kept), &case.kept),
    ] {
        let report = transfer(&Transfer {
            harvest: Some(harvest.clone()),
            ..case.plan(inputs, name)
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        let traffic = report.traffic.clone().expect("it was an input");
        assert_eq!(report.verdict, Verdict::Accept, "{name}: {traffic:?}");
        let seeds = if name == "alone.gguf" { 16 } else { 0 };
        assert_eq!(
            (traffic.prompts, traffic.seeds, traffic.unread),
            (100, seeds, 0)
        );
        assert!(traffic.accepted > 60, "{name}: {traffic:?}");
        assert!(traffic.held_out >= 5, "{name}: {traffic:?}");
        assert_eq!(traffic.transferred.rows, traffic.held_out);
        assert!(
            traffic.transferred.exact > 0.6 && traffic.target.exact == 0.0,
            "{traffic:?}"
        );
        let users = traffic.users.expect("answers were kept");
        assert_eq!(users.rows, traffic.held_out);
        assert!(users.exact > 0.6, "{name}: {users:?}");
        assert!(report.provenance.contains_key("harvest.sha256"), "{name}");
        let page = fs::read_to_string(&report.page).expect("readable");
        assert!(page.contains("agrees with what users got"), "{name}");
    }
}

#[test]
fn a_run_that_goes_on_has_the_prompts_that_it_began_with() {
    let case = Case::new();
    let of = |name: &str| case.plan(Inputs::Harvest(&case.kept), &format!("{name}.gguf"));
    let stages = stages_of(|context| {
        pipeline::transfer(&Toy, &sound(&of("straight")), context).expect("it works")
    });
    let straight = left(&case.world, "straight");
    // The first stage reads other inputs, the second these.
    for nth in [2, 4, stages.len() - 2] {
        let name = format!("stopped-{nth}");
        let plan = of(&name);
        let stopped = stopping(nth, |context| {
            pipeline::transfer(&Toy, &sound(&plan), context)
        });
        assert!(matches!(stopped, Err(PipelineError::Cancelled)), "{name}");
        // Meanwhile the server was asked other things.
        erase(&case.kept, None).expect("ours");
        keep(&case.kept, "ticket", &case.lora, &world::rows(40, 5), false);
        let plan = Transfer {
            run: resumed(),
            ..plan
        };
        transfer(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            left(&case.world, &name) == straight,
            "{name} is not the straight run"
        );
        erase(&case.kept, None).expect("ours");
        case.fill();
    }
}

#[test]
fn what_was_kept_of_others_or_is_damaged_is_refused_by_name() {
    let case = Case::new();
    let other = train(
        &case.world,
        &case.world.source,
        &case.world.eval,
        "other.gguf",
    );
    let refuse = |lora: &Path, what: &str, says: &[&str]| {
        let plan = Transfer {
            source_lora: lora.into(),
            ..case.plan(Inputs::Seeds(&case.world.seeds), "new.gguf")
        };
        let error = transfer(&plan).expect_err(what);
        let remedy = error.remedy().map(|remedy| remedy.words(&InJson));
        let said = format!("{error} | {}", remedy.unwrap_or_default());
        assert!(
            says.iter().all(|word| said.contains(word)),
            "{what}: {said}"
        );
        assert!(!case.world.path("new.gguf.journal").exists(), "{what}");
    };
    refuse(
        &other,
        "another adapter",
        &[
            "nothing is kept of this adapter; there are prompts of ticket",
            "name the file of another",
        ],
    );
    let file = case.kept.join(file_of("ticket"));
    let sound = fs::read_to_string(&file).expect("readable");
    let long = format!(
        "{}\n{{\"text\":\"{}\"}}\n",
        sound.lines().next().expect("one"),
        "x".repeat(70_000)
    );
    for (what, text, says) in [
        (
            "foreign",
            "{\"prompt\": \"x\"}\n".to_owned(),
            ":1: no file of kept prompts",
        ),
        ("long", long, ":2: a line of 70011 bytes"),
        (
            "half in the middle",
            sound.replacen("\"prompt\"", "\"pro", 1),
            ":2: no row of kept prompts",
        ),
    ] {
        fs::write(&file, text).expect("writable");
        refuse(
            &case.lora,
            what,
            &[says, "erase the prompts that are kept there"],
        );
    }
    // What a killed server left of a row is none.
    fs::write(&file, &sound[..sound.len() - 9]).expect("writable");
    let report = transfer(&case.plan(Inputs::Seeds(&case.world.seeds), "new.gguf"));
    let traffic = report.expect("it works").traffic.expect("it was an input");
    assert_eq!(traffic.prompts, 99);
}

#[test]
fn a_transfer_needs_one_of_three() {
    let case = Case::new();
    let alone = case.plan(Inputs::Harvest(&case.kept), "new.gguf");
    assert!(alone.clone().plan().is_ok());
    let none = Transfer {
        harvest: None,
        ..alone
    };
    assert!(none.plan().is_err());
}
