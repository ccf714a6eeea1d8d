//! Rules for pages: the paths that they name exist.

use super::Problem;
use super::text::File;
use std::path::Path;

/// Where a path may start, besides the folder of the page.
const STARTS: [&str; 2] = ["", "engine/src"];
const EXTENSIONS: [&str; 7] = [
    ".rs",
    ".wgsl",
    ".md",
    ".py",
    ".toml",
    ".json",
    ".safetensors",
];

pub fn check(file: &File, root: &Path, problems: &mut Vec<Problem>) {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let exists = |path: &str| {
        let path = path.split('#').next().unwrap_or(path);
        root.join(folder).join(path).exists()
            || STARTS
                .iter()
                .any(|start| root.join(start).join(path).exists())
    };
    let mut in_block = false;
    for (line, text) in file.lines() {
        if text.starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        let quoted = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|span| is_path(span));
        let linked = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let linked = linked.filter(|link| !link.contains("://") && !link.starts_with('#'));
        for path in quoted.chain(linked).filter(|path| !exists(path)) {
            problems.push(Problem::new(
                &file.path,
                line,
                format!("there is no {path}"),
            ));
        }
    }
}

/// Whether a quoted span can only mean a file or a folder.
fn is_path(span: &str) -> bool {
    let plain = span
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
    let relative = !span.starts_with(['/', '.']) || span.starts_with("../");
    plain
        && relative
        && span.contains('/')
        && (span.ends_with('/') || EXTENSIONS.iter().any(|end| span.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_other_spans() {
        assert!(is_path("shaders/src/lib.rs"));
        assert!(is_path("tests/golden/"));
        assert!(!is_path("config.json"));
        assert!(!is_path("shaders/src/<folder>/<kernel>.rs"));
        assert!(!is_path("owner/model"));
        assert!(!is_path("/dev/dri/"));
    }
}
