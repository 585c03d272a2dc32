//! What becomes of prompts in a folder: which are kept, how much, how long, and what a killed
//! writer or a stranger may leave there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use translora_harvest::{
    Asked, Bounds, Damage, Harvest, HarvestError, Kept, Role, Row, Turn, erase, erase_expired,
    file_of, list, read,
};

const DAY: u64 = 24 * 3600;

struct World {
    _folder: tempfile::TempDir,
    place: PathBuf,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("kept");
        Self {
            _folder: folder,
            place,
        }
    }

    fn open(&self, bounds: Bounds) -> Harvest {
        Harvest::open(&self.place, bounds).expect("it opens")
    }

    fn file(&self, adapter: &str) -> PathBuf {
        self.place.join(file_of(adapter))
    }
}

fn row(text: &str, at: u64) -> Row {
    let turn = Turn {
        role: Role::User,
        content: text.into(),
    };
    Row {
        at,
        until: at + 30 * DAY,
        sha256: "ab".repeat(32),
        asked: Asked::of_turns(vec![turn]).expect("it asks"),
        answer: None,
    }
}

fn texts(path: &Path, now: u64) -> BTreeSet<String> {
    let contents = read(path, now).expect("it can be read");
    let text = |row: Row| match row.asked {
        Asked::Turns(mut turns) => turns.pop().expect("a turn").content,
        Asked::Text(text) => text,
    };
    contents.rows.into_iter().map(text).collect()
}

fn rows_max(rows_max: usize) -> Bounds {
    Bounds {
        rows_max,
        ..Bounds::default()
    }
}

#[test]
fn each_distinct_prompt_has_the_same_chance() {
    const PROMPTS: usize = 60;
    const KEPT: usize = 6;
    const RUNS: u64 = 120;
    let mut counts = vec![0_u32; PROMPTS];
    for seed in 0..RUNS {
        let world = World::new();
        let mut harvest = world.open(rows_max(KEPT));
        for at in 0..PROMPTS as u64 {
            // The first tenth comes five times.
            for _ in 0..if at < 6 { 5 } else { 1 } {
                let kept = harvest.keep("a", &row(&format!("prompt {at}"), at), seed);
                kept.expect("it can be written");
            }
        }
        assert_eq!(harvest.rows("a"), KEPT);
        let found = texts(&world.file("a"), 200);
        assert_eq!(found.len(), KEPT);
        for (number, count) in counts.iter_mut().enumerate() {
            *count += u32::from(found.contains(&format!("prompt {number}")));
        }
    }
    // Each is kept in 12 of 120 runs on the mean, and the seeds above are all the chance there is.
    let expected = RUNS as f64 * KEPT as f64 / PROMPTS as f64;
    let chi: f64 = counts
        .iter()
        .map(|&count| (f64::from(count) - expected).powi(2) / (expected * 0.9))
        .sum();
    // 59 degrees of freedom: 0.1 % of fair samples are above 98, 0.1 % below 31.
    assert!((31.0..98.0).contains(&chi), "{chi}: {counts:?}");
    let often: u32 = counts[..6].iter().sum();
    assert!((46..=98).contains(&often), "{often}");
}

#[test]
fn a_prompt_is_kept_once_whatever_its_case_and_white_space() {
    let world = World::new();
    let mut harvest = world.open(rows_max(10));
    let mut keep = |text: &str| {
        harvest
            .keep("a", &row(text, 1), 7)
            .expect("it can be written")
    };
    assert_eq!(keep("Play some jazz"), Kept::Added);
    assert_eq!(keep(" play  some\nJazz "), Kept::Repeated);
    assert_eq!(keep("play some jazz!"), Kept::Added);
    // A conversation with another system prompt is another prompt.
    let mut other = row("Play some jazz", 1);
    let system = Turn {
        role: Role::System,
        content: "You choose music".into(),
    };
    if let Asked::Turns(turns) = &mut other.asked {
        turns.insert(0, system);
    }
    assert_eq!(harvest.keep("a", &other, 7).expect("written"), Kept::Added);
    // Another writer knows them.
    let mut again = world.open(rows_max(10));
    let kept = again.keep("a", &row("PLAY SOME JAZZ", 2), 8);
    assert_eq!(kept.expect("it can be written"), Kept::Repeated);
    assert_eq!(again.rows("a"), 3);
}

