//! The text of a template, made ready for the parser.

/// Give line ends their one form, and `{% generation %}` the meaning that it has while rendering:
/// a block with a scope of its own.
pub(crate) fn prepared(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    if !text.contains("generation") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest
        .find("{%")
        .into_iter()
        .chain(rest.find("{{"))
        .chain(rest.find("{#"))
        .min()
    {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            "{{" => closed(rest, "}}"),
            _ => closed(rest, "%}"),
        };
        let (tag, after) = rest.split_at(length);
        rest = after;
        match word(tag) {
            Some("raw") if tag.starts_with("{%") => {
                let end = raw(rest);
                out.push_str(tag);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            Some("generation") if tag.starts_with("{%") => {
                out.push_str(&tag.replacen("generation", "with", 1));
            }
            Some("endgeneration") if tag.starts_with("{%") => {
                out.push_str(&tag.replacen("endgeneration", "endwith", 1));
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    out
}

/// The length of a tag up to and with `end`, which counts outside strings and brackets only.
fn closed(text: &str, end: &str) -> usize {
    let (mut quote, mut escaped, mut depth) = (None, false, 0_i32);
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if depth == 0 && text[at..].starts_with(end) => return at + end.len(),
            None => match c {
                '"' | '\'' => quote = Some(c),
                '{' | '[' | '(' => depth += 1,
                '}' | ']' | ')' => depth -= 1,
                _ => {}
            },
        }
    }
    text.len()
}

/// The first word inside a tag.
fn word(tag: &str) -> Option<&str> {
    let inside = tag.get(2..)?.trim_start_matches(['-', '+']).trim_start();
    let end = inside.find(|c: char| !c.is_alphanumeric() && c != '_');
    inside.get(..end?).filter(|word| !word.is_empty())
}

/// Where the tag that ends a raw block begins.
fn raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        if word(&text[from + at..]) == Some("endraw") {
            return from + at;
        }
        from += at + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::prepared;

    #[test]
    fn generation_becomes_a_block_that_does_nothing() {
        for (text, wanted) in [
            ("a\r\nb\rc", "a\nb\nc"),
            (
                "{% generation %}x{% endgeneration %}",
                "{% with %}x{% endwith %}",
            ),
            (
                "{%- generation -%}x{%+ endgeneration +%}",
                "{%- with -%}x{%+ endwith +%}",
            ),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            ("{# {% generation %} #}", "{# {% generation %} #}"),
            (
                "{% raw %}{% generation %}{% endraw %}",
                "{% raw %}{% generation %}{% endraw %}",
            ),
            ("{{ add_generation_prompt }}", "{{ add_generation_prompt }}"),
            (
                "{{ {'a': {'b': 1}} }}{% generation %}",
                "{{ {'a': {'b': 1}} }}{% with %}",
            ),
            (
                "{% if generation %}é{% generation",
                "{% if generation %}é{% generation",
            ),
        ] {
            assert_eq!(prepared(text), wanted);
        }
    }
}
