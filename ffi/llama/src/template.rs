use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::error::LlamaError;

/// A model's chat template (Jinja, as llama-server renders it by default).
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    pub role: &'static str,
    pub content: String,
}

impl ChatTemplate {
    /// fails: the template does not compile.
    pub fn new(text: String, bos: String, eos: String) -> Result<Self, LlamaError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment
            .add_template_owned("chat", text)
            .map_err(|error| LlamaError::Template(format!("{error:#}")))?;
        Ok(Self {
            environment,
            bos,
            eos,
        })
    }

    /// Render `messages`, a list of [`Message`]s or of objects like it; `answer` opens the
    /// assistant's turn.
    pub fn render(
        &self,
        messages: &(impl Serialize + ?Sized),
        answer: bool,
    ) -> Result<String, LlamaError> {
        let template = self
            .environment
            .get_template("chat")
            .map_err(|error| LlamaError::Template(error.to_string()))?;
        let messages = minijinja::Value::from_serialize(messages);
        template
            .render(context! { messages, add_generation_prompt => answer, bos_token => self.bos, eos_token => self.eos })
            .map_err(|error| LlamaError::Template(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<s>system\nBe kind<e>\n' }}\
        {% endif %}{{'<s>' + message['role'] + '\n' + message['content'] + '<e>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}";

    fn user(content: &str) -> Vec<Message> {
        vec![Message {
            role: "user",
            content: content.into(),
        }]
    }

    #[test]
    fn default_system_prompt_is_rendered() {
        let template = ChatTemplate::new(CHATML.into(), String::new(), String::new()).unwrap();
        assert_eq!(
            template.render(&user("hi"), true).unwrap(),
            "<s>system\nBe kind<e>\n<s>user\nhi<e>\n<s>assistant\n"
        );
    }

    #[test]
    fn broken_template_is_an_error() {
        assert!(ChatTemplate::new("{% for x".into(), String::new(), String::new()).is_err());
        let template = ChatTemplate::new(
            "{{ raise_exception('no tools') }}".into(),
            String::new(),
            String::new(),
        )
        .unwrap();
        assert!(
            template
                .render(&user("hi"), true)
                .unwrap_err()
                .to_string()
                .contains("no tools")
        );
    }
}
