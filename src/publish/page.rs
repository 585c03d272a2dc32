//! Lay out a report as one HTML file that needs nothing else: no script, no font, no picture from
//! elsewhere.

mod chart;

pub use chart::Chart;

const STYLE: &str = include_str!("page/style.css");
/// Characters of one text that are shown.
const TEXT_MAX: usize = 400;

/// How a verdict is to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Accepted.
    Good,
    /// Rejected.
    Bad,
    /// Neither.
    #[default]
    Unsure,
}

/// What a report page shows, as text that is escaped here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// How the verdict is coloured.
    pub tone: Tone,
    /// The first line: a word, and what it says in full.
    pub verdict: (String, String),
    /// The name of the page.
    pub title: String,
    /// Paragraphs above the sections.
    pub lead: Vec<String>,
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// A part of a page under a heading; one without blocks is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What stands below it.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A heading within the section.
    Heading(String),
    /// A paragraph.
    Note(String),
    /// Shares with their intervals.
    Bars(Vec<Bar>),
    /// A drawing of curves.
    Chart(Chart),
    /// Names and values.
    Facts(Vec<(String, String)>),
    /// Numbers in columns; the first column names them.
    Numbers {
        /// Names of the columns.
        head: Vec<String>,
        /// A line each.
        rows: Vec<Vec<String>>,
    },
    /// Somebody's texts in columns.
    Texts {
        /// Names of the columns.
        head: Vec<String>,
        /// A line each.
        rows: Vec<Vec<String>>,
    },
    /// A block that is opened by a click.
    Folded(String, Box<Block>),
}

/// A share with its 95 % interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// What it is of.
    pub name: String,
    /// From 0 to 1.
    pub share: f64,
    /// Low and high end, from 0 to 1.
    pub interval: [f64; 2],
    /// The one that all is about.
    pub main: bool,
}

/// Lay out a page.
pub fn page(page: &Page) -> String {
    let tone = match page.tone {
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Unsure => "unsure",
    };
    let (title, [word, verdict]) = (
        escape(&page.title),
        [&page.verdict.0, &page.verdict.1].map(|text| escape(text)),
    );
    let lead: String = page
        .lead
        .iter()
        .map(|text| format!("<p>{}</p>\n", escape(text)))
        .collect();
    let sections: String = page.sections.iter().map(section).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><meta \
         name=\"color-scheme\" content=\"light dark\"/>\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'\"/>\
         <title>{word}: {title}</title>\n<style>\n{STYLE}</style></head>\n\
         <body class=\"{tone}\"><h1><b>{word}</b>: {verdict}</h1>\n<p \
         class=\"title\">{title}</p>\n{lead}{sections}</body></html>\n"
    )
}

fn section(section: &Section) -> String {
    let blocks: String = section.blocks.iter().map(block).collect();
    if blocks.is_empty() {
        String::new()
    } else {
        format!("<h2>{}</h2>\n{blocks}", escape(&section.heading))
    }
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(text) => format!("<h3>{}</h3>\n", escape(text)),
        Block::Note(text) => format!("<p class=\"note\">{}</p>\n", escape(text)),
        Block::Bars(bars) => bars.iter().map(bar).collect(),
        Block::Chart(chart) => chart.html(),
        Block::Facts(rows) if rows.is_empty() => String::new(),
        Block::Facts(rows) => {
            let row = |(name, value): &(String, String)| {
                format!(
                    "<tr><td>{}</td><td>{}</td></tr>\n",
                    escape(name),
                    escape(&clipped(value))
                )
            };
            format!(
                "<table class=\"facts\"><tbody>{}</tbody></table>\n",
                rows.iter().map(row).collect::<String>()
            )
        }
        Block::Numbers { head, rows } => {
            table(
                "numbers",
                head,
                rows,
                |column| if column == 0 { "" } else { "n" },
            )
        }
        Block::Texts { head, rows } => table("texts", head, rows, |_| "t"),
        Block::Folded(title, inner) => {
            let inner = self::block(inner);
            if inner.is_empty() {
                inner
            } else {
                format!(
                    "<details><summary>{}</summary>{inner}</details>\n",
                    escape(title)
                )
            }
        }
    }
}

fn table(
    class: &str,
    head: &[String],
    rows: &[Vec<String>],
    kind: fn(usize) -> &'static str,
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let class_of = |column: usize| {
        if kind(column).is_empty() {
            String::new()
        } else {
            format!(" class=\"{}\"", kind(column))
        }
    };
    let heads = head.iter().enumerate().map(|(i, name)| {
        let class = if kind(i) == "n" {
            class_of(i)
        } else {
            String::new()
        };
        format!("<th{class}>{}</th>", escape(name))
    });
    let cell = |(i, text): (usize, &String)| {
        let name = head.get(i).map_or("", String::as_str);
        format!(
            "<td{} data-name=\"{}\">{}</td>",
            class_of(i),
            escape(name),
            escape(&clipped(text))
        )
    };
    let row = |row: &Vec<String>| {
        format!(
            "<tr>{}</tr>\n",
            row.iter().enumerate().map(cell).collect::<String>()
        )
    };
    let (heads, rows): (String, String) = (heads.collect(), rows.iter().map(row).collect());
    format!(
        "<table class=\"{class}\"><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>\n"
    )
}

/// A bar from 0 to 1 with a whisker.
fn bar(bar: &Bar) -> String {
    let percent = |share: f64| {
        100.0
            * if share.is_finite() {
                share.clamp(0.0, 1.0)
            } else {
                0.0
            }
    };
    let (share, [low, high]) = (percent(bar.share), bar.interval.map(percent));
    format!(
        "<div class=\"bar{}\"><span class=\"name\">{}</span><span class=\"track\"><span \
        class=\"fill\" style=\"width:{share:.2}%\"></span>\
         <span class=\"whisker\" style=\"left:{low:.2}%;width:{:.2}%\"></span></span>\
         <span class=\"share\">{share:.1} % <small>({low:.1} to {high:.1})</small></span></div>\n",
        if bar.main { " main" } else { "" },
        escape(&bar.name),
        (high - low).max(0.0),
    )
}

/// The beginning of a long text, and how much there is of it.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}

/// Escape what HTML gives a meaning. What has no shape, or turns the direction of the text around
/// it, is shown as such.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push('\u{fffd}');
            }
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
