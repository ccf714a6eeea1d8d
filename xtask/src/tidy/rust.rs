//! Rules for one Rust file.

use super::Problem;
use super::text::{File, has_word};

/// The only place that names wgpu, and the only one that makes tolerances.
const GPU_FOLDER: &str = "engine/src/exec/gpu";
const TOLERANCES: &str = "tests/support/tolerance.rs";

pub fn check(file: &File, problems: &mut Vec<Problem>) {
    let mut problem = |line: usize, what: &str| problems.push(Problem::new(&file.path, line, what));

    if !file.text.starts_with("//!") {
        problem(1, "must start with a //! line that says what the file is");
    }
    for (line, code) in file.code_lines() {
        if has_word(code, "wgpu") && !file.path.starts_with(GPU_FOLDER) {
            problem(line, "wgpu is named in engine/src/exec/gpu only");
        }
        if code.contains(concat!("dbg", "!(")) || code.contains(concat!("todo", "!(")) {
            problem(line, "left over from writing the code");
        }
        if code.contains("#[allow(") || code.contains("#![allow(") {
            problem(
                line,
                "use #[expect(…, reason = \"…\")]: it fails when it is not needed any more",
            );
        }
        if file.path.starts_with("tests/") && file.path != TOLERANCES && has_tolerance(code) {
            problem(
                line,
                "a tolerance comes from tests/support/tolerance.rs, where it has a name and a reason",
            );
        }
    }
    for at in ["#[expect(", "#![expect("]
        .iter()
        .flat_map(|open| file.code.match_indices(open))
        .map(|(at, _)| at)
    {
        let end = file.code[at..]
            .find(")]")
            .map_or(file.code.len(), |length| at + length);
        if !has_word(&file.code[at..end], "reason") {
            problem(file.line_of(at), "#[expect] needs a reason");
        }
    }
    for (line, comment) in &file.comments {
        if is_code(comment) {
            problem(*line, "code in a comment: git keeps what was");
        }
    }
}

/// A comparison with a small literal, or a tolerance made on the spot.
fn has_tolerance(code: &str) -> bool {
    let compares = [" < ", " <= ", " > ", " >= "]
        .iter()
        .any(|operator| code.contains(operator));
    let small_literal = code.match_indices("e-").any(|(at, _)| {
        code[..at].ends_with(|c: char| c.is_ascii_digit() || c == '.')
            && code[at + 2..].starts_with(|c: char| c.is_ascii_digit())
    });
    (compares && small_literal) || code.contains("Tolerance {")
}

/// Whether a plain comment looks like a statement. Docs may hold examples.
fn is_code(comment: &str) -> bool {
    let Some(text) = comment.strip_prefix("//").map(str::trim) else {
        return false;
    };
    if comment.starts_with("///") || comment.starts_with("//!") {
        return false;
    }
    let starts = [
        "let ", "use ", "fn ", "pub ", "if ", "for ", "while ", "match ", "return", "mod ", "impl ",
    ];
    let statement = starts.iter().any(|start| text.starts_with(start))
        || text.contains(" = ")
        || text.ends_with(");");
    let opens = starts.iter().any(|start| text.starts_with(start)) && text.ends_with('{');
    (text.ends_with(';') && statement) || opens || ["}", "},", "};", "})", "});"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut problems = Vec::new();
        check(&File::new(path, text), &mut problems);
        problems.iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn a_clean_file_has_no_problem() {
        let text = "//! A file.\n\n// Weights are read once; then\n// they stay (see load).\n\
                    #[expect(dead_code, reason = \"later\")]\nfn f() -> &'static str {\n    \"wgpu dbg\"\n}\n";
        assert_eq!(lines("engine/src/a.rs", text), [0; 0]);
    }

    #[test]
    fn each_rule_finds_its_problem() {
        assert_eq!(lines("engine/src/a.rs", "fn f() {}\n"), [1]);
        assert_eq!(lines("engine/src/a.rs", "//! A.\nuse wgpu::Device;\n"), [2]);
        assert_eq!(
            lines("engine/src/exec/gpu/a.rs", "//! A.\nuse wgpu::Device;\n"),
            [0; 0]
        );
        assert_eq!(
            lines(
                "engine/src/a.rs",
                "//! A.\n#[allow(dead_code)]\nfn f() {}\n"
            ),
            [2]
        );
        assert_eq!(
            lines(
                "engine/src/a.rs",
                "//! A.\n#[expect(dead_code)]\nfn f() {}\n"
            ),
            [2]
        );
        assert_eq!(
            lines("engine/src/a.rs", "//! A.\n// let x = 1;\n// }\n"),
            [2, 3]
        );
        assert_eq!(
            lines("tests/a.rs", "//! A.\nassert!(x.abs() < 1e-5);\n"),
            [2]
        );
        assert_eq!(lines("tests/a.rs", "//! A.\nlet scale = 1e-5;\n"), [0; 0]);
    }
}
