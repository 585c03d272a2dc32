/// What a report page shows, as text that is escaped here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    pub title: String,
    /// One sentence: what came of it.
    pub lead: String,
    /// A share with its 95 % interval, by name.
    pub bars: Vec<(String, f64, [f64; 2])>,
    /// Tables of name and value, under a heading.
    pub tables: Vec<(String, Vec<(String, String)>)>,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1rem;margin:1.5rem 0 .3rem}table{border-collapse:collapse;width:100%}\
td{border-top:1px solid #ddd;padding:.2rem .5rem .2rem 0;vertical-align:top;word-break:break-word}td:first-child{width:14rem;color:#555}\
svg{width:100%;height:auto}text{font:13px system-ui,sans-serif;fill:#222}";

/// Lay out a report as one HTML file that needs nothing else.
pub fn page(page: &Page) -> String {
    let tables: String = page.tables.iter().map(|(heading, rows)| table(heading, rows)).collect();
    let title = escape(&page.title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1><p>{}</p>\n{}{tables}</body></html>\n",
        escape(&page.lead),
        bars(&page.bars)
    )
}

fn table(heading: &str, rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rows: String = rows.iter().map(|(name, value)| format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), escape(value))).collect();
    format!("<h2>{}</h2>\n<table>{rows}</table>\n", escape(heading))
}

/// Horizontal bars from 0 to 1 with whiskers.
fn bars(bars: &[(String, f64, [f64; 2])]) -> String {
    if bars.is_empty() {
        return String::new();
    }
    let x = |share: f64| 150.0 + 480.0 * share.clamp(0.0, 1.0);
    let bar = |(i, (name, share, [low, high])): (usize, &(String, f64, [f64; 2]))| {
        let y = 30 * i;
        format!(
            "<text x=\"0\" y=\"{}\">{}</text><rect x=\"150\" y=\"{}\" width=\"{:.1}\" height=\"16\" fill=\"#7aa6c2\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{m}\" y2=\"{m}\" stroke=\"#222\"/><text x=\"640\" y=\"{}\">{:.1} %</text>\n",
            y + 17,
            escape(name),
            y + 5,
            x(*share) - 150.0,
            x(*low),
            x(*high),
            y + 17,
            100.0 * share,
            m = y + 13
        )
    };
    let drawn: String = bars.iter().enumerate().map(bar).collect();
    format!("<svg viewBox=\"0 0 700 {}\" role=\"img\" aria-label=\"scores\">{drawn}</svg>\n", 30 * bars.len())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_what_it_shows() {
        let html = page(&Page {
            title: "<script>".into(),
            lead: "a & b".into(),
            bars: vec![("target".into(), 0.5, [0.4, 0.6])],
            tables: vec![("Counts".into(), vec![("kept".into(), "\"7\"".into())])],
        });
        assert!(!html.contains("<script>") && html.contains("a &amp; b") && html.contains("50.0 %") && html.contains("&quot;7&quot;"));
    }
}
