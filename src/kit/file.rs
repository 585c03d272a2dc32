use std::path::Path;

use serde::{Deserialize, Serialize};
use translora_gguf::{Gguf, Header, TensorKind, Value, Writer};

use super::{InputStatistics, KitError, Seed, read_bytes};
use crate::engine::chat::TEMPLATE_KEY;
use crate::record::{ContentHash, Limits, Question};

const KIT_TYPE: &str = "translora-kit";
const MANIFEST: &str = "translora.kit.manifest";
const SEEDS: &str = "translora.kit.seeds";
const DISCRIMINATOR: &str = "discriminator";
const INPUT_MODEL: &str = "input_model";

/// What a kit says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the format.
    pub version: u32,
    /// The data set's name, as the discriminator was asked about it.
    pub name: String,
    /// The source base the kit was made with.
    pub base: ContentHash,
    /// The source adapter the kit stands beside.
    pub adapter: ContentHash,
    /// How prompts reach the model.
    pub prompt_format: String,
    /// The chat template it was made with, where that is not the source base's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// How the discriminator is asked.
    pub question: Question,
    /// None where the kit was made without one.
    pub discriminator: Option<DiscriminatorCard>,
    /// None where the kit was made without one.
    #[serde(default)]
    pub input_model: Option<InputModelCard>,
    /// What the inputs of the data look like.
    #[serde(default)]
    pub inputs: Option<InputStatistics>,
    /// The limits it was made under.
    pub limits: Limits,
    /// Decided every draw while it was made.
    pub seed: u64,
}

impl Manifest {
    /// The version this program writes and reads.
    pub const VERSION: u32 = 2;
    /// Prompts reach the model as a conversation under its own chat template.
    pub const CHAT: &'static str = "chat";

    /// What a kit with this manifest and `seeds` gives away of the data to whoever has it, a
    /// sentence each.
    pub fn privacy(&self, seeds: usize) -> Vec<String> {
        let rows = self
            .inputs
            .as_ref()
            .map_or(String::new(), |inputs| format!(" of {}", inputs.rows));
        let mut sentences = vec![format!(
            "{seeds} inputs{rows} of the data lie in it in full, as seeds; its answers do not"
        )];
        if let Some(inputs) = &self.inputs {
            let [least, _, most] = inputs.chars;
            sentences.push(format!("it says how many inputs there are, how long ({least} to {most} characters), and how many hold digits"));
        }
        if let Some(card) = &self.discriminator {
            let known = card
                .membership_auc
                .map_or("was not measured".into(), |auc| {
                    format!("{auc:.2}; 0.5 is nothing, 1 all")
                });
            sentences.push(format!("whoever guesses an input can ask its discriminator whether the data held it (AUC {known})"));
        }
        match &self.input_model {
            None => sentences.push("it holds no model that writes inputs".into()),
            Some(card) => sentences.push(format!(
                "its input model writes inputs: of {} drawn, {} are in the data word for word and {} more nearly so",
                card.drawn, card.verbatim, card.near
            )),
        }
        sentences
    }
}

/// How good a discriminator was on rows it was not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscriminatorCard {
    /// The hash of its LoRA.
    pub sha256: ContentHash,
    /// Share of held-out rows classified rightly.
    pub accuracy: f64,
    /// Rows that it was not trained on.
    pub held_out: usize,
    /// Real inputs, held-out ones included.
    pub positives: usize,
    /// Made-up inputs, held-out ones included.
    pub negatives: usize,
    /// Chance that it holds a held-out real input for likelier real than a held-out made-up one.
    /// Kits of old do not say.
    #[serde(default)]
    pub auc: Option<f64>,
    /// Log-odds above which an input passes. units: nats
    #[serde(default)]
    pub threshold: f64,
    /// Shares of the held-out real and made-up inputs that pass.
    #[serde(default)]
    pub passed: Option<[f64; 2]>,
    /// Who made the made-up inputs it was trained against.
    #[serde(default)]
    pub made_up_by: Option<String>,
    /// Chance that it holds an input it was trained on for likelier real than another of the data:
    /// what it says of who was in the data. 0.5 is nothing.
    #[serde(default)]
    pub membership_auc: Option<f64>,
}

/// A LoRA that makes inputs, and what it gives away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputModelCard {
    /// The hash of its LoRA.
    pub sha256: ContentHash,
    /// How it is asked for an input.
    pub question: String,
    /// Inputs it was trained on.
    pub rows: usize,
    /// Inputs drawn to see what it gives away, and how many of them were inputs of the data, word
    /// for word.
    pub drawn: usize,
    /// Of those drawn, the ones that are in the data.
    pub verbatim: usize,
    /// How many more were so in all but a word or two.
    #[serde(default)]
    pub near: usize,
}

/// A kit that was read and is whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Kit {
    manifest: Manifest,
    seeds: Vec<Seed>,
    discriminator: Option<Vec<u8>>,
    input_model: Option<Vec<u8>>,
}

