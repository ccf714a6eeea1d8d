//! Tokenizers: ids, text, and text as it comes.

use crate::files::{assert_refused, byte_characters, byte_level_tokenizer, open, tiny, write};
use plateau::checkpoint::{Folder, LoadErrorKind};
use plateau::tokenizer::Tokenizer;
use plateau_tests::Rng;
use pollster::block_on;
use serde_json::{Map, Value, json};
use std::path::Path;

fn load(folder: &Path) -> Result<Tokenizer, plateau::checkpoint::LoadError> {
    block_on(Tokenizer::load(&Folder::Disk(folder.to_owned())))
}

fn tokenizer(json: &str) -> Tokenizer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "tokenizer.json", json.as_bytes());
    load(folder.path()).unwrap_or_else(|error| panic!("{error}"))
}

/// Byte-level: every byte is a token, id = byte.
fn every_byte() -> Tokenizer {
    let words: Vec<String> = byte_characters().iter().map(char::to_string).collect();
    tokenizer(&byte_level_tokenizer(&words))
}

/// As Llama 2's: spaces are U+2581, what has no token falls back to bytes, one space is taken off the front.
/// Returns the ids of `words` too.
fn metaspace(words: &[&str], decoder: Value) -> Tokenizer {
    let mut vocab = Map::new();
    for special in ["<unk>", "<s>", "</s>"] {
        vocab.insert(special.to_owned(), vocab.len().into());
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    for word in words {
        vocab.insert((*word).to_owned(), vocab.len().into());
    }
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    let json = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" },
        ] },
        "decoder": decoder,
        "model": {
            "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
        },
    });
    tokenizer(&json.to_string())
}

fn llama_decoder() -> Value {
    json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ] })
}

/// What a stream gives at each push, and at the end.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<String> = ids
        .iter()
        .map(|&id| stream.push(id).expect("decoded"))
        .collect();
    pieces.push(stream.finish().expect("decoded"));
    pieces
}

#[track_caller]
fn assert_streams_as_decoded(tokenizer: &Tokenizer, ids: &[u32]) {
    assert_eq!(
        streamed(tokenizer, ids).concat(),
        tokenizer.decode(ids).expect("decoded"),
        "{ids:?}"
    );
}

#[test]
fn characters_of_several_tokens_come_whole() {
    let tokenizer = every_byte();
    let text = "a €🦀é\u{fffd}.";
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    assert_eq!(tokenizer.decode(&ids).expect("decoded"), text);
    let pieces = streamed(&tokenizer, &ids);
    assert_eq!(pieces[..9], ["a", " ", "", "", "€", "", "", "", "🦀"]);
    assert_eq!(pieces.concat(), text);
}

#[test]
fn bytes_that_never_become_a_character_come_at_the_end() {
    let tokenizer = every_byte();
    assert_eq!(
        streamed(&tokenizer, &[0x61, 0xe2, 0x82]),
        ["a", "", "", "\u{fffd}"]
    );
    // Followed by something else they are settled.
    assert_eq!(
        streamed(&tokenizer, &[0xe2, 0x82, 0x61]),
        ["", "", "\u{fffd}a", ""]
    );
    // No token of a long run of them is waited for without end.
    let garbage = vec![0xff; 1000];
    let pieces = streamed(&tokenizer, &garbage);
    assert!(pieces[..500].iter().any(|piece| !piece.is_empty()));
    assert_streams_as_decoded(&tokenizer, &garbage);
}

#[test]
fn a_byte_level_stream_is_the_decoded_text() {
    let tokenizer = every_byte();
    let mut rng = Rng::new(5);
    for _ in 0..20 {
        // Any bytes at all, and then text in many scripts.
        let noise: Vec<u32> = (0..300).map(|_| rng.below(256)).collect();
        assert_streams_as_decoded(&tokenizer, &noise);
        let text: String = (0..300)
            .filter_map(|_| char::from_u32(rng.below(0x1_1000)))
            .collect();
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_streams_as_decoded(&tokenizer, &ids);
    }
}

