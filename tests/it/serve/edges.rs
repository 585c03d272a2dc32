//! Numbers at the edges of their kinds. Each is refused by name, or does what its definition says;
//! none is taken for another number. Those of a transfer are in `request.rs`, for all entries.

use serde_json::{Value, json};

use super::client::{Reply, get, open, post};
use super::served;

/// A field of a completion, what it may be as JSON has it, and what it may not.
const FIELDS: &[(&str, &str, &str)] = &[
    (
        "temperature",
        "0 -0.0 1e-45 1e-300 100",
        "-0.001 100.1 1e39 1e400 NaN -1e400 9223372036854775808",
    ),
    (
        "top_p",
        "0 -0.0 1e-45 1",
        "-0.001 1.001 1e39 1e400 Infinity",
    ),
    ("min_p", "0 -0.0 1e-45 1", "-0.001 1.001 1e39 1e400"),
    (
        "repeat_penalty",
        "0.01 1 100",
        "0 -0.0 1e-45 100.1 1e39 1e400",
    ),
    (
        "presence_penalty",
        "-100 -0.0 1e-45 100",
        "-100.1 100.1 1e39 -1e39 1e400",
    ),
    (
        "frequency_penalty",
        "-100 -0.0 1e-45 100",
        "-100.1 100.1 1e39 -1e39 1e400",
    ),
    (
        "repeat_last_n",
        "-1 0 9223372036854775807",
        "-2 1.5 1e400 -9223372036854775808",
    ),
    (
        "top_k",
        "-1 0 1 9223372036854775807 9223372036854775808",
        "1.5 1e400 true",
    ),
    ("seed", "-1 0 4294967296 9223372036854775808", "1.5 1e400"),
    (
        "max_tokens",
        "1 9223372036854775807",
        "-2 1.5 1e400 -9223372036854775809",
    ),
    ("logprobs", "0 100", "-1 101 1.5 9223372036854775808 1e400"),
    (
        "logit_bias",
        r#"{"1":-0.0} {"1":1e-45} {"1":3e38}"#,
        r#"{"1":1e400} {"-1":1} {"9223372036854775808":1} {"1":NaN} [[1,3e38],[1,3e38]]"#,
    ),
    (
        "lora",
        r#"[{"id":0,"scale":-0.0}] [{"id":0,"scale":1e-45}]"#,
        r#"[{"id":0,"scale":1e39}] [{"id":0,"scale":1e400}] [{"id":-1,"scale":1}] [{"id":9223372036854775808,"scale":1}] [{"id":0.5,"scale":1}]"#,
    ),
];

#[test]
fn numbers_at_their_edges_are_refused_by_name_or_mean_what_they_say() {
    let (lab, _server, address) = served();
    let ask = |field: &str, value: &str| {
        let fixed = if field == "max_tokens" {
            ""
        } else {
            r#""max_tokens": 1, "#
        };
        let body = format!(
            r#"{{{fixed}"prompt": "{}", "{field}": {value}}}"#,
            lab.prompts[0]
        );
        open(address, "POST", "/v1/completions", &[], body.as_bytes()).whole()
    };
    for (field, fits, unfit) in FIELDS {
        for value in fits.split(' ') {
            let reply = ask(field, value);
            assert_eq!(reply.status, 200, "{field} {value}: {reply:?}");
        }
        for value in unfit.split(' ') {
            let reply = ask(field, value);
            assert_eq!(reply.status, 400, "{field} {value}: {reply:?}");
            assert!(
                reply.error().starts_with("invalid_request_error: "),
                "{field} {value}"
            );
        }
    }
    // What is as good as nothing is nothing.
    let text = |reply: Reply| reply.json()["choices"][0]["text"].clone();
    let plain = text(ask("temperature", "0"));
    for (field, value) in [
        ("temperature", "-0.0"),
        ("top_k", "9223372036854775808"),
        ("min_p", "1e-300"),
    ] {
        assert_eq!(text(ask(field, value)), plain, "{field} {value}");
    }
}

#[test]
fn numbers_in_paths_headers_and_exchanges_are_no_others() {
    let (lab, _server, address) = served();
    for id in [
        "18446744073709551616",
        "-1",
        "1.5",
        "1e3",
        "NaN",
        "0",
        "9223372036854775808",
        "%31",
    ] {
        for path in [
            format!("/v1/transfers/{id}"),
            format!("/v1/transfers/{id}/events"),
        ] {
            let reply = get(address, &path);
            assert_eq!(reply.status, 404, "{path}: {reply:?}");
        }
    }
    let path = &lab.adapters[1];
    for (expected, status) in [
        (json!(-1), 400),
        (json!(1.5), 400),
        (json!(1e300), 400),
        (json!("x"), 400),
        (json!(u64::MAX), 409),
        (json!(1_u64 << 63), 409),
    ] {
        let load = json!({ "name": "ticket", "path": path, "expected_generation": expected });
        let reply = post(address, "/v1/adapters", &load);
        assert_eq!(reply.status, status, "{expected}: {reply:?}");
    }
    for (scale, status) in [("-0.0", 200), ("1e-45", 200), ("1e39", 400), ("NaN", 400)] {
        let scales = format!(r#"[{{"id": 0, "scale": {scale}}}]"#);
        let reply = open(address, "POST", "/lora-adapters", &[], scales.as_bytes()).whole();
        assert_eq!(reply.status, status, "{scale}: {reply:?}");
    }
    let listed: Value = get(address, "/v1/adapters").json();
    assert!(
        listed["data"].as_array().is_some_and(|all| all.len() == 2),
        "{listed}"
    );
}
