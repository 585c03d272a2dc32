use std::path::Path;

use super::*;
use crate::engine::{Objective, SoftLabels, Spelling, Teach};
use crate::record::Cancel;
use crate::request::Shape;

fn model(base: Base) -> ToyModel {
    ToyModel::new(base, Path::new("toy.json"), b"")
}

fn trained<'m>(model: &'m mut ToyModel, rows: &[Pair], steps: usize) -> Box<dyn Trainer + 'm> {
    let mut trainer = model.trainer(&LoraSpec::default()).unwrap();
    trainer.load(rows).unwrap();
    for step in 0..steps {
        let batch: Vec<usize> = (0..8).map(|i| (step * 8 + i) % rows.len()).collect();
        trainer.step(&batch, 4e-3).unwrap();
    }
    trainer
}

/// Share of unseen rows an adapter fitted on `rows` answers right.
fn accuracy(rows: &[Pair]) -> f64 {
    let mut model = model(world::old_base());
    let bytes = trained(&mut model, rows, 150).adapter(&[]).unwrap();
    model
        .heads
        .push(Head::from_gguf(Path::new("a.gguf"), &bytes, 256).unwrap());
    let unseen = world::rows(100, 99);
    let right = |row: &&Pair| {
        model
            .greedy(Some(&model.heads[0]), &row.prompt.text, 8)
            .text
            == row.completion
    };
    unseen.iter().filter(right).count() as f64 / 100.0
}

#[test]
fn an_adapter_generalises_and_broken_labels_teach_nothing() {
    let rows = world::rows(200, 1);
    assert!(accuracy(&rows) > 0.9);
    let mut broken = rows.clone();
    for i in 0..broken.len() {
        broken[i].completion = rows[(i * 37 + 11) % rows.len()].completion.clone();
    }
    assert!(accuracy(&broken) < 0.6);
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    for dropout in [0.0, 0.5] {
        let mut model = model(world::old_base());
        let rows: Vec<Pair> = world::rows(6, 5);
        let spec = LoraSpec {
            shape: Shape {
                rank: 3,
                clip: 0.0,
                lora_dropout: dropout,
                ..Shape::default()
            },
            ..LoraSpec::default()
        };
        let trainer = &mut ToyTrainer::new(&model.base, &spec).unwrap();
        trainer.load(&rows).unwrap();
        trainer
            .head
            .b
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| *b = 0.01 * (i as f32 - 4.0));
        let batch = [0, 1, 2, 3, 4, 5];
        let split = trainer.head.a.len();
        let mut gradient = vec![0.0; split + trainer.head.b.len()];
        let with = trainer.pass(&batch, Some(&mut gradient)).loss;
        assert_eq!(with == trainer.pass(&batch, None).loss, dropout == 0.0);
        for i in [
            split,
            split + 4,
            trainer.base.features(&rows[0].prompt.text)[2],
        ] {
            let mut at = |delta: f32| {
                let weight = if i < split {
                    &mut trainer.head.a[i]
                } else {
                    &mut trainer.head.b[i - split]
                };
                *weight += delta;
                // A pass that takes a gradient leaves the same features out each time, until a step
                // is made.
                let loss = trainer
                    .pass(&batch, Some(&mut vec![0.0; gradient.len()]))
                    .loss;
                let weight = if i < split {
                    &mut trainer.head.a[i]
                } else {
                    &mut trainer.head.b[i - split]
                };
                *weight -= delta;
                loss
            };
            let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
            assert!(
                (slope - gradient[i]).abs() < 1e-3 * gradient[i].abs().max(0.1),
                "{i}: {slope} against {}",
                gradient[i]
            );
        }
        assert!(model.attach(Path::new("/nowhere")).is_err());
    }
}

