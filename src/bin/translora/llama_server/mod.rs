//! The start lines of llama-server: each of its flags works here, changes no answer and is named, or
//! is refused with the reason. So are its environment variables, `LLAMA_ARG_…`.

use std::ffi::OsString;

use crate::failure::Failure;

mod rows;

use rows::ROWS;

/// What a flag of llama-server is here.
enum Here {
    /// A flag of ours.
    As(&'static str),
    /// It changes no answer; said at the start with what is so instead.
    Noted(&'static str),
    /// These values are what is so here anyway; others are refused.
    Only(Vec<&'static str>, &'static str),
    Refused(&'static str),
}

/// What follows a flag.
#[derive(PartialEq)]
enum Takes {
    Nothing,
    Value,
    /// One of these, or nothing.
    Maybe(Vec<&'static str>),
}

use Here::{As, Noted, Only, Refused};
use Takes::{Maybe, Nothing, Value};

/// Spellings, the variable without `LLAMA_ARG_`, what follows, what it is here.
type Row = (Vec<&'static str>, &'static str, Takes, Here);

/// A start line as ours, and what of it is not read.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub args: Vec<OsString>,
    pub notes: Vec<String>,
}

/// Rewrite the words after `serve`, and the variables of llama-server that no word overrules.
///
/// fails: a flag or a variable that cannot be had here; a word with one dash and several letters
/// that is no flag
pub fn rewrite(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Line, Failure> {
    let mut line = Line {
        args: Vec::new(),
        notes: Vec::new(),
    };
    let mut named: Vec<&str> = Vec::new();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str().filter(|text| text.starts_with('-')) else {
            line.args.push(arg);
            continue;
        };
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, None),
        };
        let Some((names, _, takes, here)) = ROWS.iter().find(|row| row.0.contains(&name)) else {
            refuse_run_together(text)?;
            line.args.push(arg);
            continue;
        };
        let next = |value: &OsString| match takes {
            Value => true,
            Maybe(values) => value.to_str().is_some_and(|text| values.contains(&text)),
            Nothing => false,
        };
        let mut value = attached.or_else(|| args.next_if(next));
        let scale = |word: &OsString| word.to_str().is_some_and(|w| w.parse::<f32>().is_ok());
        if names[0] == "--lora-scaled"
            && let Some(file) = &mut value
            && let Some(scale) = args.next_if(scale)
        {
            // The older form: the file and the scale in words of their own.
            file.push(":");
            file.push(scale);
        }
        named.push(names[0]);
        line.take(name, takes, value, here)?;
    }
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix("LLAMA_ARG_") else {
            continue;
        };
        let row = ROWS.iter().find(|row| row.1 == name);
        let Some((names, _, takes, here)) = row else {
            line.notes.push(format!(
                "{variable} is not read: no flag here has this variable"
            ));
            continue;
        };
        let off = *takes == Nothing && ["0", "off", "false", "disabled"].contains(&value.as_str());
        if named.contains(&names[0]) || off {
            continue;
        }
        let value = (*takes != Nothing).then(|| value.into());
        line.take(&variable, takes, value, here)?;
    }
    line.name_file()?;
    Ok(line)
}

impl Line {
    fn take(
        &mut self,
        name: &str,
        takes: &Takes,
        value: Option<OsString>,
        here: &Here,
    ) -> Result<(), Failure> {
        if *takes == Value && value.is_none() {
            return Err(Failure::Usage {
                message: format!("{name} has no value"),
                hint: "put one behind it".into(),
            });
        }
        let shown = value
            .as_ref()
            .map(|value| value.to_string_lossy().into_owned());
        let refuse = |why: &str| {
            let said = shown
                .as_ref()
                .map_or(String::new(), |value| format!(" {value}"));
            Err(Failure::Usage {
                message: format!("{name}{said}: {why}"),
                hint: format!("leave {name} out"),
            })
        };
        match here {
            As(flag) => {
                let usual = ["--seed", "--predict", "--threads"].contains(flag);
                if usual && shown.as_deref() == Some("-1") {
                    // What is so without the flag.
                    return Ok(());
                }
                // The last one counts, as in llama-server, but for adapters, which add up.
                if !flag.starts_with("--lora") {
                    let same = |word: &OsString| {
                        word.to_str()
                            .is_some_and(|word| word.split('=').next() == Some(flag))
                    };
                    self.args.retain(|word| !same(word));
                }
                let mut word = OsString::from(flag);
                if let Some(value) = value {
                    word.push("=");
                    word.push(value);
                }
                self.args.push(word);
            }
            Noted(why) => self.notes.push(format!("{name} is not read: {why}")),
            Only(values, _) if shown.as_deref().is_none_or(|value| values.contains(&value)) => {}
            Only(_, why) | Refused(why) => return refuse(why),
        }
        Ok(())
    }
}

impl Line {
    /// Put the file of `-hff` behind the repository of `-hf`.
    ///
    /// fails: there is no repository
    fn name_file(&mut self) -> Result<(), Failure> {
        const FILE: &str = "--hf-file=";
        const REPOSITORY: &str = "--hf-repo=";
        let text = |word: &OsString, flag: &str| {
            word.to_str()
                .and_then(|word| word.strip_prefix(flag))
                .map(str::to_owned)
        };
        let Some(at) = self.args.iter().position(|word| text(word, FILE).is_some()) else {
            return Ok(());
        };
        let file = text(&self.args.remove(at), FILE).unwrap_or_default();
        let named = self.args.iter_mut().find_map(|word| {
            let repository = text(word, REPOSITORY)?;
            Some((word, repository))
        });
        let Some((word, repository)) = named else {
            return Err(Failure::Usage {
                message: format!("-hff {file}: no -hf says where this file is"),
                hint: "name both, or -m with a file".into(),
            });
        };
        // A tag behind the repository chooses a file, too.
        let repository = repository.split(':').next().unwrap_or_default();
        *word = format!("{REPOSITORY}{repository}:{file}").into();
        Ok(())
    }
}

