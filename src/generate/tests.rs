use super::sampler::list_prompt;
use super::*;
use crate::engine::{Continuation, EngineError, Generate, GenerateRequest, Monitor, Start, With};
use crate::kit::Seed;
use crate::record::{Blame, Cancel, Origin, Prompt, Role, Turn};

/// Answers with a script, and keeps the requests.
struct Script {
    /// Without the opening, which is put before it.
    says: Vec<&'static str>,
    requests: Vec<GenerateRequest>,
}

impl Generate for Script {
    fn generate(
        &mut self,
        _: With,
        request: &GenerateRequest,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Continuation>, EngineError> {
        monitor.tick(0, 1)?;
        self.requests.push(request.clone());
        let one = |(opening, text): (&String, &&str)| Continuation {
            text: format!("{opening}{text}"),
            tokens: 3,
            finished: true,
        };
        Ok(request.openings.iter().zip(&self.says).map(one).collect())
    }
}

fn seeds() -> Vec<Seed> {
    of(&["say one", "two\nlines", "say three"])
}

fn of(texts: &[&str]) -> Vec<Seed> {
    texts.iter().map(|text| Seed::example(*text)).collect()
}

/// The lines among candidates.
fn lines(candidates: &[Candidate]) -> Vec<&str> {
    candidates
        .iter()
        .filter(|candidate| candidate.origin() == Origin::Line)
        .map(Candidate::text)
        .collect()
}

fn settings() -> Settings {
    Settings {
        temperature: 1.0,
        tokens_max: 16,
        sequences: 4,
        variants: true,
        seed: 1,
    }
}

#[test]
fn a_round_drops_seeds_and_repetitions() {
    let (seeds, cancel) = (of(&["a"]), Cancel::default());
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" a ", " four", "four ", " five"],
        requests: Vec::new(),
    };
    let mut sampler = InputSampler::new(
        &seeds,
        Settings {
            variants: false,
            ..settings()
        },
    )
    .unwrap();
    let (fresh, count) = sampler
        .round(&mut model, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    assert_eq!(lines(&fresh), ["four", "five"]);
    assert_eq!(
        count,
        Yield {
            drawn: 4,
            repeated: 1,
            seeds_repeated: 1,
            tokens: 12
        }
    );
    let (again, count) = sampler
        .round(&mut model, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    assert!(again.is_empty());
    assert_eq!(count.repeated, 3);
    assert_ne!(model.requests[0], model.requests[1]);
}

#[test]
fn what_all_seeds_begin_with_is_kept_and_only_what_varies_is_drawn_anew() {
    let (seeds, cancel) = (
        of(&["date May 12", "date June 7", "date July 30"]),
        Cancel::default(),
    );
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" March and so on"; 32],
        requests: Vec::new(),
    };
    let mut sampler = InputSampler::new(
        &seeds,
        Settings {
            sequences: 32,
            ..settings()
        },
    )
    .unwrap();
    let mut made = Vec::new();
    for _ in 0..4 {
        made.extend(
            sampler
                .round(&mut model, With::Base, Instruction::List, &mut monitor)
                .unwrap()
                .0,
        );
    }
    assert!(
        model
            .requests
            .iter()
            .flat_map(|request| &request.openings)
            .all(|opening| opening.starts_with("date"))
    );
    let months: Vec<&str> = made
        .iter()
        .map(Candidate::text)
        .filter(|text| text.starts_with("date March "))
        .collect();
    assert!(
        months
            .iter()
            .any(|text| text.split_whitespace().count() == 3),
        "{made:?}"
    );
    let adopted = ["date March 8"];
    sampler.adopt(adopted);
    let (next, _) = sampler
        .round(&mut model, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    assert!(
        next.iter()
            .any(|candidate| candidate.origin() == Origin::Chain),
        "{next:?}"
    );
}

#[test]
fn the_list_is_the_papers() {
    let shown = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let prompt = list_prompt(&shown(&["say one"]));
    assert_eq!(prompt, "Here are 10 examples:\n1. say one\n2.");
    let all = list_prompt(&shown(&["say one", "two lines", "say three"]));
    assert!(
        all.contains(". two lines\n") && all.ends_with("\n4."),
        "{all}"
    );
}

