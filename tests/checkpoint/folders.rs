//! Where a model is looked for.

use crate::files::{assert_refused, open, tiny, write};
use plateau::checkpoint::{ByteSource, Checkpoint, Folder, LoadErrorKind};
use pollster::block_on;
use std::path::Path;

#[test]
fn a_folder_is_found_by_its_path() {
    let folder = tiny().write();
    let path = folder.path().display().to_string();
    let found = Folder::resolve_in(&path, None).expect("there");
    assert_eq!(found.name(), path);
    assert!(
        found.contains("config.json")
            && !found.contains("pytorch_model.bin")
            && !found.contains("../config.json")
    );
}

#[test]
fn what_is_not_there_is_named_with_where_it_was_looked_for() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let refused = |model: &str, parts: &[&str]| {
        assert_refused(
            Folder::resolve_in(model, Some(cache.path())),
            LoadErrorKind::NotFound,
            parts,
        );
    };
    refused("no-such-folder", &["no-such-folder", "owner/name"]);
    refused("./no/such/folder", &["./no/such/folder", "owner/name"]);
    refused("../secret", &["../secret", "owner/name"]);
    refused(
        "owner/name",
        &["owner/name", "models--owner--name", "Hugging Face cache"],
    );

    let folder = tiny().write();
    let file = folder
        .path()
        .join("model.safetensors")
        .display()
        .to_string();
    assert_refused(
        Folder::resolve_in(&file, None),
        LoadErrorKind::Invalid,
        &[&file, "found a file", "a folder"],
    );
}

/// A cache entry; `revision` is what `refs/main` says.
fn cache_with(revision: &str) -> tempfile::TempDir {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let entry = cache.path().join("models--owner--tiny.1");
    std::fs::create_dir_all(entry.join("refs")).expect("made");
    std::fs::create_dir_all(entry.join("snapshots")).expect("made");
    write(&entry.join("refs"), "main", revision.as_bytes());
    cache
}

#[test]
fn an_entry_of_the_cache_is_its_main_snapshot() {
    let cache = cache_with("0123abcd\n");
    let entry = cache.path().join("models--owner--tiny.1");
    let missing = Folder::resolve_in("owner/tiny.1", Some(cache.path()));
    assert_refused(
        missing,
        LoadErrorKind::NotFound,
        &["owner/tiny.1", "snapshots", "0123abcd"],
    );

    let model = tiny().write();
    let snapshot = entry.join("snapshots").join("0123abcd");
    std::fs::create_dir_all(&snapshot).expect("made");
    for file in ["config.json", "model.safetensors"] {
        link_as_the_hub_does(
            &model.path().join(file),
            &entry.join("blobs"),
            &snapshot.join(file),
        );
    }
    let found = Folder::resolve_in("owner/tiny.1", Some(cache.path())).expect("there");
    block_on(Checkpoint::open(found)).expect("links into the blobs are files of the folder");
}

#[cfg(unix)]
fn link_as_the_hub_does(from: &Path, blobs: &Path, to: &Path) {
    std::fs::create_dir_all(blobs).expect("made");
    let name = to.file_name().expect("a file").to_owned();
    std::fs::copy(from, blobs.join(&name)).expect("copied");
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), to).expect("linked");
}

#[cfg(not(unix))]
fn link_as_the_hub_does(from: &Path, _blobs: &Path, to: &Path) {
    std::fs::copy(from, to).expect("copied");
}

#[test]
fn a_revision_that_leaves_the_cache_is_refused() {
    for revision in ["../../..", "", "a/b", &"a/".repeat(1000)] {
        let cache = cache_with(revision);
        let found = Folder::resolve_in("owner/tiny.1", Some(cache.path()));
        assert_refused(
            found,
            LoadErrorKind::Invalid,
            &["refs", "main", "the name of a snapshot"],
        );
    }
}

#[test]
fn a_folder_without_weights_says_what_it_looked_for() {
    let folder = tiny().write();
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    assert_refused(
        open(folder.path()),
        LoadErrorKind::NotFound,
        &["model.safetensors or model.safetensors.index.json"],
    );
}

#[test]
fn a_folder_in_the_place_of_a_file_is_refused() {
    let folder = tiny().write();
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    std::fs::create_dir(folder.path().join("model.safetensors")).expect("made");
    assert_refused(
        open(folder.path()),
        LoadErrorKind::Invalid,
        &["model.safetensors", "found a folder", "a file"],
    );
}

#[test]
fn sources_are_read_at_positions_and_no_further() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "bytes", b"0123456789");
    let file = ByteSource::open(&folder.path().join("bytes")).expect("there");
    let memory = ByteSource::Memory {
        name: "memory/bytes".to_owned(),
        bytes: b"0123456789",
    };
    for source in [file, memory] {
        let mut buffer = [0; 4];
        block_on(source.read_at(6, &mut buffer)).expect("in range");
        assert_eq!(&buffer, b"6789");
        block_on(source.read_at(10, &mut [])).expect("nothing is there");
        for offset in [7, 11, u64::MAX] {
            let result = block_on(source.read_at(offset, &mut buffer));
            let what = format!("read of 4 bytes at offset {offset}");
            assert_refused(
                result,
                LoadErrorKind::Invalid,
                &["bytes", &what, "the end of the file at 10"],
            );
        }
    }
}

#[test]
fn the_builtin_model_is_whole() {
    const MOST_BYTES: usize = 12 << 20;
    let builtin = Folder::builtin();
    let Folder::Embedded { files, .. } = &builtin else {
        panic!("it is in the binary")
    };
    assert!(files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= MOST_BYTES);
    let checkpoint = block_on(Checkpoint::open(builtin.clone())).expect("valid");
    assert!(checkpoint.quantization.is_some());
    let tokenizer = block_on(plateau::tokenizer::Tokenizer::load(&builtin)).expect("valid");
    tokenizer
        .check_vocab(&checkpoint.config)
        .expect("ids are rows of the embedding");
    let ids = tokenizer.encode("Once upon a time", true).expect("encoded");
    assert_eq!(ids.first().copied(), checkpoint.generation.bos_token_id);
    assert_eq!(tokenizer.decode(&ids).expect("decoded"), "Once upon a time");
    assert_refused(
        builtin.open("nothing.json"),
        LoadErrorKind::NotFound,
        &["nothing.json", "builtin:"],
    );
}