#[test]
fn rows_bytes_and_adapters_are_bounded() {
    let world = World::new();
    let bounds = Bounds {
        rows_max: 50,
        bytes_max: 4000,
        adapters_max: 2,
        ..Bounds::default()
    };
    let mut harvest = world.open(bounds);
    let mut largest = 0;
    for n in 0..400 {
        let long = format!("{n} {}", "word ".repeat(n % 40));
        harvest
            .keep("a", &row(&long, 1), 3)
            .expect("it can be written");
        largest = largest.max(fs::metadata(world.file("a")).expect("there").len());
    }
    let rows = read(&world.file("a"), 1).expect("readable").rows;
    assert!(rows.len() <= 50 && rows.len() > 5, "{}", rows.len());
    assert!(largest < 64 * 1024, "{largest}");
    let too_long = row(&"x".repeat(70_000), 1);
    assert_eq!(
        harvest.keep("a", &too_long, 3).expect("no error"),
        Kept::TooLong
    );
    harvest.keep("b", &row("x", 1), 3).expect("two adapters");
    let full = harvest.keep("c", &row("x", 1), 3).expect_err("not three");
    assert!(
        matches!(
            full,
            HarvestError::Full {
                adapters_max: 2,
                ..
            }
        ),
        "{full}"
    );
}

#[test]
fn only_the_owner_can_read_and_a_folder_that_others_enter_is_refused() {
    let world = World::new();
    let mut harvest = world.open(rows_max(3));
    for n in 0..200 {
        harvest
            .keep("a/b c", &row(&n.to_string(), 1), 3)
            .expect("written");
    }
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&world.place), 0o700);
    for entry in fs::read_dir(&world.place).expect("readable") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    fs::set_permissions(&world.place, fs::Permissions::from_mode(0o755)).expect("ours");
    let error = Harvest::open(&world.place, rows_max(3)).expect_err("refused");
    assert!(
        matches!(error, HarvestError::Open { mode: 0o755, .. }),
        "{error}"
    );
}

#[test]
fn rows_are_erased_when_their_time_is_over() {
    let world = World::new();
    let mut harvest = world.open(rows_max(10));
    for day in 0..6 {
        let text = format!("prompt {day}");
        harvest
            .keep("a", &row(&text, day * DAY), 5)
            .expect("written");
    }
    harvest.keep("b", &row("other", 0), 5).expect("written");
    let now = 32 * DAY;
    // Before anybody erases them they are no rows.
    assert_eq!(texts(&world.file("a"), now).len(), 3);
    assert_eq!(harvest.expire(now).expect("it can be written"), 4);
    let left = fs::read_to_string(world.file("a")).expect("readable");
    assert!(
        !left.contains("prompt 2") && left.contains("prompt 3"),
        "{left}"
    );
    assert!(!world.file("b").exists());
    // The writer goes on, and a shorter life holds for what is there.
    harvest.keep("a", &row("new", now), 5).expect("written");
    assert_eq!(texts(&world.file("a"), now).len(), 4);
    let mut hasty = world.open(Bounds {
        ttl_seconds: DAY,
        ..rows_max(10)
    });
    hasty.keep("a", &row("newer", now), 5).expect("written");
    assert_eq!(
        texts(&world.file("a"), now),
        ["new", "newer"].map(str::to_owned).into()
    );
    assert_eq!(
        erase_expired(&world.place, now + 31 * DAY).expect("written"),
        2
    );
    assert_eq!(list(&world.place, now).expect("readable").len(), 0);
}

#[test]
fn a_writer_that_was_killed_leaves_whole_rows_and_the_next_goes_on() {
    let world = World::new();
    let mut harvest = world.open(rows_max(10));
    for text in ["one", "two", "three"] {
        harvest.keep("a", &row(text, 1), 5).expect("written");
    }
    let path = world.file("a");
    let whole = fs::read(&path).expect("readable");
    let lines: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
    for cut in lines[0] + 1..=whole.len() {
        fs::write(&path, &whole[..cut]).expect("writable");
        let before = lines.iter().filter(|&&at| at < cut).count() - 1;
        assert_eq!(texts(&path, 2).len(), before, "{cut}");
        let mut next = world.open(rows_max(10));
        next.keep("a", &row("four", 2), 5).expect("written");
        let found = texts(&path, 2);
        assert!(
            found.len() == before + 1 && found.contains("four"),
            "{cut}: {found:?}"
        );
        // The half is gone: all lines are rows.
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text.lines().count(), before + 2, "{cut}: {text}");
    }
    // A file that was being written anew is swept.
    let part = world.place.join(format!(".{}.part", file_of("a")));
    fs::write(&part, "half").expect("writable");
    world.open(rows_max(10));
    assert!(!part.exists() && path.exists());
}

