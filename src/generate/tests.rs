use super::*;
use crate::engine::{Continuation, EngineError};
use crate::record::{Blame, Cancel};

/// Says what it was told to say, and notes what it was asked.
struct Script {
    /// Without the opening, which is put before it.
    says: Vec<&'static str>,
    asked: Vec<GenerateRequest>,
}

impl Generate for Script {
    fn generate(
        &mut self,
        _: With,
        request: &GenerateRequest,
        talk: &mut Talk<'_>,
    ) -> Result<Vec<Continuation>, EngineError> {
        talk.tick(0, 1)?;
        self.asked.push(request.clone());
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
    texts
        .iter()
        .map(|text| Seed::replay((*text).into()))
        .collect()
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
    let mut talk = Talk {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" a ", " four", "four ", " five"],
        asked: Vec::new(),
    };
    let mut generator = Generator::new(
        &seeds,
        Settings {
            variants: false,
            ..settings()
        },
    )
    .unwrap();
    let (fresh, count) = generator
        .round(&mut model, With::Base, Ask::List, &mut talk)
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
    let (again, count) = generator
        .round(&mut model, With::Base, Ask::List, &mut talk)
        .unwrap();
    assert!(again.is_empty());
    assert_eq!(count.repeated, 3);
    assert_ne!(model.asked[0], model.asked[1]);
}

#[test]
fn what_all_seeds_begin_with_is_kept_and_only_what_varies_is_drawn_anew() {
    let (seeds, cancel) = (
        of(&["date May 12", "date June 7", "date July 30"]),
        Cancel::default(),
    );
    let mut talk = Talk {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" March and so on"; 32],
        asked: Vec::new(),
    };
    let mut generator = Generator::new(
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
            generator
                .round(&mut model, With::Base, Ask::List, &mut talk)
                .unwrap()
                .0,
        );
    }
    assert!(
        model
            .asked
            .iter()
            .flat_map(|asked| &asked.openings)
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
    generator.adopt(adopted);
    let (next, _) = generator
        .round(&mut model, With::Base, Ask::List, &mut talk)
        .unwrap();
    assert!(
        next.iter()
            .any(|candidate| candidate.origin() == Origin::Chain),
        "{next:?}"
    );
}

#[test]
fn the_list_is_the_papers() {
    let prompt = list_prompt(&seeds()[..1], &mut Rng::new(1, "t"));
    assert_eq!(prompt, "Here are 10 examples:\n1. say one\n2.");
    let all = list_prompt(&seeds(), &mut Rng::new(1, "t"));
    assert!(
        all.contains(". two lines\n") && all.ends_with("\n4."),
        "{all}"
    );
}

#[test]
fn a_continued_generator_draws_what_the_straight_one_draws() {
    let (seeds, cancel) = (seeds(), Cancel::default());
    let mut talk = Talk {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut straight = Script {
        says: vec!["a"],
        asked: Vec::new(),
    };
    let mut generator = Generator::new(&seeds, settings()).unwrap();
    let (first, _) = generator
        .round(&mut straight, With::Base, Ask::List, &mut talk)
        .unwrap();
    generator
        .round(&mut straight, With::Base, Ask::List, &mut talk)
        .unwrap();
    let mut resumed = Script {
        says: vec!["a"],
        asked: Vec::new(),
    };
    let mut generator = Generator::new(&seeds, settings()).unwrap();
    generator.remember(1, &first);
    let (fresh, _) = generator
        .round(&mut resumed, With::Base, Ask::List, &mut talk)
        .unwrap();
    assert!(fresh.iter().all(|candidate| !first.contains(candidate)));
    assert_eq!(resumed.asked[0], straight.asked[1]);
}

#[test]
fn cancel_and_no_seeds_are_errors() {
    let cancel = Cancel::default();
    cancel.cancel();
    let mut talk = Talk {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let seeds = seeds();
    let mut generator = Generator::new(&seeds, settings()).unwrap();
    let error = generator
        .round(
            &mut Script {
                says: vec![],
                asked: vec![],
            },
            With::Base,
            Ask::List,
            &mut talk,
        )
        .unwrap_err();
    assert!(error.is_cancelled());
    assert!(Generator::new(&[], settings()).is_err_and(|error| error.remedy().is_some()));
}

#[test]
fn an_answer_that_is_wanted_is_asked_for() {
    let (seeds, cancel) = (seeds(), Cancel::default());
    let mut talk = Talk {
        cancel: &cancel,
        progress: &mut |_, _| {},
    };
    let mut model = Script {
        says: vec![" go on", " go off", " go up", " go down"],
        asked: Vec::new(),
    };
    let mut generator = Generator::new(&seeds, settings()).unwrap();
    let wanted = ["SHIP", "BILL", "two\nlines"].map(str::to_owned).into();
    generator.want(wanted, [("BILL", "say one"), ("BROKEN", "two\nlines")]);
    let mut made = Vec::new();
    for _ in 0..24 {
        made.extend(
            generator
                .round(&mut model, With::Base, Ask::List, &mut talk)
                .unwrap()
                .0,
        );
    }
    let asked: Vec<&GenerateRequest> = model
        .asked
        .iter()
        .filter(|asked| asked.openings.iter().any(|open| open == "SHIP:"))
        .collect();
    assert!((4..20).contains(&asked.len()), "{}", asked.len());
    for request in &asked {
        assert!(
            request.prefix.contains("BILL: say one\n")
                && request.prefix.contains("BROKEN: two lines\n"),
            "{}",
            request.prefix
        );
        let of = |answer: &str| {
            request
                .openings
                .iter()
                .filter(|opening| *opening == answer)
                .count()
        };
        assert_eq!((of("SHIP:"), of("BILL:")), (2, 2));
    }
    // What is drawn is the input alone.
    assert!(
        lines(&made).contains(&"go on") && !lines(&made).iter().any(|line| line.contains("SHIP")),
        "{made:?}"
    );
    // A model that was fitted on inputs behind their answers goes on after an answer, too.
    let before = model.asked.len();
    model.says = vec![" go back"; 4];
    let (tuned, _) = generator
        .round(&mut model, With::Base, Ask::Tuned("An input."), &mut talk)
        .unwrap();
    assert_eq!(
        (
            model.asked[before].prefix.as_str(),
            model.asked[before].chat
        ),
        ("An input.", true)
    );
    assert!(
        model.asked[before]
            .openings
            .iter()
            .all(|opening| opening == "SHIP:" || opening == "BILL:")
    );
    assert!(
        tuned.len() == 1
            && tuned.iter().all(|line| line.text() == "go back"
                && line.asked().is_some()
                && line.origin() == Origin::Tuned),
        "{tuned:?}"
    );
    generator.want(Vec::new(), []);
    let before = model.asked.len();
    generator
        .round(&mut model, With::Base, Ask::Anything, &mut talk)
        .unwrap();
    assert_eq!(model.asked[before].prefix, "Here are 10 examples:\n1.");
}