/// The same for soft labels: of two answers, of answers that nobody was trained on, and of tokens
/// that count differently.
#[test]
fn the_gradient_of_soft_labels_is_the_slope_of_their_loss() {
    let model = model(world::old_base());
    let rows: Vec<Pair> = world::rows(6, 5);
    let spec = LoraSpec {
        objective: Objective::Match,
        shape: Shape {
            rank: 3,
            clip: 0.0,
            ..Shape::default()
        },
        ..LoraSpec::default()
    };
    let trainer = &mut ToyTrainer::new(&model.base, &spec).unwrap();
    let word = |answer: &str| {
        model
            .word(&Spelling {
                bytes: answer.as_bytes().to_vec(),
                ends: false,
            })
            .unwrap()
    };
    let labels = |(i, row): (usize, &Pair)| {
        let words = vec![
            (word(&row.completion), 0.5),
            (word("[SHIP]x"), 0.1),
            (word(&rows[(i + 1) % 6].completion), 0.3),
        ];
        let words = if words[0].0 == words[2].0 {
            words[..2].to_vec()
        } else {
            words
        };
        SoftLabels {
            words: vec![words, vec![(0, 1.0)]],
            weights: (i % 2 == 0).then(|| vec![0.25, 1.0]),
        }
    };
    let labels: Vec<SoftLabels> = rows.iter().enumerate().map(labels).collect();
    trainer.load_taught(&rows, &labels).unwrap();
    trainer
        .head
        .b
        .iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = 0.01 * (i as f32 - 4.0));
    let split = trainer.head.a.len();
    let mut gradient = vec![0.0; split + trainer.head.b.len()];
    assert!(trainer.pass(&[0, 1, 2, 3, 4, 5], Some(&mut gradient)).loss > 0.0);
    for i in [
        split,
        split + 4,
        trainer.base.features(&rows[0].prompt.text)[2],
    ] {
        let mut at = |delta: f32| {
            let weight = if i < split {
                &mut trainer.head.a[i]
            } else {
                &mut trainer.head.b[i - split]
            };
            *weight += delta;
            let loss = trainer.pass(&[0, 1, 2, 3, 4, 5], None).loss;
            let weight = if i < split {
                &mut trainer.head.a[i]
            } else {
                &mut trainer.head.b[i - split]
            };
            *weight -= delta;
            loss
        };
        let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
        assert!(
            (slope - gradient[i]).abs() < 1e-3 * gradient[i].abs().max(0.1),
            "{i}: {slope} against {}",
            gradient[i]
        );
    }
}

/// AdamW's first step is the learning rate in every entry that has a gradient.
#[test]
fn b_moves_at_its_own_rate_and_the_scale_may_be_of_the_root_of_the_rank() {
    let model = model(world::old_base());
    let rows = world::rows(8, 5);
    let spec = LoraSpec {
        shape: Shape {
            rank: 4,
            lora_plus: 16.0,
            rslora: true,
            ..Shape::default()
        },
        epsilon: 1e-20,
        ..LoraSpec::default()
    };
    let mut trainer = ToyTrainer::new(&model.base, &spec).unwrap();
    trainer.load(&rows).unwrap();
    assert_eq!(trainer.head.alpha, 64.0);
    trainer
        .head
        .b
        .iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = 0.01 * (i as f32 - 4.0));
    let before = trainer.head.clone();
    trainer.step(&[0, 1, 2, 3, 4, 5, 6, 7], 1e-3).unwrap();
    let moved = |before: &[f32], after: &[f32]| {
        before
            .iter()
            .zip(after)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    };
    let (a, b) = (
        moved(&before.a, &trainer.head.a),
        moved(&before.b, &trainer.head.b),
    );
    assert!((a / 1e-3 - 1.0).abs() < 1e-3, "{a} {b}");
    assert!((b / 16e-3 - 1.0).abs() < 1e-3, "{a} {b}");
}