#[test]
fn two_writers_and_an_eraser_share_a_folder() {
    let world = World::new();
    let [mut one, mut two] = [world.open(rows_max(100)), world.open(rows_max(100))];
    for n in 0..20 {
        one.keep("a", &row(&format!("one {n}"), 1), 5)
            .expect("written");
        two.keep("a", &row(&format!("two {n}"), 1), 6)
            .expect("written");
    }
    assert_eq!(texts(&world.file("a"), 1).len(), 40);
    let erased = erase(&world.place, Some("a")).expect("ours");
    assert_eq!((erased.files, world.file("a").exists()), (1, false));
    // What was erased does not come back.
    one.keep("a", &row("after", 1), 5).expect("written");
    two.keep("a", &row("after, too", 1), 5).expect("written");
    assert_eq!(
        texts(&world.file("a"), 1),
        ["after", "after, too"].map(str::to_owned).into()
    );
}

/// What may stand in the place of a sound file, and what is said of it.
fn broken(sound: &str) -> Vec<(&'static str, String, &'static str)> {
    let (head, one) = sound.split_once('\n').expect("two lines");
    let with = |line: &str| format!("{head}\n{line}\n{one}");
    let long = with(&format!("{{\"text\": \"{}\"}}", "x".repeat(70_000)));
    let other = |from: &str, to: &str| format!("{head}\n{}", one.replace(from, to));
    vec![
        ("empty", String::new(), ":1: no file of kept prompts"),
        (
            "foreign",
            "{\"prompt\": \"x\"}\n".into(),
            ":1: no file of kept prompts",
        ),
        ("text", "a diary\n".into(), ":1: no file of kept prompts"),
        (
            "version",
            sound.replace("\"version\":1", "\"version\":9"),
            ":1: version 9 of the format",
        ),
        (
            "long",
            long,
            ":2: a line of 70012 bytes; a row has 65536 at most",
        ),
        ("half", with(&one[..20]), ":2: no row of kept prompts: EOF"),
        ("binary", with("\u{0}\u{1}"), ":2: no row of kept prompts"),
        (
            "role",
            other("\"user\"", "\"tool\""),
            ":2: no row of kept prompts: unknown variant `tool`",
        ),
        (
            "order",
            other("\"user\"", "\"system\""),
            "\"prompt\" does not end with a user's turn",
        ),
        (
            "hash",
            other("abab", "zz"),
            "\"sha256\" is not 64 hexadecimal digits",
        ),
        (
            "more",
            other("\"at\":1", "\"at\":1,\"who\":2"),
            ":2: no row of kept prompts: unknown field `who`",
        ),
    ]
}

#[test]
fn what_is_no_file_of_kept_prompts_is_named_and_never_erased() {
    let world = World::new();
    let mut harvest = world.open(rows_max(10));
    harvest.keep("a", &row("one", 1), 5).expect("written");
    let path = world.file("a");
    let sound = fs::read_to_string(&path).expect("readable");
    for (name, text, says) in &broken(&sound) {
        fs::write(&path, text).expect("writable");
        let error = read(&path, 1).expect_err(name);
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert!(
            matches!(error, HarvestError::Line { .. }) && error.is_of_input(),
            "{name}"
        );
        let listed = list(&world.place, 1).expect("readable");
        assert!(listed.len() == 1 && listed[0].1.is_err(), "{name}");
        // A writer keeps nothing there, and loses nothing.
        assert!(harvest.keep("a", &row("two", 1), 5).is_err(), "{name}");
        assert_eq!(&fs::read_to_string(&path).expect("there"), text, "{name}");
        let ours = text.starts_with("{\"translora\":\"harvest\"");
        let erased = erase(&world.place, None).expect("readable");
        assert_eq!(
            (erased.files == 1, erased.left.len()),
            (ours, usize::from(!ours)),
            "{name}"
        );
    }
    assert!(matches!(
        read(Path::new("/nowhere"), 1),
        Err(HarvestError::Io { .. })
    ));
    let foreign = Damage::Foreign.to_string();
    assert!(
        foreign.contains("{\"translora\": \"harvest\", …}"),
        "{foreign}"
    );
}
