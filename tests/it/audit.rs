//! What is looked at before a transfer spends its hours, and before it publishes.

use std::fs;
use std::path::Path;

use translora::engine::host::Hosted;
use translora::engine::toy::Toy;
use translora::engine::{
    AdapterId, CompletionScore, Engine, EngineError, Model, ModelInfo, Monitor, OpenOptions, Score,
    With,
};
use translora::pipeline::{self, Event, PipelineError, Verdict};
use translora::record::{Pair, Prompt};
use translora::request::Transfer;

use crate::pipeline::{
    events_of, resumed, seeds_plan, sound, train, trained, transfer, with_context,
};
use crate::toy::{World, remedy, write_rows};
use crate::wrapped::pass_on;

/// A teacher that says the same to everything.
fn mute_teacher(world: &World) -> std::path::PathBuf {
    let rows = translora::engine::toy::world::rows(300, 11);
    let wrong = |row: &Pair| Pair {
        completion: "[NOTHING]".into(),
        ..row.clone()
    };
    let broken = world.path("broken.jsonl");
    write_rows(&broken, &rows.iter().map(wrong).collect::<Vec<_>>());
    train(world, &world.source, &broken, "old.gguf")
}

#[test]
fn a_source_adapter_that_does_not_help_its_base_is_refused_before_anything_is_made() {
    let world = World::new();
    let lora = mute_teacher(&world);
    let plan = seeds_plan(&world, &lora, "new.gguf");
    let before = world.names();
    let error = transfer(&plan).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("0 are right with it, and 0 without"),
        "{error}"
    );
    assert!(remedy(&error).contains("\"allow_weak_source\": true"));
    assert_eq!(world.names(), before);
    let report = transfer(&Transfer {
        allow_weak_source: true,
        ..plan
    })
    .unwrap();
    assert_eq!(report.verdict, Verdict::Reject);
    assert_eq!(report.output_audit, None);
    assert_eq!(report.input_audit.rows, 100);
    assert_eq!(report.input_audit.source_lora_right, 0);
}

#[test]
fn an_adapter_of_another_file_is_told() {
    let (world, lora) = trained();
    let plan = seeds_plan(&world, &lora, "new.gguf");
    let said = |plan: &Transfer| {
        let warned = |event: &Event| matches!(event, Event::Warning { text, .. } if text.contains("another file than the source"));
        events_of(|context| pipeline::transfer(&Toy, &sound(plan), context).unwrap())
            .iter()
            .any(warned)
    };
    assert!(!said(&plan));
    // The same base with other bytes.
    let copy = world.path("copy.json");
    fs::write(
        &copy,
        [fs::read(&world.source).unwrap(), b" \n".to_vec()].concat(),
    )
    .unwrap();
    assert!(said(&Transfer {
        source: copy,
        out: world.path("again.gguf"),
        ..plan
    }));
}

#[test]
fn what_lies_on_the_disk_is_compared_with_what_was_trained() {
    let (world, lora) = trained();
    let plan = seeds_plan(&world, &lora, "new.gguf");
    let report = transfer(&plan).unwrap();
    let audit = report.output_audit.expect("it was accepted");
    assert!(audit.rows == 4, "{audit:?}");
    assert!(audit.tokens == 4, "{audit:?}");
    assert!(audit.logits_error == 0.0, "{audit:?}");
    assert!(audit.answers > 0, "{audit:?}");
    assert!(audit.answers_same == audit.answers, "{audit:?}");
    for (spoilt, says) in [
        (Spoilt::Other(&lora), "cannot be loaded"),
        (Spoilt::Base, "tokens are not the trainer's"),
        (Spoilt::Nan, "logits differ"),
    ] {
        let plan = Transfer {
            out: world.path("spoilt.gguf"),
            ..plan.clone()
        };
        let error =
            with_context(|context| pipeline::transfer(&Disk(&spoilt), &sound(&plan), context))
                .unwrap_err();
        assert!(
            matches!(error, PipelineError::Audit { .. }),
            "{says}: {error}"
        );
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert!(
            error.to_string().contains("nothing was published"),
            "{error}"
        );
        assert!(remedy(&error).contains("resume"), "{error}");
        let left: Vec<String> = world
            .names()
            .into_iter()
            .filter(|name| name.contains("spoilt"))
            .collect();
        assert_eq!(left, ["spoilt.gguf.journal"], "{says}");
        // On a disk that gives back what was written, the same run goes on and publishes.
        let again = transfer(&Transfer {
            run: resumed(),
            ..plan
        })
        .unwrap();
        assert_eq!(again.verdict, Verdict::Accept);
        for name in ["spoilt.gguf", "spoilt.report.json", "spoilt.report.html"] {
            fs::remove_file(world.path(name)).unwrap();
        }
    }
}

/// What the disk gives back in the place of a file that waits to be published.
enum Spoilt<'a> {
    /// Another file.
    Other(&'a Path),
    /// An adapter that is not there.
    Base,
    /// Numbers that are none.
    Nan,
}

/// The toy engine on a disk that spoils files that wait to be published.
struct Disk<'a>(&'a Spoilt<'a>);

impl Engine for Disk<'_> {
    fn version(&self) -> String {
        Toy.version()
    }

    fn open(&self, base: &Path, options: &OpenOptions) -> Result<Box<dyn Model>, EngineError> {
        let kind = match self.0 {
            Spoilt::Other(path) => Kind::Other(path.to_path_buf()),
            Spoilt::Base => Kind::Base,
            Spoilt::Nan => Kind::Nan,
        };
        Ok(Box::new(Spoiling {
            model: Toy.open(base, options)?,
            kind,
            spoils: false,
        }))
    }

    fn host(
        &self,
        base: &Path,
        options: &OpenOptions,
        sequences: usize,
    ) -> Result<Hosted, EngineError> {
        Toy.host(base, options, sequences)
    }
}

enum Kind {
    Other(std::path::PathBuf),
    Base,
    Nan,
}

struct Spoiling {
    model: Box<dyn Model>,
    kind: Kind,
    spoils: bool,
}

impl Model for Spoiling {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn attach(&mut self, adapter: &Path) -> Result<AdapterId, EngineError> {
        let waits = adapter
            .extension()
            .is_some_and(|extension| extension == "part");
        self.spoils |= waits;
        match &self.kind {
            Kind::Other(other) if waits => self.model.attach(&other.clone()),
            _ => self.model.attach(adapter),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), EngineError> {
        self.model.check_text(text)
    }
}

pass_on!(Generate for Spoiling);
pass_on!(Label for Spoiling);
pass_on!(Teach for Spoiling);
pass_on!(Train for Spoiling);

impl Score for Spoiling {
    fn score(
        &mut self,
        with: With,
        pairs: &[Pair],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<CompletionScore>, EngineError> {
        self.model.score(with, pairs, monitor)
    }

    fn preference(
        &mut self,
        with: With,
        prompts: &[Prompt],
        a: &str,
        b: &str,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<f64>, EngineError> {
        self.model.preference(with, prompts, a, b, monitor)
    }

    fn logits(&mut self, with: With, pair: &Pair) -> Result<Vec<Vec<f32>>, EngineError> {
        match self.kind {
            Kind::Base if self.spoils => self.model.logits(With::Base, pair),
            Kind::Nan if self.spoils => Ok(self
                .model
                .logits(with, pair)?
                .into_iter()
                .map(|row| vec![f32::NAN; row.len()])
                .collect()),
            _ => self.model.logits(with, pair),
        }
    }
}
