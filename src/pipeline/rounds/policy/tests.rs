use super::*;
use crate::engine::{AdapterId, With};
use crate::filter::Discriminator;
use crate::record::Question;
use crate::request::{Request, Transfer};

/// A hundred samples, ten draws for each, three judged for each.
fn policy() -> Policy {
    Policy {
        samples: 100,
        needed: 100,
        taught_max: 400,
        draws_max: 1000,
        candidates: 300,
        good_share: 0.25,
        answered: true,
        consistent: false,
        generators: 1,
        tuned: None,
    }
}

fn plan(samples: usize, label: LabelChoice) -> TransferPlan {
    let request = Transfer {
        source: "old.gguf".into(),
        source_lora: "lora.gguf".into(),
        target: "new.gguf".into(),
        seeds: Some("seeds.jsonl".into()),
        out: "out.gguf".into(),
        samples,
        epochs: 4.5,
        label,
        ..Transfer::default()
    };
    let mut plan = request.plan().expect("it is sound");
    plan.limits.candidates_per_sample_max = 10;
    plan
}

fn stock(drawn: u64, judged: usize, accepted: usize) -> Stock {
    Stock {
        drawn,
        judged,
        accepted,
    }
}

fn generator(question: Option<&str>, tuned: bool) -> Generator {
    Generator {
        name: "target",
        target: true,
        with: With::Base,
        question: question.map(str::to_owned),
        seeded: true,
        tuned,
    }
}

#[test]
fn a_policy_follows_the_judge_and_the_generators() {
    let (teacher, tokens_max) = (AdapterId(0), 8);
    let contrast = Judge::Contrast {
        teacher,
        tokens_max,
    };
    let kit = Judge::Discriminator(Discriminator {
        adapter: AdapterId(1),
        question: Question::about("tickets"),
        threshold: 0.0,
    });
    let (list, input_model) = (generator(None, false), generator(Some("?"), false));
    let tuned = generator(Some("?"), true);
    // (judge, generators) -> (candidates, good share, answered, tuned)
    let cases = [
        (&Judge::None, vec![&list], (200, 1.0, false, None)),
        (&Judge::None, vec![&input_model], (200, 1.0, false, None)),
        (&contrast, vec![&list], (720, 0.25, true, None)),
        (&contrast, vec![&input_model], (206, 0.25, true, None)),
        (&contrast, vec![&list, &tuned], (720, 0.25, true, Some(1))),
        (&kit, vec![&list, &list], (720, 1.0, false, None)),
        (&kit, vec![&input_model], (206, 1.0, false, None)),
    ];
    for (judge, generators, expected) in cases {
        let generators: Vec<Generator> = generators.into_iter().cloned().collect();
        let policy = Policy::new(&plan(100, LabelChoice::Greedy), judge, &generators);
        let found = (
            policy.candidates,
            policy.good_share,
            policy.answered,
            policy.tuned,
        );
        assert_eq!(found, expected, "{judge:?} {generators:?}");
        assert_eq!(
            (policy.draws_max, policy.generators),
            (1200, generators.len())
        );
    }
}

#[test]
fn another_round_is_wanted() {
    let cases = [
        ("at first", 0, stock(0, 0, 0), true),
        (
            "enough, but there may be better",
            3,
            stock(500, 299, 100),
            true,
        ),
        (
            "enough, and four rounds were had",
            4,
            stock(500, 299, 100),
            false,
        ),
        (
            "enough, and all were judged",
            2,
            stock(500, 300, 100),
            false,
        ),
        ("too few, whatever the round", 9, stock(999, 900, 99), true),
        ("too few, and no draws left", 9, stock(1000, 900, 99), false),
        (
            "better ones, and no draws left",
            1,
            stock(1000, 200, 100),
            false,
        ),
    ];
    for (what, round, stock, wanted) in cases {
        assert_eq!(policy().wants_more(round, stock), wanted, "{what}");
    }
}