#[test]
fn a_continued_sampler_draws_what_the_straight_one_draws() {
    let (seeds, cancel) = (seeds(), Cancel::default());
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut straight = Script {
        says: vec!["a"],
        requests: Vec::new(),
    };
    let mut sampler = InputSampler::new(&seeds, settings()).unwrap();
    let (first, _) = sampler
        .round(&mut straight, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    sampler
        .round(&mut straight, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    let mut resumed = Script {
        says: vec!["a"],
        requests: Vec::new(),
    };
    let mut sampler = InputSampler::new(&seeds, settings()).unwrap();
    sampler.remember(1, &first);
    let (fresh, _) = sampler
        .round(&mut resumed, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    assert!(fresh.iter().all(|candidate| !first.contains(candidate)));
    assert_eq!(resumed.requests[0], straight.requests[1]);
}

#[test]
fn cancel_and_no_seeds_are_errors() {
    let cancel = Cancel::default();
    cancel.cancel();
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let seeds = seeds();
    let mut sampler = InputSampler::new(&seeds, settings()).unwrap();
    let error = sampler
        .round(
            &mut Script {
                says: vec![],
                requests: vec![],
            },
            With::Base,
            Instruction::List,
            &mut monitor,
        )
        .unwrap_err();
    assert!(error.is_cancelled());
    assert!(InputSampler::new(&[], settings()).is_err_and(|error| error.remedy().is_some()));
}

/// A sampler that draws inputs for two labels; a third is no single line.
fn covering(seeds: &[Seed]) -> InputSampler<'_> {
    let mut sampler = InputSampler::new(seeds, settings()).unwrap();
    let labels = ["SHIP", "BILL", "two\nlines"].map(|label| Lead::Label(label.into()));
    sampler.cover(
        labels.into(),
        [("BILL", "say one"), ("BROKEN", "two\nlines")],
    );
    sampler
}

#[test]
fn inputs_are_drawn_for_each_label_behind_a_list_of_labels() {
    let (seeds, cancel) = (seeds(), Cancel::default());
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" go on", " go off", " go up", " go down"],
        requests: Vec::new(),
    };
    let mut sampler = covering(&seeds);
    let mut drawn = Vec::new();
    for _ in 0..24 {
        let round = sampler.round(&mut model, With::Base, Instruction::List, &mut monitor);
        drawn.extend(round.unwrap().0);
    }
    let with_labels: Vec<&GenerateRequest> = model
        .requests
        .iter()
        .filter(|request| request.openings.iter().any(|open| open == "SHIP:"))
        .collect();
    assert!(
        (4..20).contains(&with_labels.len()),
        "{}",
        with_labels.len()
    );
    for request in with_labels {
        let Start::Text(list) = &request.start else {
            panic!("a list is text")
        };
        assert!(
            list.contains("BILL: say one\n") && list.contains("BROKEN: two lines\n"),
            "{list}"
        );
        let of = |label: &str| {
            request
                .openings
                .iter()
                .filter(|open| *open == label)
                .count()
        };
        assert_eq!((of("SHIP:"), of("BILL:")), (2, 2));
    }
    // What is drawn is the input alone.
    assert!(
        lines(&drawn).contains(&"go on") && !lines(&drawn).iter().any(|line| line.contains("SHIP")),
        "{drawn:?}"
    );
    // Without labels, and of anything, there is no list at all.
    sampler.cover(Vec::new(), []);
    let before = model.requests.len();
    sampler
        .round(&mut model, With::Base, Instruction::Anything, &mut monitor)
        .unwrap();
    assert_eq!(
        model.requests[before].start,
        Start::Text("Here are 10 examples:\n1.".into())
    );
}

#[test]
fn each_label_is_shown_before_any_is_shown_twice() {
    let (seeds, cancel) = (seeds(), Cancel::default());
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" go on"; 4],
        requests: Vec::new(),
    };
    let mut sampler = InputSampler::new(&seeds, settings()).unwrap();
    let often: Vec<String> = (0..40).map(|i| format!("say {i}")).collect();
    let often = often.iter().map(|text| ("SHIP", text.as_str()));
    let shots = often.chain([("BILL", "pay up")]);
    sampler.cover(vec![Lead::Label("BILL".into())], shots);
    for _ in 0..16 {
        let round = sampler.round(&mut model, With::Base, Instruction::List, &mut monitor);
        round.unwrap();
    }
    let lists = model
        .requests
        .iter()
        .filter_map(|request| match &request.start {
            Start::Text(list) if list.contains("SHIP: ") => Some(list),
            _ => None,
        });
    let lists: Vec<&String> = lists.collect();
    assert!(!lists.is_empty() && lists.iter().all(|list| list.contains("BILL: pay up")));
}

#[test]
fn a_tuned_generator_goes_on_after_a_label() {
    let (seeds, cancel) = (seeds(), Cancel::default());
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" go back"; 4],
        requests: Vec::new(),
    };
    let prompt = Instruction::Tuned("An input.");
    let (tuned, _) = covering(&seeds)
        .round(&mut model, With::Base, prompt, &mut monitor)
        .unwrap();
    let request = &model.requests[0];
    assert_eq!(request.start, Start::Chat("An input.".into()));
    assert!(
        request
            .openings
            .iter()
            .all(|opening| opening == "SHIP:" || opening == "BILL:")
    );
    assert!(
        tuned.len() == 1
            && tuned.iter().all(|line| line.text() == "go back"
                && line.intended().is_some()
                && line.origin() == Origin::Tuned),
        "{tuned:?}"
    );
}

#[test]
fn inputs_come_behind_the_turns_of_the_seeds_each_as_often() {
    let conversation = |system: &str, text: &str| {
        Seed::example(Prompt::behind(&[Turn::new(Role::System, system)], text))
    };
    let seeds = [
        conversation("one", "go left"),
        conversation("two", "go right"),
    ];
    let mut monitor = Monitor {
        cancel: &Cancel::default(),
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: (0..4).map(|_| " go on").collect(),
        requests: Vec::new(),
    };
    let (drawn, _) = covering(&seeds)
        .round(&mut model, With::Base, Instruction::List, &mut monitor)
        .unwrap();
    let of = |system: &str| {
        let has = |candidate: &&Candidate| candidate.prompt().before[0].content == system;
        drawn.iter().filter(has).count()
    };
    assert!(of("one") + of("two") == drawn.len() && of("one").abs_diff(of("two")) <= 1);
    assert!(drawn.len() > 1, "{drawn:?}");
}
