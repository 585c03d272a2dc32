//! Files of a hub and of the web.

use std::fs;

use super::server::{COMMIT, Page, Server};
use super::{Home, model};
use translora::fetch::{FetchError, Wanted};
use translora::record::ContentHash;

fn read(path: &std::path::Path) -> Vec<u8> {
    fs::read(path).expect("it is there")
}

/// The names of all files below a folder.
fn below(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>());
    for entry in entries.unwrap_or_default() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_file_of_a_hub_is_fetched_once_and_kept_as_the_hub_keeps_it() {
    let server = Server::start();
    let (small, large) = (model(100), model(20_000));
    let files = [
        ("m-Q4_K_M.gguf", small.clone()),
        ("m-Q8_0.gguf", large.clone()),
        ("README.md", b"# m".to_vec()),
    ];
    server.repository("me/lab", &files, None);
    let mut home = Home::new(&server.url());
    let mut seen = Vec::new();
    let name = std::path::Path::new("hf:me/lab:Q8_0");
    let found = home
        .finder
        .find(name, Wanted::Model, &mut |file, here, of| {
            seen.push((file.to_owned(), here, of));
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(read(&found) == large);
    let bytes = large.len() as u64;
    assert_eq!(
        seen.last(),
        Some(&("m-Q8_0.gguf".to_owned(), bytes, Some(bytes)))
    );
    // The layout of the hub's own programs.
    let repo = home.finder.hub_cache.join("models--me--lab");
    assert_eq!(
        found,
        repo.join("snapshots").join(COMMIT).join("m-Q8_0.gguf")
    );
    let blob = repo.join("blobs").join(ContentHash::of(&large).to_string());
    assert_eq!(
        found.canonicalize().expect("a link"),
        blob.canonicalize().expect("there")
    );
    assert_eq!(read(&repo.join("refs/main")), COMMIT.as_bytes());
    assert_eq!(below(&repo.join("blobs")).len(), 1);

    // Without a file the usual quantization, as llama-server has it.
    server.requests();
    let usual = home.find("hf:me/lab", Wanted::Model).expect("it is there");
    assert!(read(&usual) == small);
    assert_eq!(
        home.find("hf:me/lab:m-Q8_0.gguf", Wanted::Model)
            .expect("kept"),
        found
    );
    let fetched = server.requests();
    let large = fetched
        .iter()
        .filter(|request| request.path.ends_with("m-Q8_0.gguf"));
    assert_eq!(large.count(), 0, "{fetched:?}");

    home.finder.offline = true;
    assert_eq!(
        home.find("hf:me/lab:Q8_0", Wanted::Model).expect("kept"),
        found
    );
    home.refused(
        "hf:me/other",
        Wanted::Model,
        &["hf:me/other", "not on this disk"],
    );
    assert_eq!(server.requests(), []);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let (server, store) = (Server::start(), Server::start());
    let bytes = model(3000);
    server.repository("me/own", &[("m.gguf", bytes.clone())], Some("hf_secret"));
    let file = format!("/me/own/resolve/{COMMIT}/m.gguf");
    // Another host than the hub's, though it is this machine.
    let elsewhere = store.url().replace("127.0.0.1", "localhost") + "/blob";
    server.change(&file, |page| page.elsewhere = Some(elsewhere));
    store.put(
        "/blob",
        Page {
            bytes: bytes.clone(),
            ..Page::default()
        },
    );
    let mut home = Home::new(&server.url());
    home.refused(
        "hf:me/own",
        Wanted::Model,
        &["answers 401", "no token was sent"],
    );
    home.finder.token = Some("hf_wrong".into());
    home.refused(
        "hf:me/own",
        Wanted::Model,
        &["the token that was sent may not read it"],
    );
    home.finder.token = Some("hf_secret".into());
    let found = home
        .find("hf:me/own", Wanted::Model)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(read(&found) == bytes);
    let requests = store.requests();
    assert!(requests.len() == 1, "{requests:?}");
    assert!(requests[0].token.is_none(), "{requests:?}");
}

#[test]
fn a_cut_connection_is_gone_on_with() {
    let server = Server::start();
    let bytes = model(50_000);
    server.repository("me/lab", &[("m.gguf", bytes.clone())], None);
    let file = format!("/me/lab/resolve/{COMMIT}/m.gguf");
    server.change(&file, |page| page.cuts = 3);
    let home = Home::new(&server.url());
    let found = home
        .find("hf:me/lab", Wanted::Model)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(read(&found) == bytes);
    let ranges: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.path == file)
        .collect();
    let half = bytes.len() / 2;
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert_eq!(ranges[0].range, None);
    assert_eq!(ranges[1].range, Some(format!("bytes={half}-")));
    assert!(
        ranges[1..].iter().all(|request| request.status == 206),
        "{ranges:?}"
    );

    // What arrived before this process is gone on with too.
    let home = Home::new(&server.url());
    let blob = format!("hub/models--me--lab/blobs/{}", ContentHash::of(&bytes));
    home.write(&format!("{blob}.part"), &bytes[..1000]);
    assert!(read(&home.find("hf:me/lab", Wanted::Model).expect("fetched")) == bytes);
    let requests = server.requests();
    let last = requests.last().expect("it was fetched");
    assert_eq!(last.range.as_deref(), Some("bytes=1000-"));
    assert_eq!(
        below(&home.finder.hub_cache)
            .iter()
            .filter(|f| f.ends_with(".part"))
            .count(),
        0
    );
}

#[test]
fn what_is_not_the_file_is_refused_and_nothing_is_left() {
    let server = Server::start();
    let bytes = model(3000);
    server.repository("me/lab", &[("m.gguf", bytes.clone())], None);
    let file = format!("/me/lab/resolve/{COMMIT}/m.gguf");
    let home = Home::new(&server.url());
    server.change(&file, |page| page.bytes[2000] ^= 1);
    home.refused(
        "hf:me/lab",
        Wanted::Model,
        &[
            "not the file",
            "SHA-256",
            &ContentHash::of(&bytes).to_string(),
        ],
    );
    assert_eq!(below(&home.finder.hub_cache), [] as [String; 0]);
    server.change(&file, |page| page.bytes.truncate(2500));
    home.refused("hf:me/lab", Wanted::Model, &["not the file", "size"]);
    assert_eq!(below(&home.finder.hub_cache), [] as [String; 0]);
    server.change(&file, |page| page.kind = "text/html; charset=utf-8");
    home.refused("hf:me/lab", Wanted::Model, &["is a web page"]);
    // Once the file is right it is fetched.
    server.change(&file, |page| (page.bytes, page.kind) = (bytes.clone(), ""));
    assert!(read(&home.find("hf:me/lab", Wanted::Model).expect("whole")) == bytes);
}

#[test]
fn a_name_that_stands_for_nothing_is_refused_with_what_there_is() {
    let server = Server::start();
    server.repository(
        "me/lab",
        &[("a.gguf", model(1)), ("b.gguf", model(2))],
        None,
    );
    let home = Home::new(&server.url());
    home.refused("hf:me/none", Wanted::Model, &["hf:me/none", "404"]);
    home.refused(
        "hf:me/lab",
        Wanted::Model,
        &["not said which file", "a.gguf, b.gguf"],
    );
    home.refused(
        "hf:me/lab:c.gguf",
        Wanted::Model,
        &["there is no c.gguf", "a.gguf, b.gguf"],
    );
    home.refused(&format!("{}/x.gguf", server.url()), Wanted::Model, &["404"]);
    let gone = Home::new("http://127.0.0.1:9");
    let error = gone
        .find("hf:me/lab", Wanted::Model)
        .expect_err("nobody listens");
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    server.put(
        "/api/models/me/odd/revision/main",
        Page {
            bytes: b"<html>".to_vec(),
            ..Page::default()
        },
    );
    home.refused("hf:me/odd", Wanted::Model, &["not that of a hub"]);
    let out =
        format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"../../m.gguf\"}}]}}");
    server.put(
        "/api/models/me/odd/revision/main",
        Page {
            bytes: out.into_bytes(),
            ..Page::default()
        },
    );
    home.refused(
        "hf:me/odd",
        Wanted::Model,
        &["names files that no repository has"],
    );
}

