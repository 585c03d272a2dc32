//! What requests come to: the same as the engine itself says, whatever else runs.

use std::thread;

use serde_json::{Value, json};

use super::client::{ask, get, metric, post, said, send, with};
use super::{Lab, endless, pieces, serve, served};

#[test]
fn many_clients_of_many_adapters_hear_what_each_would_alone() {
    let (lab, _server, address) = served();
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
    let (lab, _server, address) = served();
    let answer = &lab.answers(Some(&lab.adapters[0]))[0];
    let mut body = json!({ "model": "ticket", "stream": true, "stream_options": { "include_usage": true }, "logprobs": true, "top_logprobs": 2 });
    body["messages"] = json!([{ "role": "user", "content": lab.prompts[0] }]);
    let stream = send(address, "/v1/chat/completions", &body);
    assert_eq!(stream.reply.status, 200);
    assert_eq!(stream.reply.generation(), "1");
    assert_eq!(stream.reply.header("content-type"), "text/event-stream");
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
    assert!(logprobs.len() == answer.len());
    assert!(
        logprobs
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
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(usage["choices"].as_array().map(Vec::len), Some(0));
    assert_eq!(usage["usage"]["completion_tokens"], answer.len() + 1);
    assert!(pieces.iter().all(|piece| piece["generation"] == "1"
        && piece["id"] == pieces[0]["id"]
        && piece["model"] == "ticket"));
}

#[test]
fn text_stops_where_it_is_told_to() {
    let (_lab, _server, address) = served();
    let complete = |more: Value| {
        let body = json!({ "prompt": "the cat sat", "max_tokens": 20 });
        post(address, "/v1/completions", &with(body, &more)).json()["choices"][0].clone()
    };
    let plain = complete(json!({}));
    assert_eq!(plain["text"], " sat sat sat sat sat");
    assert_eq!(plain["finish_reason"], "length");
    let stopped = complete(json!({ "stop": ["t s", "never"] }));
    assert_eq!(stopped["text"], " sa");
    assert_eq!(stopped["finish_reason"], "stop");
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
    let (_lab, _server, address) = served();
    let body = json!({ "prompt": "x 🤗é媽", "stream": true, "max_tokens": 21 });
    let events = send(address, "/v1/completions", &body).rest();
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
    let (_lab, _server, address) = served();
    assert_eq!(get(address, "/health").json(), json!({ "status": "ok" }));
    let props = get(address, "/props").json();
    assert_eq!(props["total_slots"], 4);
    assert_eq!(props["default_generation_settings"]["n_ctx"], 1024);
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
    assert_eq!(answer["content"], " b b");
    assert_eq!(answer["stop_type"], "limit");
    assert_eq!(&answer["tokens"], &json!([32, 98, 32, 98]));
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
    lab.check(address, "ticket", Some(0));
    assert_eq!(metric(address, "translora:requests_cancelled_total"), 1.0);
}

#[test]
fn the_same_seed_draws_the_same_and_the_context_is_the_end() {
    let (_lab, _server, address) = served();
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
    assert_eq!(long["truncated"], true);
    assert_eq!(long["tokens_predicted"].as_u64(), Some(1024 - 3));
}

#[test]
fn a_server_that_stops_finishes_what_it_began() {
    let lab = Lab::new();
    let (server, address) = serve(lab.config());
    let body = json!({ "prompt": "on and", "stream": true, "max_tokens": 900 });
    let mut stream = send(address, "/v1/completions", &body);
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