#[test]
fn a_run_is_hopeless_that_would_end_with_less_than_half() {
    let cases = [
        (stock(100, 80, 0), true),
        (stock(100, 80, 4), true),
        (stock(100, 80, 5), false),
        (stock(1000, 80, 49), true),
        (stock(1000, 80, 50), false),
        (stock(0, 0, 1), false),
    ];
    for (stock, hopeless) in cases {
        assert_eq!(policy().is_hopeless(stock), hopeless, "{stock:?}");
    }
}

#[test]
fn half_is_enough() {
    for (needed, labeled, enough) in [
        (100, 49, false),
        (100, 50, true),
        (7, 3, false),
        (7, 4, true),
        (1, 1, false),
        (1, 2, true),
    ] {
        let policy = Policy {
            samples: needed,
            ..policy()
        };
        assert_eq!(policy.is_enough(labeled), enough, "{labeled} of {needed}");
    }
}

#[test]
fn generators_take_turns_and_the_tuned_one_comes_last() {
    let yields = [stock(100, 90, 80); 3];
    let cases: [(usize, Option<usize>, [usize; 6]); 4] = [
        (1, None, [0, 0, 0, 0, 0, 0]),
        (2, None, [0, 1, 0, 1, 0, 1]),
        (2, Some(1), [0, 0, 1, 1, 1, 1]),
        (3, Some(2), [0, 1, 2, 2, 2, 2]),
    ];
    for (generators, tuned, turns) in cases {
        let policy = Policy {
            generators,
            tuned,
            ..policy()
        };
        let found: Vec<usize> = (0..6).map(|round| policy.turn(round, &yields)).collect();
        assert_eq!(found, turns, "{generators} generators, tuned {tuned:?}");
    }
}

#[test]
fn who_gives_next_to_nothing_has_no_more_turns() {
    let (good, bad, new) = (stock(100, 90, 80), stock(64, 6, 6), stock(0, 0, 0));
    let fair = stock(64, 20, 20);
    // (generators, tuned, what each gave) -> turns of the rounds from 2 on, and the least yield
    // of the last one.
    type Case<'c> = (&'c [Stock], Option<usize>, [usize; 3], f64);
    let cases: [Case<'_>; 7] = [
        (&[good, bad], Some(1), [0, 0, 0], 0.1),
        (&[good, fair], Some(1), [1, 1, 1], 0.1),
        (&[good, new], Some(1), [1, 1, 1], 0.1),
        (&[good, bad, new], Some(2), [2, 2, 2], 0.1),
        (&[bad, good], None, [1, 1, 1], 6.0 / 64.0),
        (&[bad, bad], Some(1), [1, 1, 1], 6.0 / 64.0),
        (&[new], None, [0, 0, 0], 0.0),
    ];
    for (yields, tuned, turns, least) in cases {
        let policy = Policy {
            generators: yields.len(),
            tuned,
            ..policy()
        };
        let found: Vec<usize> = (2..5).map(|round| policy.turn(round, yields)).collect();
        assert_eq!(found, turns, "{yields:?}");
        let last = policy.least_yield(yields.len() - 1, yields);
        assert!((last - least).abs() < 1e-12, "{yields:?}: {last}");
    }
}

#[test]
fn a_round_gives_its_share_or_what_is_missing() {
    let cases = [
        ("an even share", stock(0, 0, 0), 75),
        ("what is left of the candidates", stock(600, 280, 10), 20),
        ("as many as were accepted say", stock(700, 300, 50), 390),
        ("at the least acceptance", stock(700, 300, 0), 2600),
        ("nothing is missing", stock(700, 300, 100), 0),
    ];
    for (what, stock, wanted) in cases {
        assert_eq!(policy().wanted(stock), wanted, "{what}");
    }
    let cases = [
        ("two draws for each", 75, stock(0, 0, 0), 150),
        ("no more than are left", 75, stock(900, 0, 0), 100),
        ("none are left", 75, stock(1001, 0, 0), 0),
    ];
    for (what, wanted, stock, draws) in cases {
        assert_eq!(policy().draws(wanted, stock), draws, "{what}");
    }
}