#[test]
fn a_restored_snapshot_continues_exactly() {
    let rows = world::rows(40, 2);
    let spec = LoraSpec {
        shape: Shape {
            lora_dropout: 0.2,
            lora_plus: 4.0,
            ..Shape::default()
        },
        ..LoraSpec::default()
    };
    let steps = |trainer: &mut dyn Trainer, range: std::ops::Range<usize>| {
        for step in range {
            let batch: Vec<usize> = (0..8).map(|i| (step * 8 + i) % rows.len()).collect();
            trainer.step(&batch, 4e-3).unwrap();
        }
    };
    let model = model(world::old_base());
    let fresh = || {
        let mut trainer = ToyTrainer::new(&model.base, &spec).unwrap();
        trainer.load(&rows).unwrap();
        trainer
    };
    let (mut straight, mut half, mut rest) = (fresh(), fresh(), fresh());
    steps(&mut straight, 0..20);
    steps(&mut half, 0..10);
    let snapshot = half.snapshot().unwrap();
    rest.restore(&snapshot).unwrap();
    steps(&mut rest, 10..20);
    assert!(rest.adapter(&[]).unwrap() == straight.adapter(&[]).unwrap());
    assert!(matches!(
        rest.restore(&snapshot[..snapshot.len() - 1]),
        Err(EngineError::Snapshot(_))
    ));
    rest.load(&rows[..1]).unwrap();
    assert!(matches!(
        rest.restore(b"nonsense"),
        Err(EngineError::Snapshot(_))
    ));
    let other = LoraSpec {
        shape: Shape {
            lora_dropout: 0.1,
            ..spec.shape.clone()
        },
        ..spec.clone()
    };
    assert!(
        ToyTrainer::new(&model.base, &other)
            .unwrap()
            .restore(&snapshot)
            .is_err()
    );
}

#[test]
fn lists_are_continued_on_and_off_the_task() {
    let mut model = model(world::new_base());
    let seeds: Vec<String> = world::rows(5, 3)
        .iter()
        .enumerate()
        .map(|(i, row)| format!("{}. {}", i + 1, row.prompt))
        .collect();
    let request = GenerateRequest {
        start: Start::Text(format!("Here are 10 examples:\n{}\n6.", seeds.join("\n"))),
        openings: vec![String::new(); 200],
        tokens_max: 32,
        temperature: 1.0,
        min_p: 0.0,
        stop: "\n".into(),
        seed: 5,
    };
    let mut monitor = Monitor {
        cancel: &Cancel::default(),
        progress: &mut |_, _| {},
    };
    let drawn = model.generate(With::Base, &request, &mut monitor).unwrap();
    let tickets = drawn
        .iter()
        .filter(|c| c.text.contains("ticket from") || c.text.contains("writes:"))
        .count();
    assert!((80..160).contains(&tickets), "{tickets}");
    let empty = drawn.iter().filter(|c| c.text.trim().is_empty()).count();
    let endless = drawn.iter().filter(|c| !c.finished).count();
    assert!(empty > 0 && endless > 0, "{empty} empty, {endless} endless");
    assert_eq!(
        drawn,
        model.generate(With::Base, &request, &mut monitor).unwrap()
    );
}

#[test]
fn an_adapter_of_another_width_does_not_fit() {
    let mut old = model(world::old_base());
    let bytes = trained(&mut old, &world::rows(8, 1), 1)
        .adapter(&[("translora.seed".into(), "1".into())])
        .unwrap();
    assert!(Head::from_gguf(Path::new("a.gguf"), &bytes, 256).is_ok());
    let error = Head::from_gguf(Path::new("a.gguf"), &bytes, 512).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("256×") && text.contains("512×"), "{text}");
    assert!(Head::from_gguf(Path::new("a.gguf"), &bytes[..bytes.len() / 2], 256).is_err());
}

#[test]
fn a_toy_base_is_known_by_its_format() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let is = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        is_base(&path)
    };
    let base = serde_json::to_vec(&world::old_base()).unwrap();
    assert!(is("base.json", &base) && is("renamed.gguf", &base));
    let other = Base {
        format: "translora-toy-2".into(),
        ..world::old_base()
    };
    assert!(!is("other.json", &serde_json::to_vec(&other).unwrap()));
    assert!(!is("cut.json", &base[..base.len() / 2]));
    assert!(!is("rows.jsonl", br#"{"prompt": "a", "completion": "b"}"#));
    assert!(!is("model.gguf", b"GGUF") && !is("empty.json", b""));
    assert!(!is_base(&folder.join("missing.json")) && !is_base(folder));
}
