use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A setting of a request or of a server, by its name in JSON: `ctx_size`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field(Cow<'static, str>);

impl Field {
    /// Its name in JSON.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for Field {
    fn from(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

/// What to do about a failure: data, which each door puts into words with [`Remedy::words`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// Set what was left out.
    Add(Field),
    /// Do not set it.
    LeaveOut(Field),
    /// Choose a larger value.
    Raise(Field),
    /// Choose a smaller value.
    Lower(Field),
    /// Ask for less of it.
    Fewer(Field),
    /// Choose another value.
    ChooseOther(Field),
    /// Choose this value.
    Set {
        /// The setting.
        field: Field,
        /// The value.
        value: Value,
    },
    /// What the setting may be.
    Takes {
        /// The setting.
        field: Field,
        /// What it takes.
        what: Cow<'static, str>,
    },
    /// An adapter and its base.
    Match {
        /// The setting that names the adapter.
        adapter: Field,
        /// The setting that names its base.
        base: Field,
    },
    /// What a variable of the environment may be.
    Variable {
        /// Its name.
        name: Cow<'static, str>,
        /// What it may be.
        what: Cow<'static, str>,
    },
    /// Start the same work again, from its journal.
    Resume,
    /// Delete what lies there and start anew.
    Remove(PathBuf),
    /// Look what a file is and what it fits.
    Inspect,
    /// Make a kit with all its parts.
    MakeKit,
    /// Merge a DoRA adapter into its base.
    MergeDora,
    /// A step that no setting is part of.
    Do(Step),
    /// One of these will do.
    Or(Vec<Self>),
    /// All of these, in this order.
    Then(Vec<Self>),
}

/// How a door writes settings and commands.
pub trait Wording {
    /// A setting, such as `--ctx-size` or `"ctx_size"`.
    fn field(&self, field: &Field) -> String;

    /// A setting with its value, such as `--near 0` or `"near": 0`.
    fn set(&self, field: &Field, value: &Value) -> String;

    /// A command of the program to do something with, such as " with `translora kit`"; empty where
    /// no command line is at hand.
    fn with(&self, command: &str) -> String;
}

/// The words for a program: a host behind the C ABI, a client of HTTP or of a socket.
#[derive(Clone, Copy, Debug)]
pub struct InJson;

impl Wording for InJson {
    fn field(&self, field: &Field) -> String {
        format!("{:?}", field.name())
    }

    fn set(&self, field: &Field, value: &Value) -> String {
        format!("{:?}: {value}", field.name())
    }

    fn with(&self, _: &str) -> String {
        String::new()
    }
}

impl Remedy {
    /// See [`Remedy::Add`].
    pub fn add(field: impl Into<Field>) -> Self {
        Self::Add(field.into())
    }

    /// See [`Remedy::LeaveOut`].
    pub fn leave_out(field: impl Into<Field>) -> Self {
        Self::LeaveOut(field.into())
    }

    /// See [`Remedy::Raise`].
    pub fn raise(field: impl Into<Field>) -> Self {
        Self::Raise(field.into())
    }

    /// See [`Remedy::Lower`].
    pub fn lower(field: impl Into<Field>) -> Self {
        Self::Lower(field.into())
    }

    /// See [`Remedy::Fewer`].
    pub fn fewer(field: impl Into<Field>) -> Self {
        Self::Fewer(field.into())
    }

    /// See [`Remedy::ChooseOther`].
    pub fn choose_other(field: impl Into<Field>) -> Self {
        Self::ChooseOther(field.into())
    }

    /// See [`Remedy::Set`].
    pub fn set(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::Set {
            field: field.into(),
            value: value.into(),
        }
    }

    /// See [`Remedy::Takes`].
    pub fn takes(field: impl Into<Field>, what: impl Into<Cow<'static, str>>) -> Self {
        Self::Takes {
            field: field.into(),
            what: what.into(),
        }
    }

    /// See [`Remedy::Match`].
    pub fn matching(adapter: impl Into<Field>, base: impl Into<Field>) -> Self {
        Self::Match {
            adapter: adapter.into(),
            base: base.into(),
        }
    }

    /// See [`Remedy::Variable`].
    pub fn variable(name: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        Self::Variable {
            name: name.into(),
            what: what.into(),
        }
    }

    /// See [`Remedy::Remove`].
    pub fn remove(path: &Path) -> Self {
        Self::Remove(path.to_owned())
    }

    /// See [`Remedy::Or`].
    pub fn or<const N: usize>(remedies: [Self; N]) -> Self {
        Self::Or(remedies.into())
    }

    /// See [`Remedy::Then`].
    pub fn then<const N: usize>(remedies: [Self; N]) -> Self {
        Self::Then(remedies.into())
    }

    /// The remedy as a door says it: one clause, without a full stop.
    pub fn words(&self, door: &dyn Wording) -> String {
        let each = |remedies: &[Self]| -> Vec<String> {
            remedies.iter().map(|remedy| remedy.words(door)).collect()
        };
        match self {
            Self::Add(field) => format!("add {}", door.field(field)),
            Self::LeaveOut(field) => format!("leave out {}", door.field(field)),
            Self::Raise(field) => format!("raise {}", door.field(field)),
            Self::Lower(field) => format!("lower {}", door.field(field)),
            Self::Fewer(field) => format!("choose fewer {}", door.field(field)),
            Self::ChooseOther(field) => format!("choose another {}", door.field(field)),
            Self::Set { field, value } => format!("use {}", door.set(field, value)),
            Self::Takes { field, what } => format!("{} takes {what}", door.field(field)),
            Self::Match { adapter, base } => format!(
                "check that {} was trained for {}, and for this task",
                door.field(adapter),
                door.field(base)
            ),
            Self::Variable { name, what } => format!("set {name} to {what}, or unset it"),
            Self::Resume => {
                let resume = door.set(&"resume".into(), &Value::Bool(true));
                format!("start it again, with {resume} where a journal lies beside the output")
            }
            Self::Remove(path) => format!("delete {} and start anew", path.display()),
            Self::Inspect => format!("look{} what it is and what it fits", door.with("inspect")),
            Self::MakeKit => format!("make the kit again{}", door.with("kit")),
            Self::MergeDora => format!(
                "merge it into the weights of its base{}, or train it without DoRA",
                door.with("merge")
            ),
            Self::Do(step) => step.words().to_owned(),
            Self::Or(remedies) => either(&each(remedies)),
            Self::Then(remedies) => each(remedies).join(", then "),
        }
    }
}

impl From<Step> for Remedy {
    fn from(step: Step) -> Self {
        Self::Do(step)
    }
}

fn either(clauses: &[String]) -> String {
    match clauses {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{}, or {last}", most.join(", ")),
    }
}

/// Defines [`Step`] and its words in one table.
macro_rules! steps {
    ($($step:ident: $words:literal,)*) => {
        /// Something to do that no setting is part of. It reads the same at every door.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Step {
            $(#[doc = $words] $step,)*
        }

        impl Step {
            /// Every step.
            pub const ALL: &[Self] = &[$(Self::$step,)*];

            fn words(self) -> &'static str {
                match self {
                    $(Self::$step => $words,)*
                }
            }
        }
    };
}

steps! {
    // Files and folders.
    CheckPath: "check the path: there is nothing",
    OtherProgram: "check the path of the program and its permissions",
    CheckRights: "check the permissions of the file and of its folders",
    CheckDisk: "check the disk",
    MakeFolder: "make the folder first",
    WritableFolder: "choose a folder that may be written to, on a disk with room",
    PrivateFolder: "choose a folder that nobody else may enter (mode 700)",
    EraseKept: "erase the prompts that are kept there, or move the file away",
    EraseOthers: "erase the prompts of adapters that are no longer served, or choose another folder",
    KeepPrompts: "let the adapter be asked under a server that keeps prompts, name the file of \
         another adapter, or use seeds",
    FreeSpace: "make room on the disk of the output",
    MoveAway: "move the file away",
    FetchAgain: "fetch the file again, or make it again: it is damaged",
    FetchPage: "fetch the file again: an address answered with a page in its place",
    FetchPointer: "fetch the file itself: `git lfs pull` does",
    Unpack: "unpack it first",
    Convert: "convert it to GGUF: llama.cpp's convert_hf_to_gguf.py does so with a model",
    ConvertAnew: "convert the original again with a llama.cpp of today",
    ConvertEndian: "convert the original again, for little-endian machines",
    NameFile: "name a file in it",
    OtherFile: "choose another file: this is not the kind that is expected here",
    WholeModel: "fetch the model or convert it again: it must be a whole GGUF with a tokenizer",
    BrokenNumbers: "fetch or make that file again: its numbers are broken, or far too large; an \
         adapter may do at a smaller scale",
    NameOfAFile: "write a path, hf:OWNER/REPO:FILE, https://HOST/FILE, ollama:NAME:TAG, or \
         lmstudio:PUBLISHER/REPO/FILE",
    NameInStore: "name one of those, or let that program pull it first",
    PullAgain: "pull the model again with the program whose store this is",
    NameOneFile: "name one of them behind a colon: hf:OWNER/REPO:FILE",
    FetchOnce: "fetch it once while this machine is online, or name a file on the disk",
    HubToken: "check the spelling, set HF_TOKEN to a token that may read it, and accept its terms \
         on its page where it has some",
    CheckAddress: "check the spelling of the owner, the repository, the file and the address",
    CheckNetwork: "check the network and the address, or work offline with what was fetched before",
    FetchRest: "start it again: what arrived is kept, and the rest is fetched",
    FetchFresh: "start it again: what arrived was removed; if that repeats, the file there is \
         damaged",
    FetchByHand: "fetch the file by hand and name its path, or build with the feature fetch",
    FirstPart: "name the first part: the others are found beside it",
    PartsTogether: "keep all parts of the model in one folder, with the names that they were made \
        with",
    FetchParts: "fetch all parts of the model again, from one place",
    OtherQuantization: "merge into another quantization of the base, such as q8_0",
    OtherModel: "choose another base model",
    FittingAdapter: "use the base that this adapter was trained on, or an adapter that was \
        trained on this base",
    MoveAdapter: "move it to this base by a transfer, or load it with force",
    PlainAdapter: "use a plain LoRA adapter, in GGUF or as PEFT saves it",
    WholePeft: "use the whole folder that PEFT saved, with adapter_config.json and \
        adapter_model.safetensors, or name a file in it",
    OtherWords: "use the base that this adapter was trained on; to take it all the same, move its \
        tokenizer.json away",
    SaveSafetensors: "save it as safetensors, as save_pretrained of PEFT does, or convert it to \
        GGUF",
    SavePeftAgain: "save or fetch the adapter again, with the configuration that it was trained \
        with",
    TrainPlain: "merge it into its base in Python and train a plain LoRA on the result, or train \
        it without that",
    ConvertByHand: "convert it with llama.cpp's convert_lora_to_gguf.py and use the GGUF",
    WritableCache: "set XDG_CACHE_HOME to a folder that may be written to, on a disk with room",
    TrainedAdapter: "use an adapter that was trained: a fresh one, whose B is zero, has nothing \
        to transfer",
    KitsOwn: "use the base and the adapter that the kit was made with",
    SamePlan: "use the same settings and files as before",
    // Rows.
    AddRow: "add at least one line: {\"prompt\": \"…\"}",
    AddAnswers: "end every row with an answer, such as a \"completion\": it is needed here",
    RowShape: "write each row as one JSON object on a line of its own, or all rows as one JSON list: {\"prompt\": \"…\", \"completion\": \"…\"}",
    RowKeys: "name the keys \"prompt\" and \"completion\", or write \"messages\" with a \"role\" and a \"content\" each",
    RowTexts: "write what is asked and what is answered as texts, or as lists of turns",
    CsvShape: "give every line as many columns as the header, with quotes around texts that hold commas or line ends",
    OneKey: "leave out one of the two",
    PartText: "part the text into \"prompt\" and \"completion\"",
    ChosenAnswers: "keep the chosen answers as \"completion\", and leave out the others",
    LeaveOutTools: "leave out the rows with tools",
    MendTurn: "mend the turn, or remove the row",
    ExportRows: "write the rows out as JSON lines first; in Python, pandas and datasets have to_json(…, orient=\"records\", lines=True)",
    SaveFirst: "save it to a file first",
    FillRow: "fill it in or remove the line",
    RepeatedRow: "remove the repetition: seeds must differ",
    ShortenRow: "shorten the row: one row is one prompt and its answer",
    LeaveOutRows: "leave out rows with such characters",
    SaveAsUtf8: "save the file as UTF-8",
    SplitFile: "split the file",
    MoreRows: "add rows",
    VariedSeeds: "use more, and more varied, seeds: three to ten from real use are best",
    ShorterSeeds: "use shorter seeds",
    // Memory and devices.
    CloseOthers: "close other programs",
    SmallerModel: "choose a smaller quantization",
    BackendNeeds: "install the driver and the libraries of its device, and build it from this \
        program's own llama.cpp",
    NoBackend: "to run on the CPU, move the file away, or unset GGML_BACKEND_PATH where it names \
        it",
    // Jobs and their worker.
    NameWorker: "put the program `translora` of the same build beside the library, or name it in \
        TRANSLORA_WORKER or as \"worker\" in the configuration",
    NoWorker: "set \"isolation\" to \"thread\" in the configuration",
    ListJobs: "ask for the list of jobs",
    FreeJobs: "configure before the first job starts, or free every job first",
    WaitForEnd: "wait until it has ended",
    CancelOne: "cancel one that waits",
    JsonRequest: "write it as one JSON object with the names of the settings, such as \
        {\"source_lora\": \"old.gguf\", \"samples\": 250}",
    JsonConfiguration: "write it as one JSON object, such as \
        {\"threads\": 2, \"isolation\": \"process\"}",
    // Adapters that are served.
    NameBase: "name the base model that is served first",
    PrepareAgain: "prepare the swap again: a commit spends it, however it ends",
    MakePlace: "unload an adapter or discard a swap first",
    ListAdapters: "ask for the list of adapters",
    LoadFirst: "load an adapter first",
    ReadHostLog: "read the host's log: what answered before still does",
    RenameFile: "rename its file: an adapter is named after its file, and needs a name of its own",
    OwnToken: "set TRANSLORA_CONTROL_TOKEN, or listen on 127.0.0.1, which this machine alone \
        reaches",
    StopListener: "stop the program that listens there",
    // The program itself.
    SameBuild: "use a library and a program of the same build",
    Report: "this is a bug: please report it with the request or the command line",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_are_joined_as_people_do() {
        let seeds = || Remedy::from(Step::VariedSeeds);
        let near = || Remedy::set("near", 0);
        let cases = [
            (Remedy::raise("ctx_size"), "raise \"ctx_size\""),
            (near(), "use \"near\": 0"),
            (
                Remedy::Resume,
                "start it again, with \"resume\": true where a journal lies beside the output",
            ),
            (
                Remedy::or([Remedy::lower("lr"), near()]),
                "lower \"lr\", or use \"near\": 0",
            ),
            (
                Remedy::or([Remedy::fewer("samples"), near(), Step::SplitFile.into()]),
                "choose fewer \"samples\", use \"near\": 0, or split the file",
            ),
            (
                Remedy::then([Remedy::lower("lr"), Step::FreeSpace.into()]),
                "lower \"lr\", then make room on the disk of the output",
            ),
            (Remedy::Inspect, "look what it is and what it fits"),
        ];
        for (remedy, words) in cases {
            assert_eq!(remedy.words(&InJson), words);
        }
        assert_eq!(Remedy::or([seeds()]).words(&InJson), seeds().words(&InJson));
    }

    #[test]
    fn a_remedy_is_data_and_comes_back_from_json() {
        let remedy = Remedy::or([
            Remedy::raise("ctx_size"),
            Remedy::set("filter", "contrast"),
            Remedy::remove(Path::new("old.journal")),
            Step::CheckPath.into(),
        ]);
        let json = serde_json::to_string(&remedy).expect("a remedy has no keys but names");
        assert_eq!(
            json,
            r#"{"or":[{"raise":"ctx_size"},{"set":{"field":"filter","value":"contrast"}},{"remove":"old.journal"},{"do":"check_path"}]}"#
        );
        assert_eq!(
            serde_json::from_str::<Remedy>(&json).expect("what was written"),
            remedy
        );
    }
}
