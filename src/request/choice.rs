//! The words that a field may be one of.

/// Define enums whose variants have names: the same in flags, JSON, plans and reports.
macro_rules! choices {
    ($(
        $(#[$about:meta])*
        $name:ident { $($(#[$means:meta])* $variant:ident = $word:literal,)+ }
    )+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$means])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// All names, in the order of the table.
            pub const NAMES: &[&str] = &[$($word),+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    )+};
}

choices! {
    /// What filters the candidates.
    FilterChoice {
        /// The contrast, and the kit's discriminator too where it is good.
        Auto = "auto",
        /// The kit's discriminator alone.
        Kit = "kit",
        /// How much likelier the adapter makes the teacher's answer.
        Contrast = "contrast",
        /// The contrast, then the discriminator.
        Both = "both",
        /// Nothing.
        None = "none",
    }

    /// Which model generates inputs.
    GeneratorChoice {
        /// The kit's input model where there is one, else the target base. In later rounds the
        /// target is fitted on the best inputs so far.
        Auto = "auto",
        /// The target base.
        Target = "target",
        /// The source base.
        Source = "source",
        /// The source base with its adapter.
        SourceLora = "source-lora",
        /// The target and the source base, in turns.
        Mix = "mix",
        /// The target base without any seeds in its prompt. Shows what inputs are worth that know
        /// nothing of the task.
        Anything = "anything",
    }

    /// What the new adapter is fitted to.
    ObjectiveChoice {
        /// By the rule in `teaching.rs`; the report says which and why.
        Auto = "auto",
        /// The teacher's answers.
        Text = "text",
        /// The teacher's distribution at each token of its answers; one vocabulary only.
        Kl = "kl",
        /// The same at the tokens and for the words that both vocabularies have; text elsewhere.
        Aligned = "aligned",
        /// The target base's own distribution, shifted by what the adapter does to the source's.
        Delta = "delta",
    }

    /// How the teacher answers.
    LabelChoice {
        /// The likeliest token at each place.
        Greedy = "greedy",
        /// By what most of several drawn answers agree on; inputs on which too few do are dropped.
        Consistent = "consistent",
    }

    /// How much each token of an answer counts.
    TokenWeights {
        /// All the same.
        None = "none",
        /// As much as the teacher is sure of it: its probability.
        Confidence = "confidence",
        /// The share of its probability that the adapter added: 1 − p(source) / p(source + LoRA),
        /// at least 0.
        Contrast = "contrast",
    }

    /// How the rows of a file are written.
    RowFormat {
        /// Found out from the first row.
        Auto = "auto",
        /// `messages`: a list of turns with `role` and `content`.
        Messages = "messages",
        /// `conversations`: a list of turns with `from` and `value`.
        Sharegpt = "sharegpt",
        /// `instruction`, `input` where there is one, `output`.
        Alpaca = "alpaca",
        /// `prompt` and `completion`: texts, or lists of turns.
        PromptCompletion = "prompt-completion",
        /// `prompt` and `response`.
        PromptResponse = "prompt-response",
        /// `question` and `answer`.
        QuestionAnswer = "question-answer",
        /// `input` and `output`.
        InputOutput = "input-output",
    }

    /// Which answers of a conversation are learnt.
    Learn {
        /// The last.
        Last = "last",
        /// Each that follows a user's turn.
        All = "all",
    }

    /// How the learning rate goes on after warming up.
    Schedule {
        /// Along a cosine to a tenth.
        Cosine = "cosine",
        /// In a straight line to nothing after the last step.
        Linear = "linear",
        /// It stays.
        Constant = "constant",
    }
}