#[test]
fn a_metaspace_stream_is_the_decoded_text() {
    let words = [
        "\u{2581}",
        "\u{2581}a",
        "a",
        "\u{2581}the",
        ".",
        "\u{2581}\u{2581}\u{2581}",
    ];
    let first = 3 + 256;
    let metaspace_decoder =
        json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always" });
    for decoder in [llama_decoder(), metaspace_decoder] {
        let tokenizer = metaspace(&words, decoder);
        assert_eq!(tokenizer.vocab_size(), first + 6);
        assert_eq!(
            tokenizer
                .decode(&[1, first + 1, first + 3, first + 4])
                .expect("decoded"),
            "a the."
        );
        let mut rng = Rng::new(6);
        for _ in 0..50 {
            // Special tokens, which have no text, stand anywhere.
            let ids: Vec<u32> = (0..200)
                .map(|_| {
                    if rng.below(8) == 0 {
                        1 + rng.below(2)
                    } else {
                        first + rng.below(6)
                    }
                })
                .collect();
            assert_streams_as_decoded(&tokenizer, &ids);
        }
        // Only spaces and nothing, for longer than a window.
        let spaces: Vec<u32> = (0..100)
            .map(|i| if i % 3 == 0 { 2 } else { first })
            .collect();
        assert_streams_as_decoded(&tokenizer, &[&spaces[..], &[first + 1]].concat());
    }
}

#[test]
fn characters_by_byte_fallback_come_whole() {
    let tokenizer = metaspace(&["\u{2581}a"], llama_decoder());
    let byte = |byte: u8| 3 + u32::from(byte);
    let mut ids = vec![3 + 256];
    ids.extend("€€🦀".bytes().map(byte));
    ids.push(3 + 256);
    assert_streams_as_decoded(&tokenizer, &ids);
    assert_eq!(
        streamed(&tokenizer, &ids)[..7],
        ["a", "", "", "€", "", "", "€"]
    );
    // The decoder takes back the whole character before a broken one; the stream keeps it.
    let broken = [&ids[..4], &[byte(0xe2), 3 + 256]].concat();
    assert_eq!(
        tokenizer.decode(&broken).expect("decoded"),
        "a\u{fffd}\u{fffd}\u{fffd}\u{fffd} a"
    );
    assert!(
        streamed(&tokenizer, &broken)
            .concat()
            .starts_with("a€\u{fffd}")
    );
}

#[test]
fn a_tokenizer_that_is_missing_or_broken_is_an_error_of_its_file() {
    let mut model = tiny();
    model.tokenizer = None;
    let folder = model.write();
    open(folder.path()).expect("a model can be opened without its tokenizer");
    assert_refused(
        load(folder.path()),
        LoadErrorKind::NotFound,
        &["tokenizer.json", "not found"],
    );

    let whole = byte_level_tokenizer(&[]);
    let broken = [
        "",
        "{",
        "[]",
        "null",
        "{\"model\": 1}",
        "\u{0}",
        &whole[..whole.len() / 2],
    ];
    for text in broken {
        write(folder.path(), "tokenizer.json", text.as_bytes());
        assert_refused(
            load(folder.path()),
            LoadErrorKind::Invalid,
            &["tokenizer.json", "a tokenizer of"],
        );
    }
    let merges = whole.replace("\"merges\":[]", "\"merges\":[[\"a\",\"x\"]]");
    assert_ne!(merges, whole);
    write(folder.path(), "tokenizer.json", merges.as_bytes());
    assert_refused(
        load(folder.path()),
        LoadErrorKind::Invalid,
        &["tokenizer.json"],
    );
}