impl Kit {
    /// Open a kit and check it against itself.
    ///
    /// bounds: `kit_bytes_max`
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, KitError> {
        let bytes = read_bytes(path, limits.kit_bytes_max)?;
        let gguf = Gguf::parse(&bytes).map_err(|error| KitError::of_file(path, error))?;
        parse(&gguf).map_err(|reason| KitError::NotAKit {
            path: path.to_owned(),
            reason,
        })
    }

    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its seed inputs.
    pub fn seeds(&self) -> &[Seed] {
        &self.seeds
    }

    /// The discriminator's LoRA GGUF.
    pub fn discriminator(&self) -> Option<&[u8]> {
        self.discriminator.as_deref()
    }

    /// The LoRA GGUF that makes inputs, and how it is asked.
    pub fn input_model(&self) -> Option<(&[u8], &str)> {
        let card = self.manifest.input_model.as_ref()?;
        Some((self.input_model.as_deref()?, &card.question))
    }

    /// Refuse a base or an adapter that the kit was not made with.
    pub fn check_made_for(
        &self,
        path: &Path,
        base: (&Path, ContentHash),
        adapter: (&Path, ContentHash),
    ) -> Result<(), KitError> {
        let checks = [
            ("base model", self.manifest.base, base),
            ("adapter", self.manifest.adapter, adapter),
        ];
        for (what, expected, (given, got)) in checks {
            if expected != got {
                return Err(KitError::Foreign {
                    path: path.to_owned(),
                    what,
                    expected,
                    given: given.to_owned(),
                    got,
                });
            }
        }
        Ok(())
    }
}

/// Pack a kit into the bytes of one file.
pub fn pack(
    manifest: &Manifest,
    seeds: &[Seed],
    discriminator: Option<&[u8]>,
    input_model: Option<&[u8]>,
) -> Result<Vec<u8>, KitError> {
    let mut writer = Writer::new();
    writer.set("general.type", KIT_TYPE);
    writer.set(
        MANIFEST,
        serde_json::to_string(manifest).unwrap_or_default(),
    );
    if let Some(text) = &manifest.chat_template {
        writer.set(TEMPLATE_KEY, text.as_str());
    }
    writer.set(
        SEEDS,
        seeds
            .iter()
            .map(|seed| serde_json::to_string(seed.prompt()).unwrap_or_default())
            .collect::<Vec<_>>(),
    );
    for (name, bytes) in [(DISCRIMINATOR, discriminator), (INPUT_MODEL, input_model)] {
        if let Some(bytes) = bytes {
            writer.tensor(name, TensorKind::I8, &[bytes.len() as u64], bytes);
        }
    }
    writer.to_bytes().map_err(KitError::Pack)
}

/// Say whether a GGUF calls itself a kit.
pub fn is_kit(header: &Header) -> bool {
    header.get("general.type").and_then(Value::as_str) == Some(KIT_TYPE)
}

