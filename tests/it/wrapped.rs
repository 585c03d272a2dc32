//! Wrap a model: its traits, passed on to the field `model`.

macro_rules! pass_on {
    (Generate for $model:ty) => {
        impl translora::engine::Generate for $model {
            fn generate(
                &mut self,
                with: translora::engine::With,
                request: &translora::engine::GenerateRequest,
                monitor: &mut translora::engine::Monitor<'_>,
            ) -> Result<Vec<translora::engine::Continuation>, translora::engine::EngineError> {
                self.model.generate(with, request, monitor)
            }
        }
    };
    (Label for $model:ty) => {
        impl translora::engine::Label for $model {
            fn answer(
                &mut self,
                with: translora::engine::With,
                prompts: &[translora::record::Prompt],
                tokens_max: usize,
                monitor: &mut translora::engine::Monitor<'_>,
            ) -> Result<Vec<translora::engine::Answer>, translora::engine::EngineError> {
                self.model.answer(with, prompts, tokens_max, monitor)
            }
        }
    };
    (Teach for $model:ty) => {
        impl translora::engine::Teach for $model {
            fn vocabulary(&self) -> translora::record::ContentHash {
                self.model.vocabulary()
            }

            fn tokens(
                &self,
                pair: &translora::record::Pair,
            ) -> Result<Vec<translora::engine::Token>, translora::engine::EngineError> {
                self.model.tokens(pair)
            }

            fn word(&self, spelling: &translora::engine::Spelling) -> Option<i32> {
                self.model.word(spelling)
            }

            fn teach(
                &mut self,
                with: translora::engine::With,
                pairs: &[translora::record::Pair],
                words: usize,
                monitor: &mut translora::engine::Monitor<'_>,
            ) -> Result<translora::engine::Lesson, translora::engine::EngineError> {
                self.model.teach(with, pairs, words, monitor)
            }

            fn weigh(
                &mut self,
                with: translora::engine::With,
                pairs: &[translora::record::Pair],
                words: &[translora::engine::WordsOf],
                monitor: &mut translora::engine::Monitor<'_>,
            ) -> Result<Vec<translora::engine::LogsOf>, translora::engine::EngineError> {
                self.model.weigh(with, pairs, words, monitor)
            }
        }
    };
    (Train for $model:ty) => {
        impl translora::engine::Train for $model {
            fn trainer(
                &mut self,
                spec: &translora::engine::LoraSpec,
            ) -> Result<Box<dyn translora::engine::Trainer + '_>, translora::engine::EngineError>
            {
                self.model.trainer(spec)
            }
        }
    };
}
pub(crate) use pass_on;
