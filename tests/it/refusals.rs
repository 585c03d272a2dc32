//! What a transfer refuses: by name, with a hint, and without leaving anything behind.

use std::fs;
use std::path::PathBuf;

use translora::engine::toy::world::{new_base, rows};
use translora::engine::toy::{Base, Toy};
use translora::pipeline::{self, Inspection, Verdict};
use translora::record::{Blame, Fault};
use translora::request::{Inputs, Transfer};

use crate::pipeline::{
    kit, kit_plan, plan, resumed, seeds_plan, sound, stopping, train, trained, transfer,
    with_context,
};
use crate::toy::{World, write_rows};

/// One bad input: what it is, how it gets into the plan, and what the error must say.
type Bad = (
    &'static str,
    fn(&World, &mut Transfer),
    &'static [&'static str],
);

const BAD: &[Bad] = &[
    (
        "layers that the target has not",
        |_, p| p.training.shape.layers = "100..200".parse().ok(),
        &["no layers to choose from"],
    ),
    (
        "a missing source",
        |w, p| p.source = w.path("no.json"),
        &["no.json"],
    ),
    (
        "a base that is no model",
        |w, p| p.target = w.eval.clone(),
        &["eval.jsonl", "cannot load this model"],
    ),
    (
        "a truncated adapter",
        |w, p| halve(w, &mut p.source_lora),
        &["halved", "truncated"],
    ),
    (
        "an adapter for another base",
        |w, p| p.source = w.target.clone(),
        &["old.gguf", "in the base", "256×4"],
    ),
    (
        "a base as the adapter",
        |w, p| p.source_lora = w.source.clone(),
        &["old.json", "no GGUF file"],
    ),
    (
        "seeds that are the same",
        |w, p| seeds(w, p, r#"{"prompt":"a"}|{"prompt":"a"}|"#),
        &["bad.jsonl", "all 2 seeds are the same"],
    ),
    (
        "a repeated seed",
        |w, p| seeds(w, p, r#"{"prompt":"a"}|{"prompt":"b"}|{"prompt":"a"}|"#),
        &["bad.jsonl:3"],
    ),
    (
        "a key that is there twice, after an empty line",
        |w, p| seeds(w, p, r#"|{"prompt":"a","prompt":"b"}|"#),
        &["bad.jsonl:2", "\"prompt\" is there twice"],
    ),
    (
        "a line of 10 MB",
        |w, p| {
            seeds(
                w,
                p,
                &format!("{{\"prompt\":\"{}\"}}|", "x".repeat(10 << 20)),
            );
        },
        &["bad.jsonl:1", "longer than 4194304 bytes"],
    ),
    (
        "no seeds",
        |w, p| seeds(w, p, ""),
        &["bad.jsonl", "no rows"],
    ),
    (
        "eval rows without answers",
        |w, p| p.eval = Some(w.seeds.clone()),
        &["seeds.jsonl:1", "no answer"],
    ),
    (
        "seeds as a kit",
        |w, p| kit_of(p, w.seeds.clone()),
        &["seeds.jsonl", "no GGUF file"],
    ),
    (
        "an adapter as a kit",
        |w, p| kit_of(p, w.path("old.gguf")),
        &["old.gguf", "not a kit"],
    ),
    (
        "a folder that is not there",
        |w, p| p.out = w.path("nowhere/new.gguf"),
        &["nowhere/new.gguf", "cannot write"],
    ),
    (
        "a folder that is a file",
        |w, p| p.out = w.path("old.gguf/new.gguf"),
        &["old.gguf/new.gguf", "cannot write"],
    ),
    (
        "an output that exists",
        |w, p| p.out = w.path("old.gguf"),
        &["old.gguf", "nothing is overwritten"],
    ),
    (
        "a rank that the model is too narrow for",
        |_, p| p.training.shape.rank = 1024,
        &["rank 1024"],
    ),
    (
        "a tokenizer that cannot read the seeds",
        ascii_target,
        &["branch", "tokenizer", "café"],
    ),
    (
        "a base that never says anything new",
        mute_target,
        &["samples came out of", "drawn"],
    ),
];

fn halve(world: &World, path: &mut PathBuf) {
    let bytes = fs::read(&path).unwrap();
    *path = world.path("halved");
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Give these seeds; `|` stands for the end of a line.
fn seeds(world: &World, plan: &mut Transfer, text: &str) {
    let path = world.path("bad.jsonl");
    fs::write(&path, text.replace('|', "\n")).unwrap();
    plan.seeds = Some(path);
}

fn kit_of(plan: &mut Transfer, path: PathBuf) {
    (plan.kit, plan.seeds) = (Some(path), None);
}

fn target(world: &World, plan: &mut Transfer, base: &Base) {
    plan.target = world.path("target.json");
    fs::write(&plan.target, serde_json::to_vec(base).unwrap()).unwrap();
}

fn ascii_target(world: &World, plan: &mut Transfer) {
    target(
        world,
        plan,
        &Base {
            ascii: true,
            ..new_base()
        },
    );
    seeds(world, plan, r#"{"prompt":"a café"}|"#);
}

fn mute_target(world: &World, plan: &mut Transfer) {
    target(
        world,
        plan,
        &Base {
            junk: 1.0,
            ..new_base()
        },
    );
    seeds(world, plan, r#"{"prompt":"one"}|{"prompt":"two"}|"#);
}

#[test]
fn every_bad_input_is_named_and_leaves_nothing() {
    let (world, lora) = trained();
    for (what, spoil, says) in BAD {
        let mut plan = seeds_plan(&world, &lora, "new.gguf");
        spoil(&world, &mut plan);
        let before = world.names();
        let error = transfer(&plan)
            .err()
            .unwrap_or_else(|| panic!("{what}: it was taken"));
        let text = error.to_string();
        assert!(
            says.iter().all(|word| text.contains(word)),
            "{what}: {text}"
        );
        assert!(error.remedy().is_some(), "{what}: {text}: no remedy");
        assert_ne!(error.fault(), Fault::Bug, "{what}: {text}");
        assert_eq!(world.names(), before, "{what}: something was left behind");
    }
}

#[test]
fn a_resume_with_another_plan_or_other_inputs_is_refused() {
    let (world, lora) = trained();
    let plan = seeds_plan(&world, &lora, "new.gguf");
    stopping(4, |context| {
        pipeline::transfer(&Toy, &sound(&plan), context)
    })
    .unwrap_err();
    let resume = Transfer {
        run: resumed(),
        ..plan
    };
    let error = transfer(&Transfer {
        samples: 60,
        ..resume.clone()
    })
    .unwrap_err();
    assert!(error.to_string().contains("the plan changed"), "{error}");
    assert!(error.remedy().is_some(), "{error}");
    let eval = fs::read(&world.eval).unwrap();
    write_rows(&world.eval, &rows(20, 5));
    let error = transfer(&resume).unwrap_err();
    assert!(
        error.to_string().contains("the eval file changed"),
        "{error}"
    );
    fs::write(&world.eval, eval).unwrap();
    let file = world.path("new.gguf.journal/generate.0.jsonl");
    let kept = fs::read(&file).unwrap();
    fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    // A damaged stage is done again.
    assert_eq!(transfer(&resume).unwrap().verdict, Verdict::Accept);
}

#[test]
fn a_kit_made_for_others_is_refused_and_none_is_overwritten() {
    let (world, lora) = trained();
    let kit = kit(&world, &lora);
    let other = train(&world, &world.source, &world.eval, "other.gguf");
    let error = transfer(&plan(&world, &other, Inputs::Kit(&kit), "new.gguf")).unwrap_err();
    assert!(error.to_string().contains("another adapter"), "{error}");
    assert!(error.to_string().contains("other.gguf"), "{error}");
    let error =
        with_context(|context| pipeline::kit(&Toy, &sound(&kit_plan(&world, &lora)), context))
            .unwrap_err();
    assert!(
        error.to_string().contains("nothing is overwritten"),
        "{error}"
    );
    let Inspection::Kit(card) = pipeline::inspect(&kit).unwrap() else {
        panic!("a kit is a kit")
    };
    assert!(card.seeds.len() == 5);
    assert!(card.manifest.name == "ticket");
    assert!(card.discriminator_bytes.is_some());
    let error = pipeline::inspect(&world.seeds).unwrap_err();
    assert!(error.to_string().contains("seeds.jsonl"), "{error}");
    assert!(error.remedy().is_some(), "{error}");
}