#[test]
fn an_adapter_is_a_folder_and_a_split_model_all_its_parts() {
    let server = Server::start();
    let peft = [
        ("adapter_config.json", b"{}".to_vec()),
        ("adapter_model.safetensors", vec![7; 300]),
        ("tokenizer.json", b"{\"x\": 1}".to_vec()),
        ("README.md", b"#".to_vec()),
    ];
    server.repository("me/peft", &peft, None);
    let parts = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
    server.repository(
        "me/split",
        &[(parts[0], model(10)), (parts[1], model(20))],
        None,
    );
    let home = Home::new(&server.url());
    let folder = home
        .find("hf:me/peft", Wanted::Adapter)
        .unwrap_or_else(|e| panic!("{e}"));
    let mut names: Vec<_> = below(&folder);
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    for (name, bytes) in &peft[..3] {
        assert!(read(&folder.join(name)) == *bytes, "{name}");
    }
    let first = home
        .find("hf:me/split", Wanted::Model)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(first.ends_with(parts[0]), "{first:?}");
    assert!(read(&first.with_file_name("m-00002-of-00002.gguf")) == model(20));
}

#[test]
fn a_file_of_the_web_is_kept_as_long_as_its_address_has_it() {
    let server = Server::start();
    let (old, new) = (model(30_000), model(31_000));
    let page = |bytes: &[u8], etag: &str| Page {
        bytes: bytes.to_vec(),
        etag: format!("\"{etag}\""),
        ..Page::default()
    };
    server.put("/m.gguf", page(&old, "one"));
    let mut home = Home::new("https://hub.invalid");
    let url = format!("{}/m.gguf", server.url());
    let find = |home: &Home| {
        home.find(&url, Wanted::Model)
            .unwrap_or_else(|e| panic!("{e}"))
    };
    assert!(read(&find(&home)) == old);
    assert!(read(&find(&home)) == old);
    let statuses: Vec<u16> = server
        .requests()
        .iter()
        .map(|request| request.status)
        .collect();
    assert_eq!(statuses, [200, 304]);
    // A part of the old file is no beginning of the new one.
    server.put("/m.gguf", page(&old, "one and a half"));
    server.change("/m.gguf", |page| page.cuts = 1);
    let part = find(&home).with_extension("gguf.part");
    assert!(!part.exists());
    server.put("/m.gguf", page(&new, "two"));
    fs::write(&part, &old[..5000]).expect("writable");
    fs::write(part.with_extension("part.etag"), "\"one\"").expect("writable");
    assert!(read(&find(&home)) == new);
    home.finder.offline = true;
    assert!(read(&find(&home)) == new);
    home.refused(
        &format!("{}/other.gguf", server.url()),
        Wanted::Model,
        &["not on this disk"],
    );

    let home = Home::new("https://hub.invalid");
    let (right, wrong) = (ContentHash::of(&new), ContentHash::of(&old));
    home.refused(
        &format!("{url}#sha256={wrong}"),
        Wanted::Model,
        &["not the file", &right.to_string()],
    );
    let found = home
        .find(&format!("{url}#sha256={right}"), Wanted::Model)
        .expect("right");
    assert!(read(&found) == new);
    server.put(
        "/page",
        Page {
            kind: "text/html",
            ..page(b"<html>", "x")
        },
    );
    home.refused(
        &format!("{}/page", server.url()),
        Wanted::Model,
        &["is a web page"],
    );
}

#[test]
fn a_page_of_the_hub_stands_for_its_file_and_parts_come_together() {
    let server = Server::start();
    server.put(
        "/me/lab/resolve/main/m.gguf",
        Page {
            bytes: model(5),
            ..Page::default()
        },
    );
    for (part, size) in [("1", 6), ("2", 7)] {
        let path = format!("/x/m-0000{part}-of-00002.gguf");
        server.put(
            &path,
            Page {
                bytes: model(size),
                ..Page::default()
            },
        );
    }
    let home = Home::new(&server.url());
    let find = |path: &str| {
        let url = format!("{}/{path}", server.url());
        home.find(&url, Wanted::Model)
            .unwrap_or_else(|e| panic!("{e}"))
    };
    assert!(read(&find("me/lab/blob/main/m.gguf")) == model(5));
    let first = find("x/m-00001-of-00002.gguf");
    assert!(read(&first) == model(6));
    assert!(read(&first.with_file_name("m-00002-of-00002.gguf")) == model(7));
}
