//! What an adapter is fitted to, on the toy engine: each objective moves an adapter, is resumed in
//! its own bytes, and is refused where it cannot be.

use std::fs;

use translora::engine::toy::{self, Toy};
use translora::pipeline;
use translora::record::Pair;
use translora::request::{LabelChoice, ObjectiveChoice, TokenWeights, Transfer};

use crate::pipeline::{
    resumed, seeds_plan, sound, stages_of, stopping, train, trained, transfer, with_context,
};
use crate::toy::{World, remedy, write_rows};

/// A world whose target has other words than its source.
fn foreign() -> World {
    let world = World::new();
    let mut base = toy::world::new_base();
    base.vocabulary += 1;
    fs::write(&world.target, serde_json::to_vec(&base).unwrap()).unwrap();
    world
}

#[test]
fn each_objective_moves_an_adapter_and_the_report_says_which() {
    for (world, objectives) in [
        (
            World::new(),
            vec![
                ObjectiveChoice::Text,
                ObjectiveChoice::Kl,
                ObjectiveChoice::Aligned,
                ObjectiveChoice::Delta,
            ],
        ),
        (
            foreign(),
            vec![ObjectiveChoice::Aligned, ObjectiveChoice::Delta],
        ),
    ] {
        let same = objectives.contains(&ObjectiveChoice::Kl);
        let lora = train(&world, &world.source, &world.train, "old.gguf");
        for objective in objectives {
            let name = format!("{}.gguf", objective.name());
            let request = seeds_plan(&world, &lora, &name);
            let report = transfer(&Transfer {
                objective,
                ..request
            })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
            let chosen = &report.objective;
            assert_eq!(chosen.objective, objective, "{chosen:?}");
            assert_eq!(chosen.requested, objective, "{chosen:?}");
            assert_eq!(chosen.same_vocabulary, same, "{chosen:?}");
            assert_eq!(report.provenance["objective"], objective.name());
            // The toy's base holds every answer for as unlikely as any word: a shift within the
            // budget goes less far.
            let least = if objective == ObjectiveChoice::Delta {
                0.2
            } else {
                0.5
            };
            assert!(
                report.scores.transferred > least,
                "{name}: {:?}",
                report.scores
            );
            match (objective, chosen.divergence) {
                (ObjectiveChoice::Text, None) => assert_eq!(chosen.tokens, 0),
                (_, Some(divergence)) => {
                    // Two tokens for each of 480 answers and a hundred that are held out, and of
                    // those to five seeds.
                    assert_eq!(chosen.tokens, 1170, "{chosen:?}");
                    assert_eq!(chosen.tokens_taught, 1170, "{chosen:?}");
                    assert_eq!(divergence.tokens, 200, "{chosen:?}");
                    assert!(
                        divergence.transferred < 0.5 * divergence.target,
                        "{name}: {divergence:?}"
                    );
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn two_vocabularies_are_not_compared_word_by_word() {
    let world = foreign();
    let lora = train(&world, &world.source, &world.train, "old.gguf");
    let request = seeds_plan(&world, &lora, "new.gguf");
    let error = transfer(&Transfer {
        objective: ObjectiveChoice::Kl,
        ..request
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("different vocabularies"),
        "{error}"
    );
    assert!(remedy(&error).contains("aligned"), "{error}");
    assert!(
        !world
            .names()
            .iter()
            .any(|name| name.starts_with("new.gguf")),
        "{:?}",
        world.names()
    );
}

#[test]
fn a_target_that_is_the_stronger_is_told_of() {
    let world = World::new();
    // An adapter that answers everything wrong, and rows whose right answer the bare target gives:
    // the last word of the prompt.
    let wrong = |row: Pair| Pair {
        completion: "[NO]".into(),
        ..row
    };
    let broken = world.path("broken.jsonl");
    write_rows(
        &broken,
        &toy::world::rows(300, 11)
            .into_iter()
            .map(wrong)
            .collect::<Vec<Pair>>(),
    );
    let last = |row: Pair| Pair {
        completion: row
            .prompt
            .text
            .split_whitespace()
            .last()
            .unwrap_or_default()
            .into(),
        ..row
    };
    let eval = world.path("last.jsonl");
    write_rows(
        &eval,
        &toy::world::rows(40, 12)
            .into_iter()
            .map(last)
            .collect::<Vec<Pair>>(),
    );
    let lora = train(&world, &world.source, &broken, "old.gguf");
    let request = Transfer {
        eval: Some(eval),
        allow_weak_source: true,
        ..seeds_plan(&world, &lora, "new.gguf")
    };
    let chosen = transfer(&request).unwrap().objective;
    assert_eq!(chosen.objective, ObjectiveChoice::Text);
    assert_eq!(chosen.requested, ObjectiveChoice::Auto);
    assert!(
        chosen.reason.contains("bare target is right more often"),
        "{chosen:?}"
    );
    let lora = train(&world, &world.source, &world.train, "good.gguf");
    let chosen = transfer(&seeds_plan(&world, &lora, "plain.gguf"))
        .unwrap()
        .objective;
    assert_eq!(chosen.objective, ObjectiveChoice::Text);
    assert_eq!(
        chosen.reason.as_str(),
        "what measured best for two models of one vocabulary"
    );
}

#[test]
fn a_transfer_with_a_teachers_words_that_is_stopped_anywhere_goes_on_in_the_same_bytes() {
    let world = foreign();
    let lora = train(&world, &world.source, &world.train, "old.gguf");
    let of = |name: &str| Transfer {
        objective: ObjectiveChoice::Delta,
        label: LabelChoice::Consistent,
        token_weights: TokenWeights::Contrast,
        samples: 40,
        ..seeds_plan(&world, &lora, name)
    };
    let mut straight = Vec::new();
    let stages = stages_of(|context| {
        let report = pipeline::transfer(&Toy, &sound(&of("straight.gguf")), context).unwrap();
        straight = fs::read(report.adapter).unwrap();
    });
    for (nth, stage) in stages.iter().enumerate().skip(1) {
        let plan = of(&format!("{nth}.gguf"));
        let stopped = stopping(nth, |context| {
            pipeline::transfer(&Toy, &sound(&plan), context)
        });
        assert!(stopped.is_err(), "stage {nth}");
        let report = transfer(&Transfer {
            run: resumed(),
            ..plan
        })
        .unwrap_or_else(|error| panic!("stage {nth}: {error}"));
        assert!(
            fs::read(report.adapter).unwrap() == straight,
            "stage {nth} ({stage:?}) is not the straight run"
        );
    }
}

#[test]
fn what_a_teacher_says_is_bounded() {
    let (world, lora) = trained();
    let of = |objective, name: &str| {
        let mut plan = sound(&Transfer {
            objective,
            ..seeds_plan(&world, &lora, name)
        });
        plan.limits.teacher_bytes_max = 100;
        with_context(|context| pipeline::transfer(&Toy, &plan, context))
    };
    let error = of(ObjectiveChoice::Kl, "kl.gguf").unwrap_err();
    assert!(error.to_string().contains("100 at most"), "{error}");
    assert!(
        remedy(&error).contains("\"objective\": \"text\""),
        "{error}"
    );
    assert_eq!(
        of(ObjectiveChoice::Auto, "auto.gguf")
            .unwrap()
            .objective
            .objective,
        ObjectiveChoice::Text
    );
}

#[test]
fn answers_that_are_drawn_again_and_again_are_kept_where_they_agree() {
    let (world, lora) = trained();
    let request = seeds_plan(&world, &lora, "new.gguf");
    let report = transfer(&Transfer {
        label: LabelChoice::Consistent,
        ..request
    })
    .unwrap();
    assert!(report.scores.transferred > 0.5, "{:?}", report.counts);
    assert!(report.counts["trained"] > 60, "{:?}", report.counts);
}
