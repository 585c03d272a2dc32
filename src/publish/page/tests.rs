use super::*;

/// A text that tries everything.
const NASTY: &str = "</td><script>alert(1)</script>\" onload='x' & \u{0}\u{8}\u{202e}\u{ffff} \
    &lt; ]]> <!-- –é漢 \n\ttwo";

fn full(text: &str) -> Page {
    let text = || text.to_owned();
    let rows = || vec![vec![text(), text()], vec![text(), text()]];
    let head = || vec![text(), text()];
    let bar = |share| Bar {
        name: text(),
        share,
        interval: [0.2, 0.7],
        main: true,
    };
    let chart = Chart {
        title: text(),
        x_axis: text(),
        y_axis: text(),
        curves: vec![(text(), vec![(0.0, 1.0), (5.0, 0.2)]), (text(), vec![])],
    };
    let blocks = vec![
        Block::Heading(text()),
        Block::Note(text()),
        Block::Bars(vec![bar(0.5), bar(f64::NAN), bar(7.0)]),
        Block::Chart(chart),
        Block::Facts(vec![(text(), text())]),
        Block::Numbers {
            head: head(),
            rows: rows(),
        },
        Block::Texts {
            head: head(),
            rows: rows(),
        },
        Block::Folded(text(), Box::new(Block::Facts(vec![(text(), text())]))),
    ];
    Page {
        tone: Tone::Good,
        verdict: (text(), text()),
        title: text(),
        lead: vec![text()],
        sections: vec![Section {
            heading: text(),
            blocks,
        }],
    }
}

/// Parse a page as XML, which is stricter than any browser.
fn parsed(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..roxmltree::ParsingOptions::default()
    };
    roxmltree::Document::parse_with_options(html, options)
        .unwrap_or_else(|error| panic!("{error}:\n{html}"))
}

#[test]
fn a_page_is_well_formed_and_holds_no_script_whatever_it_shows() {
    let html = page(&full(NASTY));
    let document = parsed(&html);
    let known = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "b",
        "p",
        "div",
        "span",
        "small",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "figure",
        "figcaption",
        "svg",
        "line",
        "text",
        "polyline",
        "circle",
    ];
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        assert!(
            known.contains(&node.tag_name().name()),
            "<{}>",
            node.tag_name().name()
        );
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(
                !name.starts_with("on") && !["href", "src", "srcset", "action"].contains(&name),
                "{name}"
            );
        }
    }
    let cells: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("td"))
        .filter_map(|node| node.text())
        .collect();
    assert!(
        cells.len() == 12
            && cells
                .iter()
                .all(|cell| cell.starts_with("</td><script>alert(1)") && cell.contains("–é漢")),
        "{cells:?}"
    );
    assert!(!html.contains('\u{202e}') && !html.contains("<script"));
}

#[test]
fn a_page_needs_nothing_from_elsewhere() {
    let html = page(&full("plain"));
    for outside in ["http:", "https:", "//", "url(", "@import", "src=", "href="] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn the_verdict_is_the_first_line_and_empty_parts_are_left_out() {
    let section = |heading: &str, blocks| Section {
        heading: heading.into(),
        blocks,
    };
    let empty = Block::Texts {
        head: vec!["a".into()],
        rows: Vec::new(),
    };
    let folded = Block::Folded("b".into(), Box::new(Block::Facts(Vec::new())));
    let sections = vec![
        section("Nothing", vec![empty, folded]),
        section("Something", vec![Block::Note("here".into())]),
    ];
    let html = page(&Page {
        verdict: ("Accepted".into(), "it is better".into()),
        title: "T".into(),
        sections,
        ..Page::default()
    });
    let document = parsed(&html);
    let body = document
        .descendants()
        .find(|node| node.has_tag_name("body"))
        .unwrap();
    let first = body.first_element_child().unwrap();
    assert_eq!(
        first
            .descendants()
            .filter_map(|node| if node.is_text() { node.text() } else { None })
            .collect::<String>(),
        "Accepted: it is better"
    );
    let headings: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("h2"))
        .filter_map(|node| node.text())
        .collect();
    assert_eq!(headings, ["Something"]);
}

#[test]
fn a_long_text_is_cut() {
    assert_eq!(clipped("kurz"), "kurz");
    let long = clipped(&"é".repeat(500));
    assert!(
        long.ends_with("… (500 characters)") && long.chars().count() == 418,
        "{long}"
    );
}