/// clap would read `-xyz` as `-x yz`.
fn refuse_run_together(text: &str) -> Result<(), Failure> {
    let letters = text.trim_start_matches('-');
    let run_together = !text.starts_with("--")
        && letters.len() > 1
        && letters.starts_with(|c: char| c.is_ascii_alphabetic());
    if run_together {
        return Err(Failure::Usage {
            message: format!("{text}: there is no such flag"),
            hint: "`translora serve --help` lists the flags; a value stands apart from its flag"
                .into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str, variables: &[(&str, &str)]) -> Result<(String, usize), String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let line = rewrite(words.split_whitespace().map(OsString::from), variables);
        match line {
            Ok(line) => {
                let args: Vec<&str> = line.args.iter().filter_map(|arg| arg.to_str()).collect();
                Ok((args.join(" "), line.notes.len()))
            }
            Err(Failure::Usage { message, .. }) => Err(message),
            Err(_) => Err("another failure".into()),
        }
    }

    #[test]
    fn usual_start_lines_of_llama_server() {
        for (words, right, notes) in [
            (
                "-m x.gguf -c 4096 -np 2",
                "--model=x.gguf --ctx-size=4096 --parallel=2",
                0,
            ),
            (
                "--model=x.gguf -ngl 99",
                "--model=x.gguf --gpu-layers=99",
                0,
            ),
            ("-m x.gguf --jinja -fa on", "--model=x.gguf", 1),
            ("-fa -m x.gguf", "--model=x.gguf", 0),
            (
                "-c 8 -c 16 --lora a --lora b",
                "--ctx-size=16 --lora=a --lora=b",
                0,
            ),
            ("-ctk f16 -ctv f16", "", 0),
            ("--no-mmap -tb 8", "--no-mmap", 1),
            (
                "--mlock -b 2048 -ub 512",
                "--mlock --batch-size=2048 --ubatch-size=512",
                0,
            ),
            ("--metrics --slots --no-webui", "", 3),
            ("--lora a.gguf,b.gguf", "--lora=a.gguf,b.gguf", 0),
            ("--lora-scaled a.gguf 0.5", "--lora-scaled=a.gguf:0.5", 0),
            (
                "--lora-scaled a.gguf:0.5 -t 2",
                "--lora-scaled=a.gguf:0.5 --threads=2",
                0,
            ),
            (
                "--top-k 40 --temp 0 --seed 7",
                "--top-k=40 --temp=0 --seed=7",
                0,
            ),
            (
                "--top-p 0.9 --min-p 0 --repeat-penalty 1.1 --repeat-last-n -1 --presence-penalty -1",
                "--top-p=0.9 --min-p=0 --repeat-penalty=1.1 --repeat-last-n=-1 --presence-penalty=-1",
                0,
            ),
            ("-n -1 -s -1 -t -1", "", 0),
            (
                "--adapters dir --cors-origins *",
                "--adapters dir --cors-origins *",
                0,
            ),
            ("-sm layer -mg 0 --reasoning-format none", "", 0),
            ("-hf owner/repo", "--hf-repo=owner/repo", 0),
            (
                "-hff q8.gguf -hf owner/repo:Q4_K_M",
                "--hf-repo=owner/repo:q8.gguf",
                0,
            ),
            ("-mu https://x/y.gguf", "--model=https://x/y.gguf", 0),
        ] {
            assert_eq!(read(words, &[]), Ok((right.into(), notes)), "{words}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        for (words, says) in [
            ("-ctk q8_0", "-ctk q8_0: the KV cache is kept in F16"),
            ("-fa off", "-fa off: llama.cpp chooses"),
            ("-hft x", "-hft x: other users"),
            ("-hff a.gguf", "-hff a.gguf: no -hf"),
            (
                "--mmproj x.gguf",
                "--mmproj x.gguf: this server answers text",
            ),
            ("--embeddings", "--embeddings: this server"),
            ("-xyz 3", "-xyz: there is no such flag"),
            ("-mx.gguf", "-mx.gguf: there is no such flag"),
            ("-c", "-c has no value"),
        ] {
            let error = read(words, &[]).expect_err(words);
            assert!(error.starts_with(says), "{words}: {error}");
        }
    }

    #[test]
    fn variables_count_where_no_flag_says_otherwise() {
        let variables = [
            ("LLAMA_ARG_CTX_SIZE", "2048"),
            ("LLAMA_ARG_PORT", "9000"),
            ("LLAMA_ARG_MLOCK", "1"),
            ("LLAMA_ARG_METRICS", "1"),
            ("LLAMA_ARG_NO_REPACK", "0"),
            ("LLAMA_ARG_SOMETHING", "1"),
            ("PATH", "/bin"),
        ];
        assert_eq!(
            read("-m x.gguf -c 8", &variables),
            Ok(("--model=x.gguf --ctx-size=8 --port=9000 --mlock".into(), 2))
        );
        let error = read("-m x.gguf", &[("LLAMA_ARG_HF_FILE", "a")]).expect_err("refused");
        assert!(error.starts_with("-hff a: no -hf"), "{error}");
    }

    #[test]
    fn no_spelling_stands_twice() {
        let mut all: Vec<&str> = ROWS.iter().flat_map(|row| row.0.clone()).collect();
        let variables = ROWS.iter().map(|row| row.1).filter(|name| !name.is_empty());
        for list in [&mut all, &mut variables.collect()] {
            list.sort_unstable();
            assert!(list.windows(2).all(|pair| pair[0] != pair[1]), "{list:?}");
        }
    }
}
