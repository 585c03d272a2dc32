//! The OpenAPI document: it has the paths that are answered and no others, and its bounds hold.

use super::served;
use serde_json::{Value, json};
use translora::serve::openapi;

use super::client::{get, open, post};
use crate::source::files;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

#[test]
fn each_path_of_the_document_is_answered_and_no_other_method_of_it() {
    let (_lab, _server, address) = served();
    let document = get(address, "/openapi.json");
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.json(), openapi());
    for (path, item) in document.json()["paths"].as_object().expect("paths") {
        let known: Vec<String> = item
            .as_object()
            .expect("an item")
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        let sent = path.replace("{id}", "7").replace("{name}", "nobody");
        for method in METHODS {
            let reply = open(address, method, &sent, &[], b"{}").reply;
            if known.iter().any(|known| known == method) {
                assert_ne!(reply.status, 405, "{method} {path}: {reply:?}");
                let listed = &item[method.to_lowercase()]["responses"];
                let status = reply.status.to_string();
                assert!(listed.get(&status).is_some(), "{method} {path}: {status}");
            } else {
                assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
                let mut allowed: Vec<_> = reply.header("allow").split(',').collect();
                allowed.retain(|method| *method != "HEAD");
                allowed.sort_unstable();
                let mut known = known.clone();
                known.sort_unstable();
                assert_eq!(allowed, known, "{path}");
            }
        }
    }
}

#[test]
fn a_path_that_is_no_text_names_nothing() {
    let (_lab, _server, address) = served();
    for (method, path) in [
        ("GET", "/v1/models/%FF"),
        ("POST", "/v1/adapters/%FF/unload"),
        ("GET", "/v1/transfers/%FF"),
    ] {
        let reply = open(address, method, path, &[], b"").whole();
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
        assert!(reply.error().starts_with("not_found_error: "), "{reply:?}");
    }
}

/// What utoipa's router takes is documented. So no path may come by another way.
#[test]
fn no_path_comes_in_without_documentation() {
    let mut found = Vec::new();
    for folder in ["src/serve", "src/control"] {
        for (file, text) in files(folder, &["rs"]) {
            let lines = text.lines().filter(|line| {
                [".route(", ".route_service(", ".nest("]
                    .iter()
                    .any(|call| line.contains(call))
            });
            found.extend(lines.map(|line| format!("{file}: {}", line.trim())));
        }
    }
    // Other names of documented paths, which are in the document as well.
    let aliases = "src/serve/http/mod.rs: router = router.route(alias, method());";
    assert_eq!(found, [aliases]);
}

/// The bounds of the document are those that are checked.
#[test]
fn what_is_out_of_the_bounds_of_the_document_is_refused_by_name() {
    let (_lab, _server, address) = served();
    let document = openapi();
    let fields = &document["components"]["schemas"]["LlamaCompletionBody"]["properties"];
    let mut checked = 0;
    for (name, schema) in fields.as_object().expect("fields") {
        let send = |value: f64| {
            let mut body = json!({ "prompt": "a b" });
            let lasts = name.contains("tokens") || name == "n_predict";
            if !lasts {
                body["n_predict"] = json!(1);
            }
            body[name] = json!(value);
            post(address, "/completion", &body)
        };
        for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
            let Some(bound) = schema.get(bound).and_then(Value::as_f64) else {
                continue;
            };
            checked += 1;
            let lasts = name.contains("tokens") || name == "n_predict";
            if !(lasts && bound < 0.0) {
                assert_eq!(send(bound).status, 200, "{name}: {bound}");
            }
            let reply = send(bound + step);
            assert_eq!(reply.status, 400, "{name}: {bound}");
            assert!(reply.error().contains(&format!("{name:?}")), "{reply:?}");
        }
    }
    assert_eq!(checked, 16);
}

#[test]
fn the_examples_of_the_document_are_answered() {
    let (_lab, _server, address) = served();
    let document = openapi();
    let mut answered = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let body = &item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let Some(body) = body.as_str().and_then(|name| name.rsplit('/').next()) else {
            continue;
        };
        for example in document["components"]["schemas"][body]["examples"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert_eq!(
                post(address, path, example).status,
                200,
                "{path}: {example}"
            );
            answered += 1;
        }
    }
    assert_eq!(answered, 10);
}
