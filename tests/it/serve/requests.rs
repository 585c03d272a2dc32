//! What requests come to: the same as the engine itself says, whatever else runs.

use std::thread;

use serde_json::{Value, json};

use super::client::{ask, get, metric, open, post, said};
use super::{Lab, endless, pieces, serve};

#[test]
fn many_clients_of_many_adapters_hear_what_each_would_alone() {
    let lab = Lab::new();
    let (_server, address) = serve(lab.config());
    let models = [
        ("base", lab.answers(None)),
        ("ticket", lab.answers(Some(&lab.adapters[0]))),
        ("second", lab.answers(Some(&lab.adapters[1]))),
    ];
    assert!(models[1].1 != models[2].1 && models[0].1 != models[1].1);
    thread::scope(|scope| {
        for client in 0..9 {
            let (models, prompts) = (&models, &lab.prompts);
            scope.spawn(move || {
                for (i, prompt) in prompts.iter().enumerate() {
                    let (model, answers) = &models[(client + i) % 3];
                    assert_eq!(
                        said(&ask(address, model, prompt)),
                        answers[i],
                        "{model}: {prompt}"
                    );
                }
            });
        }
    });
    assert_eq!(
        metric(address, "translora:requests_done_total"),
        9.0 * lab.prompts.len() as f64
    );
    assert!(
        metric(address, "translora:prompt_tokens_cached_total") > 0.0,
        "questions begin alike, and nothing was shared"
    );
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces() {
    let lab = Lab::new();
    let (_server, address) = serve(lab.config());
    let answer = &lab.answers(Some(&lab.adapters[0]))[0];
    let mut body = json!({ "model": "ticket", "stream": true, "stream_options": { "include_usage": true }, "logprobs": true, "top_logprobs": 2 });
    body["messages"] = json!([{ "role": "user", "content": lab.prompts[0] }]);
    let stream = open(
        address,
        "POST",
        "/v1/chat/completions",
        &[],
        body.to_string().as_bytes(),
    );
    assert_eq!(
        (
            stream.reply.status,
            stream.reply.generation(),
            stream.reply.header("content-type")
        ),
        (200, "1", "text/event-stream")
    );
    let pieces = pieces(&stream.rest());
    let text: String = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(&text, answer);
    assert_eq!(
        pieces[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": null })
    );
    let logprobs: Vec<&Value> = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert!(
        logprobs.len() == answer.len()
            && logprobs
                .iter()
                .all(|token| token["logprob"].as_f64().is_some_and(|x| x <= 0.0))
    );
    assert!(
        logprobs
            .iter()
            .all(|token| token["top_logprobs"][0]["token"] == token["token"]
                && token["top_logprobs"].as_array().unwrap().len() == 2)
    );
    let (usage, last) = (&pieces[pieces.len() - 1], &pieces[pieces.len() - 2]);
    assert_eq!(
        (
            last["choices"][0]["finish_reason"].as_str(),
            usage["choices"].as_array().map(Vec::len)
        ),
        (Some("stop"), Some(0))
    );
    assert_eq!(usage["usage"]["completion_tokens"], answer.len() + 1);
    assert!(pieces.iter().all(|piece| piece["generation"] == "1"
        && piece["id"] == pieces[0]["id"]
        && piece["model"] == "ticket"));
}

#[test]
fn text_stops_where_it_is_told_to() {
    let lab = Lab::new();
    let (_server, address) = serve(lab.config());
    let complete = |more: Value| {
        let mut body = json!({ "prompt": "the cat sat", "max_tokens": 20 });
        more.as_object()
            .unwrap()
            .iter()
            .for_each(|(key, value)| body[key] = value.clone());
        post(address, "/v1/completions", &body).json()["choices"][0].clone()
    };
    let plain = complete(json!({}));
    assert_eq!(
        (plain["text"].as_str(), plain["finish_reason"].as_str()),
        (Some(" sat sat sat sat sat"), Some("length"))
    );
    let stopped = complete(json!({ "stop": ["t s", "never"] }));
    assert_eq!(
        (stopped["text"].as_str(), stopped["finish_reason"].as_str()),
        (Some(" sa"), Some("stop"))
    );
    assert_eq!(complete(json!({ "max_tokens": 0 }))["text"], "");
    assert_eq!(
        complete(json!({ "logit_bias": { "97": -100 }, "max_tokens": 2 }))["text"],
        " s"
    );
    let both = post(
        address,
        "/v1/completions",
        &json!({ "prompt": ["one", "two"], "max_tokens": 4 }),
    )
    .json();
    assert_eq!(
        [&both["choices"][0]["text"], &both["choices"][1]["text"]],
        [" one", " two"]
    );
}

/// A toy token is a byte, so every character beyond ASCII lies across tokens.
#[test]
fn no_piece_of_a_stream_ends_inside_a_character() {
    let lab = Lab::new();
    let (_server, address) = serve(lab.config());
    let body = json!({ "prompt": "x 🤗é媽", "stream": true, "max_tokens": 21 });
    let events = open(
        address,
        "POST",
        "/v1/completions",
        &[],
        body.to_string().as_bytes(),
    )
    .rest();
    let texts: Vec<String> = pieces(&events)
        .iter()
        .filter_map(|piece| piece["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(texts.concat(), " 🤗é媽 🤗é媽 ");
    assert!(
        texts.iter().all(|text| text.chars().count() <= 1),
        "{texts:?}"
    );
}

#[test]
fn the_endpoints_of_llama_server_answer_in_its_words() {
    let lab = Lab::new();
    let (_server, address) = serve(lab.config());
    assert_eq!(get(address, "/health").json(), json!({ "status": "ok" }));
    let props = get(address, "/props").json();
    assert_eq!(
        (
            props["total_slots"].as_u64(),
            props["default_generation_settings"]["n_ctx"].as_u64()
        ),
        (Some(4), Some(1024))
    );
    assert_eq!(
        post(address, "/tokenize", &json!({ "content": "hé" })).json(),
        json!({ "tokens": [104, 195, 169] })
    );
    let pieces = post(
        address,
        "/tokenize",
        &json!({ "content": "hé", "with_pieces": true }),
    )
    .json();
    assert_eq!(pieces["tokens"][0], json!({ "id": 104, "piece": "h" }));
    assert_eq!(pieces["tokens"][1], json!({ "id": 195, "piece": [195] }));
    assert_eq!(
        post(
            address,
            "/detokenize",
            &json!({ "tokens": [104, 195, 169] })
        )
        .json(),
        json!({ "content": "hé" })
    );
    let turns = json!({ "messages": [{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "ho" }] });
    assert_eq!(
        post(address, "/apply-template", &turns).json(),
        json!({ "prompt": "user: hi\nassistant: ho" })
    );
    assert_eq!(
        post(address, "/v1/chat/completions/input_tokens", &turns).json(),
        json!({ "input_tokens": 22 })
    );
    let answer = post(
        address,
        "/completion",
        &json!({ "prompt": "a b", "n_predict": 4, "return_tokens": true, "n_probs": 1 }),
    )
    .json();
    assert_eq!(
        (
            answer["content"].as_str(),
            answer["stop_type"].as_str(),
            &answer["tokens"]
        ),
        (Some(" b b"), Some("limit"), &json!([32, 98, 32, 98]))
    );
    assert_eq!(
        answer["completion_probabilities"][1]["top_logprobs"][0]["id"],
        98
    );
    assert_eq!(
        get(address, "/slots").json().as_array().map(Vec::len),
        Some(4)
    );
    let models = get(address, "/v1/models").json();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!(ids, ["base", "ticket", "second"]);
    assert_eq!(get(address, "/v1/models/second").json()["parent"], "base");
}

#[test]
fn a_client_that_goes_away_gives_its_slot_back() {
    let lab = Lab::new();
    let (_server, address) = serve(translora::serve::Config {
        slots: 1,
        context: 4 << 20,
        ..lab.config()
    });
    let mut stream = endless(address, "base");
    stream.events().expect("it has begun");
    drop(stream);
    assert_eq!(
        said(&ask(address, "ticket", &lab.prompts[0])),
        lab.answers(Some(&lab.adapters[0]))[0]
    );
    assert_eq!(metric(address, "translora:requests_cancelled_total"), 1.0);
}

#[test]
fn the_same_seed_draws_the_same_and_the_context_is_the_end() {
    let lab = Lab::new();
    let (_server, address) = serve(lab.config());
    let draw = |seed: u64| {
        let body = json!({ "prompt": "a b", "n_predict": 12, "temperature": 20.0, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed });
        post(address, "/completion", &body).json()["content"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(draw(5), draw(5));
    assert_ne!(draw(5), draw(6));
    let long = post(address, "/completion", &json!({ "prompt": "a b" })).json();
    assert_eq!(
        (
            long["truncated"].as_bool(),
            long["tokens_predicted"].as_u64()
        ),
        (Some(true), Some(1024 - 3))
    );
}

#[test]
fn a_server_that_stops_finishes_what_it_began() {
    let lab = Lab::new();
    let (server, address) = serve(lab.config());
    let body = json!({ "prompt": "on and", "stream": true, "max_tokens": 900 });
    let mut stream = open(
        address,
        "POST",
        "/v1/completions",
        &[],
        body.to_string().as_bytes(),
    );
    let mut events = stream.events().expect("it has begun");
    server.stop();
    events.extend(stream.rest());
    let text: String = pieces(&events)
        .iter()
        .filter_map(|piece| piece["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text.len(), 900);
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
}