#[test]
fn how_many_are_chosen_for_what() {
    // (needed, answered, consistent) -> (labelled, adopted, tuned on)
    let cases = [
        ((100, true, false), (100, 25, 50)),
        ((100, false, false), (107, 25, 50)),
        ((100, true, true), (122, 25, 50)),
        ((100, false, true), (129, 25, 50)),
        ((7, false, true), (12, 1, 4)),
    ];
    for ((needed, answered, consistent), expected) in cases {
        let policy = Policy {
            samples: needed,
            needed,
            answered,
            consistent,
            ..policy()
        };
        assert_eq!(
            (policy.labeled(0), policy.adopted(), policy.tuned_on()),
            expected,
            "{needed} {answered} {consistent}"
        );
    }
}

#[test]
fn what_was_accepted_is_taught_in_place_of_repetitions() {
    let contrast = Judge::Contrast {
        teacher: AdapterId(0),
        tokens_max: 8,
    };
    let (greedy, consistent) = (LabelChoice::Greedy, LabelChoice::Consistent);
    // 100 samples, 20 of the chosen held out and 80 beside: (label, judge, accepted) -> (taught, labelled)
    let cases = [
        (greedy, &contrast, 0, (400, 120)),
        (greedy, &contrast, 150, (400, 120)),
        (greedy, &contrast, 300, (400, 220)),
        (greedy, &contrast, 900, (400, 420)),
        (consistent, &contrast, 900, (100, 146)),
        (greedy, &Judge::None, 900, (100, 128)),
    ];
    for (label, judge, accepted, expected) in cases {
        let policy = Policy::new(&plan(100, label), judge, &[]);
        assert_eq!(
            (policy.taught_max, policy.labeled(accepted)),
            expected,
            "{accepted}"
        );
    }
}

#[test]
fn a_hundred_are_held_out_and_no_more_than_a_fifth_of_what_is_chosen() {
    for (samples, held_out) in [
        (1000, [50, 50]),
        (250, [50, 50]),
        (100, [20, 80]),
        (3, [1, 99]),
    ] {
        let policy = Policy::new(&plan(samples, LabelChoice::Greedy), &Judge::None, &[]);
        assert_eq!(policy.held_out(), held_out, "{samples}");
        assert_eq!(policy.needed, samples + held_out[0]);
    }
}

#[test]
fn how_sure_the_teacher_is_counts_where_it_answered() {
    for (answered, expected) in [(true, Some(-0.1)), (false, None)] {
        let policy = Policy {
            answered,
            ..policy()
        };
        assert_eq!(policy.shares(Some(-0.1), 0.5).sure, expected);
    }
    let best = policy().best_shares(0.5);
    assert_eq!((best.sure, best.good, best.lines), (None, 0.1, 0.5));
}

#[test]
fn lines_are_drawn_as_often_as_they_are_good() {
    let of = |origin: Origin, count: usize, score: f64| {
        let scored = Scored {
            score,
            accepted: score > 0.0,
            origin,
        };
        vec![scored; count]
    };
    let (line, splice, tuned) = (Origin::Line, Origin::Splice, Origin::Tuned);
    // The part of each that is good; a quarter of what was accepted is.
    let cases = [
        ("none were judged", vec![], None),
        (
            "none were accepted",
            vec![of(line, 9, -1.0), of(splice, 9, -1.0)],
            None,
        ),
        ("there are no variants", vec![of(line, 9, 1.0)], None),
        (
            "both are alike",
            vec![of(line, 8, 1.0), of(splice, 8, 1.0)],
            Some(0.5),
        ),
        (
            "only lines are good",
            vec![of(line, 8, 2.0), of(splice, 8, 1.0)],
            Some(1.0),
        ),
        (
            "every line is good, every fourth variant",
            vec![of(line, 4, 2.0), of(splice, 4, 2.0), of(splice, 12, -1.0)],
            Some(0.8),
        ),
        (
            "what a tuned model wrote only sets the bar",
            vec![of(tuned, 9, 3.0), of(line, 2, 2.0), of(splice, 2, 2.0)],
            None,
        ),
    ];
    for (what, inputs, expected) in cases {
        assert_eq!(policy().lines_share(&inputs.concat()), expected, "{what}");
    }
}