#[test]
fn no_flipped_byte_makes_the_tokenizer_panic() {
    let whole = byte_level_tokenizer(&[]).into_bytes();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut rng = Rng::new(12);
    for _ in 0..1000 {
        let mut spoiled = whole.clone();
        let at = rng.below(whole.len() as u32) as usize;
        spoiled[at] ^= 1 << rng.below(8);
        try_tokenizer(folder.path(), &spoiled);
    }
}

#[test]
fn no_odd_value_makes_the_tokenizer_panic() {
    let llama = json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": { "type": "Replace", "pattern": { "Regex": " +" }, "content": "\u{2581}" },
        "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "b" }, "behavior": "Isolated", "invert": false },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [3], "tokens": ["<s>"] } },
        },
        "decoder": llama_decoder(),
        "model": {
            "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 2, "<s>": 3 }, "merges": [["a", "b"]], "byte_fallback": true,
            "unk_token": null, "dropout": null, "fuse_unk": false, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        },
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(
        tokenizer(&llama.to_string())
            .encode("ab", true)
            .expect("encoded"),
        [3, 0, 1]
    );
    let byte_level: Value = serde_json::from_str(&byte_level_tokenizer(&[])).expect("JSON");
    for whole in [llama, byte_level] {
        let mut paths = Vec::new();
        every_path(&whole, String::new(), &mut paths);
        for path in &paths {
            for odd in [
                json!(null),
                json!(-1),
                json!(1e30),
                json!(u64::MAX),
                json!(""),
                json!("("),
                json!([]),
                json!({}),
                json!([[]]),
            ] {
                let mut spoiled = whole.clone();
                *spoiled.pointer_mut(path).expect("a path of it") = odd;
                try_tokenizer(folder.path(), spoiled.to_string().as_bytes());
            }
        }
        assert!(paths.len() > 15);
    }
}

fn every_path(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| every_path(value, format!("{path}/{key}"), paths)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, value)| every_path(value, format!("{path}/{i}"), paths)),
        _ => {}
    }
    paths.push(path);
}

/// Whatever comes of it, it does not panic.
fn try_tokenizer(folder: &Path, json: &[u8]) {
    write(folder, "tokenizer.json", json);
    if let Ok(tokenizer) = load(folder) {
        let _ = tokenizer
            .encode("abc a  b\u{e9}", true)
            .map(|ids| (tokenizer.decode(&ids), tokenizer.decode(&[0, 1, 2, 3])));
    }
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let words: Vec<String> = byte_characters()[..14]
        .iter()
        .map(char::to_string)
        .collect();
    let mut model = tiny();
    model.tokenizer = Some(byte_level_tokenizer(&words[..13]));
    let folder = model.write();
    let config = open(folder.path()).expect("valid").config;
    load(folder.path())
        .expect("valid")
        .check_vocab(&config)
        .expect("as many ids as rows");
    write(
        folder.path(),
        "tokenizer.json",
        byte_level_tokenizer(&words).as_bytes(),
    );
    let checked = load(folder.path()).expect("valid").check_vocab(&config);
    assert_refused(
        checked,
        LoadErrorKind::Invalid,
        &[
            "tokenizer.json",
            "found 14",
            "at most 13",
            "model.embed_tokens",
        ],
    );

    // An id far away counts by its size, not as one more.
    let far = byte_level_tokenizer(&[]).replace("\"a\":0", "\"a\":4000000000");
    write(folder.path(), "tokenizer.json", far.as_bytes());
    let checked = load(folder.path()).expect("valid").check_vocab(&config);
    assert_refused(
        checked,
        LoadErrorKind::Invalid,
        &["tokenizer.json", "found 4000000001"],
    );
}

#[test]
fn settings_for_training_batches_do_not_cut_a_text_off() {
    let mut json: Value = serde_json::from_str(&byte_level_tokenizer(&[])).expect("JSON");
    json["truncation"] =
        json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = json!({
        "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "a",
    });
    let ids = tokenizer(&json.to_string())
        .encode("abcabc", true)
        .expect("encoded");
    assert_eq!(ids, [0, 1, 2, 0, 1, 2]);
}
