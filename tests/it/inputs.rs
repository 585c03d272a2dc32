//! What a transfer's inputs are made of and thrown out for: kits that know what they are worth,
//! filters, repetitions, coverage.

use translora::engine::toy::Toy;
use translora::pipeline::{self, Event, Inspection, Stage, TransferReport};
use translora::record::Pair;
use translora::request::{self, FilterChoice, GeneratorChoice, Inputs, Transfer};

use crate::pipeline::{
    events_of, kit, kit_plan, plan, seeds_plan, sound, trained, transfer, with_context,
};
use crate::toy::write_rows;

/// Warnings and notes of a transfer about its filter, and its report.
fn reported(plan: &Transfer) -> (Vec<String>, TransferReport) {
    let mut report = None;
    let events = events_of(|context| {
        report = Some(pipeline::transfer(&Toy, &sound(plan), context).expect("a transfer works"));
    });
    let text = |event| match event {
        Event::Warning {
            stage: Stage::Filter,
            text,
        }
        | Event::Note {
            stage: Stage::Filter,
            text,
        } => Some(text),
        _ => None,
    };
    (
        events.into_iter().filter_map(text).collect(),
        report.expect("it ran"),
    )
}

#[test]
fn a_kit_says_what_its_discriminator_is_worth_and_what_it_gives_away() {
    let (world, lora) = trained();
    let plan = request::Kit {
        seeds: 7,
        input_model: true,
        ..kit_plan(&world, &lora)
    };
    let made = with_context(|context| pipeline::kit(&Toy, &sound(&plan), context)).unwrap();
    let auc = made.auc.expect("there are held-out inputs");
    let [real, made_up] = made.passed.unwrap();
    assert!(auc > 0.8 && real >= 0.95 && made_up < real, "{made:?}");
    let Inspection::Kit(card) = pipeline::inspect(&made.kit).unwrap() else {
        panic!("it is a kit")
    };
    assert_eq!(card.privacy, made.privacy);
    for part in ["7 inputs of 300", "characters", "AUC", "word for word"] {
        assert!(
            card.privacy.iter().any(|sentence| sentence.contains(part)),
            "{part}: {:?}",
            card.privacy
        );
    }
    let counted = card.manifest.inputs.unwrap();
    let lengths: Vec<usize> = translora::engine::toy::world::rows(425, 11)[..300]
        .iter()
        .map(|row| row.prompt.text.chars().count())
        .collect();
    assert_eq!(counted.rows, 300);
    assert_eq!(counted.chars[0], *lengths.iter().min().unwrap());
    assert_eq!(counted.chars[2], *lengths.iter().max().unwrap());
    assert!(
        counted.words[1] == counted.fixed + counted.slots,
        "{counted:?}"
    );
    assert!(counted.with_digits == 0.0, "{counted:?}");
}

#[test]
fn both_filters_reject_and_the_discriminator_is_introduced() {
    let (world, lora) = trained();
    let kit = kit(&world, &lora);
    let of = |filter, generator, name: &str| Transfer {
        filter,
        generator,
        ..plan(&world, &lora, Inputs::Kit(&kit), name)
    };
    let (said, report) = reported(&of(
        FilterChoice::Both,
        GeneratorChoice::Target,
        "both.gguf",
    ));
    assert!(
        said.iter().any(|text| text.contains("discriminator: AUC")),
        "{said:?}"
    );
    assert!(
        said.iter()
            .any(|text| text.contains("trained against inputs by: source")
                && text.contains("by: target")),
        "{said:?}"
    );
    assert!(
        report.counts["rejected_discriminator"] > 0,
        "{:?}",
        report.counts
    );
    assert!(report.provenance["filter"] == "both", "{:?}", report.counts);
    assert!(report.scores.transferred > 0.6, "{:?}", report.scores);
    let (said, report) = reported(&of(
        FilterChoice::Kit,
        GeneratorChoice::Source,
        "source.gguf",
    ));
    assert!(report.coverage.answers >= 4, "{:?}", report.coverage);
    assert!(
        report.coverage.eval_answers == Some(1.0),
        "{:?}",
        report.coverage
    );
    assert!(
        !said.iter().any(|text| text.contains("trained against")),
        "{said:?}"
    );
    let (said, report) = reported(&of(
        FilterChoice::Contrast,
        GeneratorChoice::Target,
        "contrast.gguf",
    ));
    assert!(
        !said.iter().any(|text| text.contains("discriminator")),
        "{said:?}"
    );
    assert!(report.provenance["filter"] == "contrast", "{said:?}");
}

#[test]
fn the_report_tells_what_the_kept_inputs_cover() {
    let (world, lora) = trained();
    // One label only in the seeds; the others come from what the teacher answers.
    let seeds = world.path("one-label.jsonl");
    let seed = |text: &str| Pair {
        prompt: text.into(),
        completion: String::new(),
    };
    write_rows(
        &seeds,
        &[
            seed("ticket from Anna: where is my lamp"),
            seed("Ben writes: my key has not arrived in Rome"),
        ],
    );
    let report = transfer(&plan(&world, &lora, Inputs::Seeds(&seeds), "new.gguf")).unwrap();
    let coverage = report.coverage;
    assert!(coverage.answers >= 3, "{coverage:?}");
    assert!(coverage.words_new > 0, "{coverage:?}");
    assert!(coverage.forms > 50, "{coverage:?}");
    for curve in [&coverage.similarity, &coverage.similarity_to_seeds] {
        assert!(curve.len() == 11, "{coverage:?}");
        assert!(
            curve.windows(2).all(|pair| pair[0] <= pair[1]),
            "{coverage:?}"
        );
        assert!(curve[10] < 0.8, "{coverage:?}");
    }
    assert!(coverage.eval_words.unwrap() > 0.5, "{coverage:?}");
    assert!(coverage.eval_answers.unwrap() > 0.5, "{coverage:?}");
}

#[test]
fn repetitions_are_what_the_plan_says() {
    let (world, lora) = trained();
    let with = |near, name: &str| {
        transfer(&Transfer {
            near,
            ..seeds_plan(&world, &lora, name)
        })
        .unwrap()
        .counts
    };
    // Sentences of seven words that share all but one have two fifths of their trigrams in common.
    assert!(with(0.4, "strict.gguf")["rejected_near_repeat"] > 0);
    assert!(!with(0.0, "off.gguf").contains_key("rejected_near_repeat"));
}
