//! Who may use whom: crates, and the modules of the engine.

use super::Problem;
use super::text::{File, identifier};

/// What each crate may depend on, of ours. The library is above the kernels and below everything else.
const CRATES: [(&str, &[&str]); 6] = [
    ("shaders", &[]),
    ("engine", &["plateau-shaders"]),
    ("cli", &["plateau", "plateau-shaders", "plateau-tests"]),
    ("tests", &["plateau", "plateau-shaders"]),
    ("benches", &["plateau", "plateau-shaders", "plateau-tests"]),
    ("xtask", &["plateau-shaders"]),
];

/// What each module of the engine may import of the others. A plan knows no device, a model knows no executor, and nothing
/// that runs a model knows how it was quantized. `lib.rs` names them all.
const MODULES: [(&str, &[&str]); 12] = [
    ("tensor", &[]),
    ("plan", &["tensor"]),
    ("exec", &["plan", "tensor"]),
    ("ops", &["plan", "tensor"]),
    ("checkpoint", &["tensor"]),
    ("model", &["checkpoint", "ops", "plan", "sampler", "tensor"]),
    ("tokenizer", &["checkpoint"]),
    ("sampler", &[]),
    (
        "session",
        &[
            "checkpoint",
            "error",
            "exec",
            "model",
            "ops",
            "plan",
            "sampler",
            "tensor",
            "tokenizer",
        ],
    ),
    (
        "eval",
        &[
            "checkpoint",
            "error",
            "exec",
            "model",
            "plan",
            "sampler",
            "session",
            "tensor",
            "tokenizer",
        ],
    ),
    ("error", &["checkpoint", "exec", "model", "session"]),
    (
        "quantize",
        &[
            "checkpoint",
            "error",
            "eval",
            "exec",
            "model",
            "ops",
            "plan",
            "session",
            "tensor",
        ],
    ),
];

const ENGINE: &str = "engine/src/";

pub fn check(files: &[File], problems: &mut Vec<Problem>) {
    for file in files {
        if let Some(folder) = file.path.strip_suffix("/Cargo.toml") {
            check_crate(file, folder, problems);
        }
        if let Some(path) = file
            .path
            .strip_prefix(ENGINE)
            .filter(|path| path.ends_with(".rs") && *path != "lib.rs")
        {
            check_module(file, identifier(path), problems);
        }
    }
}

fn check_crate(file: &File, folder: &str, problems: &mut Vec<Problem>) {
    let Some((_, allowed)) = CRATES.iter().find(|(name, _)| *name == folder) else {
        problems.push(Problem::new(
            &file.path,
            0,
            "the crate is not in the table of xtask/src/tidy/imports.rs",
        ));
        return;
    };
    for (line, text) in file.lines() {
        // `plateau.workspace = true`, `plateau = { … }`; not `name = "plateau"`
        let dependency = &text[..text.find(['.', ' ', '=']).unwrap_or(text.len())];
        if dependency.starts_with("plateau") && !allowed.contains(&dependency) {
            problems.push(Problem::new(
                &file.path,
                line,
                format!("{folder} may not depend on {dependency}"),
            ));
        }
        if dependency == "wgpu" && folder != "engine" {
            problems.push(Problem::new(
                &file.path,
                line,
                "only engine depends on wgpu",
            ));
        }
    }
}

fn check_module(file: &File, module: &str, problems: &mut Vec<Problem>) {
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
        let what = format!("module {module} is not in the table of xtask/src/tidy/imports.rs");
        problems.push(Problem::new(&file.path, 0, what));
        return;
    };
    for (at, path) in file.code.match_indices("crate::") {
        for name in first_names(&file.code[at + path.len()..]) {
            let imported = if name == "Error" { "error" } else { name };
            if imported != module && !allowed.contains(&imported) {
                problems.push(Problem::new(
                    &file.path,
                    file.line_of(at),
                    format!("{module} may not use {imported}"),
                ));
            }
        }
    }
}

/// The first names of the path, or of the group of paths, that `text` starts with.
fn first_names(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else {
        return vec![identifier(text)];
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut expects_name = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            c if expects_name && depth == 0 && !c.is_whitespace() => {
                names.push(identifier(&group[at..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check(&[File::new(path, text)], &mut problems);
        problems.into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn a_module_imports_only_what_its_row_has() {
        assert_eq!(
            problems(
                "engine/src/model/llama.rs",
                "use crate::ops;\nuse crate::{plan::Plan, tensor};\n"
            ),
            [""; 0]
        );
        assert_eq!(
            problems("engine/src/model/llama.rs", "use crate::exec::Executor;\n"),
            ["model may not use exec"]
        );
        assert_eq!(
            problems(
                "engine/src/plan/mod.rs",
                "use crate::{\n    ops::{self, linear},\n    tensor::Bits,\n};\n"
            ),
            ["plan may not use ops"]
        );
        assert_eq!(
            problems(
                "engine/src/session.rs",
                "// crate::quantize\nuse crate::Error;\n"
            ),
            [""; 0]
        );
        assert_eq!(
            problems("engine/src/session.rs", "crate::quantize::run()\n"),
            ["session may not use quantize"]
        );
    }

    #[test]
    fn nothing_that_runs_a_model_imports_quantize() {
        assert!(
            MODULES
                .iter()
                .all(|(_, allowed)| !allowed.contains(&"quantize"))
        );
    }

    #[test]
    fn a_crate_depends_only_on_what_its_row_has() {
        assert_eq!(
            problems(
                "cli/Cargo.toml",
                "name = \"plateau-cli\"\nplateau.workspace = true\n"
            ),
            [""; 0]
        );
        assert_eq!(
            problems("xtask/Cargo.toml", "plateau.workspace = true\n"),
            ["xtask may not depend on plateau"]
        );
        assert_eq!(
            problems("tests/Cargo.toml", "wgpu.workspace = true\n"),
            ["only engine depends on wgpu"]
        );
    }
}