fn parse(gguf: &Gguf<'_>) -> Result<Kit, String> {
    if !is_kit(gguf) {
        return Err(format!("its general.type is not {KIT_TYPE:?}"));
    }
    let text = gguf
        .get(MANIFEST)
        .and_then(Value::as_str)
        .ok_or("it has no manifest")?;
    let manifest: Manifest =
        serde_json::from_str(text).map_err(|error| format!("manifest: {error}"))?;
    if manifest.version != Manifest::VERSION {
        return Err(format!(
            "its version is {}, this program reads {}",
            manifest.version,
            Manifest::VERSION
        ));
    }
    let seeds = gguf
        .get(SEEDS)
        .and_then(Value::as_strings)
        .unwrap_or_default();
    if seeds.is_empty() {
        return Err("it has no seeds".into());
    }
    let seed = |text: &&str| serde_json::from_str(text).map(|prompt| Seed::new(&prompt));
    let seeds: Vec<Seed> = seeds
        .iter()
        .map(|text| seed(&&**text))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("a seed of it: {error}"))?;
    let part = |name: &str, named: Option<ContentHash>| {
        let bytes = gguf.tensor(name).map(|tensor| gguf.data(tensor).to_vec());
        match bytes.as_deref().map(ContentHash::of) == named {
            true => Ok(bytes),
            false => Err(format!(
                "its {} is not the one its manifest names",
                name.replace('_', " ")
            )),
        }
    };
    let discriminator = part(
        DISCRIMINATOR,
        manifest.discriminator.as_ref().map(|card| card.sha256),
    )?;
    let input_model = part(
        INPUT_MODEL,
        manifest.input_model.as_ref().map(|card| card.sha256),
    )?;
    Ok(Kit {
        manifest,
        seeds,
        discriminator,
        input_model,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Blame;

    fn manifest(discriminator: Option<&[u8]>) -> Manifest {
        let card = |bytes| DiscriminatorCard {
            sha256: ContentHash::of(bytes),
            accuracy: 0.9,
            held_out: 10,
            positives: 5,
            negatives: 5,
            auc: Some(0.97),
            threshold: -0.5,
            passed: Some([0.95, 0.1]),
            made_up_by: Some("source".into()),
            membership_auc: Some(0.55),
        };
        Manifest {
            version: Manifest::VERSION,
            name: "t".into(),
            base: ContentHash::of(b"base"),
            adapter: ContentHash::of(b"adapter"),
            prompt_format: Manifest::CHAT.into(),
            chat_template: None,
            question: Question::about("t"),
            discriminator: discriminator.map(card),
            input_model: None,
            inputs: InputStatistics::of(&["one".to_owned()]),
            limits: Limits::default(),
            seed: 1,
        }
    }

    fn parsed(bytes: &[u8]) -> Result<Kit, String> {
        parse(&Gguf::parse(bytes).unwrap())
    }

    #[test]
    fn a_kit_comes_back_as_it_was_packed() {
        let seeds = [Seed::new(&"one".into()), Seed::new(&"two".into())];
        for lora in [None, Some(&b"GGUF bytes"[..])] {
            let kit = parsed(&pack(&manifest(lora), &seeds, lora, None).unwrap()).unwrap();
            assert_eq!(kit.seeds(), seeds);
            assert_eq!(kit.discriminator(), lora);
            assert_eq!(kit.manifest(), &manifest(lora));
        }
    }

    #[test]
    fn a_kit_of_old_is_read_and_says_what_it_does_not_know() {
        let lora = &b"GGUF bytes"[..];
        let mut old = serde_json::to_value(manifest(Some(lora))).unwrap();
        let all = old.as_object_mut().unwrap();
        all.remove("inputs");
        for key in ["auc", "threshold", "passed", "made_up_by", "membership_auc"] {
            all["discriminator"].as_object_mut().unwrap().remove(key);
        }
        let read: Manifest = serde_json::from_value(old).unwrap();
        assert_eq!(
            read.discriminator
                .as_ref()
                .map(|card| (card.auc, card.threshold)),
            Some((None, 0.0))
        );
        assert!(
            read.privacy(5)
                .iter()
                .any(|sentence| sentence.contains("not measured"))
        );
        assert!(
            manifest(Some(lora))
                .privacy(5)
                .iter()
                .any(|sentence| sentence.contains("AUC 0.55"))
        );
    }

    #[test]
    fn an_input_model_comes_back_with_its_question() {
        let card = InputModelCard {
            sha256: ContentHash::of(b"lora"),
            question: "An input?".into(),
            rows: 9,
            drawn: 5,
            verbatim: 1,
            near: 2,
        };
        let manifest = Manifest {
            input_model: Some(card),
            ..manifest(None)
        };
        let kit =
            parsed(&pack(&manifest, &[Seed::new(&"one".into())], None, Some(b"lora")).unwrap())
                .unwrap();
        assert_eq!(kit.input_model(), Some((&b"lora"[..], "An input?")));
        assert!(
            parsed(&pack(&manifest, &[Seed::new(&"one".into())], None, None).unwrap()).is_err()
        );
    }

    #[test]
    fn another_base_or_adapter_is_refused() {
        let kit = parsed(&pack(&manifest(None), &[Seed::new(&"one".into())], None, None).unwrap())
            .unwrap();
        let (path, base, lora) = (
            Path::new("k.kit"),
            Path::new("old.gguf"),
            Path::new("l.gguf"),
        );
        let (right, other) = (
            |text: &[u8]| ContentHash::of(text),
            ContentHash::of(b"other"),
        );
        assert!(
            kit.check_made_for(path, (base, right(b"base")), (lora, right(b"adapter")))
                .is_ok()
        );
        let error = kit
            .check_made_for(path, (base, other), (lora, right(b"adapter")))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("k.kit: this kit was made for another base model"),
            "{error}"
        );
        let error = kit
            .check_made_for(path, (base, right(b"base")), (lora, other))
            .unwrap_err();
        assert!(
            error.to_string().contains("another adapter") && error.remedy().is_some(),
            "{error}"
        );
    }

    #[test]
    fn a_kit_that_contradicts_itself_is_refused() {
        let seeds = [Seed::new(&"one".into())];
        assert!(parsed(&pack(&manifest(Some(b"a")), &seeds, Some(b"b"), None).unwrap()).is_err());
        assert!(parsed(&pack(&manifest(None), &seeds, Some(b"b"), None).unwrap()).is_err());
        assert!(parsed(&pack(&manifest(None), &seeds, None, Some(b"b")).unwrap()).is_err());
        assert!(parsed(&pack(&manifest(None), &[], None, None).unwrap()).is_err());
        assert!(parsed(&Writer::new().to_bytes().unwrap()).is_err());
    }
}
