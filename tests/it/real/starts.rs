//! Start lines of llama-server that say where a model comes from: each serves what `-m` serves.

use std::fs;

use serde_json::json;

use super::serve::Served;
use super::{Folder, old_base};
use crate::fetch::server::{Page, Server};
use crate::serve::client::post;

const REPO: &str = "lab/sprout-GGUF";

#[test]
fn a_model_of_a_hub_or_of_the_web_is_served_as_one_of_the_disk_is() {
    let model = fs::read(old_base()).expect("the lab is in the repository");
    let web = Server::start();
    web.repository(REPO, &[("sprout.F16.gguf", model.clone())], None);
    web.put(
        "/sprout.gguf",
        Page {
            bytes: model,
            etag: "\"one\"".into(),
            ..Page::default()
        },
    );
    let (folder, url) = (Folder::new(), web.url());
    let file = format!("{url}/sprout.gguf");
    let hub = [("HF_ENDPOINT", url.as_str()), ("HF_HOME", "hub")];
    let completed = |line: &str, variables: &[(&str, &str)]| {
        let line = format!("{line} -c 128 -np 1");
        let served = Served::start_with(&folder, &line, variables);
        let body = json!({ "prompt": "Once", "n_predict": 8, "temperature": 0 });
        let reply = post(served.address, "/completion", &body);
        assert_eq!(reply.status, 200, "{line}: {reply:?}");
        reply.json()["content"].clone()
    };
    let right = completed(&format!("-m {}", old_base().display()), &[]);
    for line in [
        format!("-m {} --mlock", old_base().display()),
        format!("-hf {REPO}"),
        format!("-hf {REPO}:F16"),
        format!("-hf {REPO} -hff sprout.F16.gguf"),
        format!("--hf-repo {REPO} --hf-file sprout.F16.gguf"),
        format!("-mu {file}"),
        format!("--model-url {file}"),
    ] {
        assert_eq!(completed(&line, &hub), right, "{line}");
    }
    let variables = [hub[0], hub[1], ("LLAMA_ARG_HF_REPO", REPO)];
    assert_eq!(completed("", &variables), right);
    let variables = [hub[0], hub[1], ("LLAMA_ARG_MODEL_URL", &file)];
    assert_eq!(completed("", &variables), right);
}
