//! Rules for the kernels: pairs of files, the table, the cases, and helpers that stand in several files.

use super::Problem;
use super::text::{File, has_word, identifier};
use std::collections::BTreeMap;

const FOLDER: &str = "shaders/src/";
const CASES: &str = "tests/support/cases/";

/// The body of a family of kernels, in a part that they share: an entry point of a few lines calls it. Each family has its own.
const BODY: &str = "run";

/// A row of `plateau_shaders::KERNELS`.
pub struct KernelText {
    pub name: String,
    /// The texts that are joined.
    pub parts: Vec<String>,
}

pub fn check(files: &[File], kernels: &[KernelText], problems: &mut Vec<Problem>) {
    let shaders: Vec<&File> = files
        .iter()
        .filter(|file| file.path.starts_with(FOLDER))
        .collect();
    let wgsl: Vec<&File> = shaders
        .iter()
        .copied()
        .filter(|file| file.path.ends_with(".wgsl"))
        .collect();
    let cases: Vec<&File> = files
        .iter()
        .filter(|file| file.path.starts_with(CASES))
        .collect();

    for kernel in kernels {
        check_kernel(kernel, &shaders, &wgsl, &cases, problems);
    }
    for file in &shaders {
        let defines_kernel =
            file.path.ends_with(".rs") && file.code.contains("pub const KERNEL: Kernel");
        if defines_kernel && !kernels.iter().any(|kernel| kernel.name == file.stem()) {
            problems.push(Problem::new(
                &file.path,
                0,
                "the kernel has no row in KERNELS of shaders/src/lib.rs",
            ));
        }
    }
    for file in &wgsl {
        if !kernels
            .iter()
            .any(|kernel| kernel.parts.contains(&file.text))
        {
            problems.push(Problem::new(
                &file.path,
                0,
                "no kernel in KERNELS has this text",
            ));
        }
        // A part may begin with an empty line, to stand apart where it is joined.
        if !file.text.trim_start().starts_with("// ") {
            problems.push(Problem::new(
                &file.path,
                1,
                "must start with a header: formula and shapes, or what the part does",
            ));
        }
    }
    check_copies(&wgsl, kernels, problems);
}

fn check_kernel(
    kernel: &KernelText,
    shaders: &[&File],
    wgsl: &[&File],
    cases: &[&File],
    problems: &mut Vec<Problem>,
) {
    let name = &kernel.name;
    let twin = shaders
        .iter()
        .find(|file| file.file_name() == format!("{name}.rs"));
    let path = twin.map_or("shaders/src/lib.rs", |file| file.path.as_str());
    let mut problem = |what: String| problems.push(Problem::new(path, 0, what));

    match twin {
        None => problem(format!("kernel {name}: there is no {name}.rs")),
        Some(twin)
            if !shaders
                .iter()
                .any(|file| file.path == twin.path.replace(".rs", ".wgsl")) =>
        {
            problem(format!(
                "kernel {name}: there is no {name}.wgsl beside {name}.rs"
            ));
        }
        Some(_) => {}
    }
    if kernel
        .parts
        .iter()
        .any(|part| !wgsl.iter().any(|file| file.text == *part))
    {
        problem(format!(
            "kernel {name}: a part of its text is not a .wgsl file of shaders/src"
        ));
    }
    let joined = File::new(format!("{name}.wgsl"), kernel.parts.concat());
    let entry_points: Vec<String> = functions(&joined)
        .into_iter()
        .filter(|function| function.entry_point)
        .map(|function| function.name)
        .collect();
    if entry_points != [name.as_str()] {
        problem(format!(
            "kernel {name}: one entry point {name} expected, found {entry_points:?}"
        ));
    }
    if !joined
        .comments
        .iter()
        .any(|(_, comment)| comment.starts_with("// grid: "))
    {
        problem(format!(
            "kernel {name}: the header has no line '// grid: …'"
        ));
    }
    if !cases
        .iter()
        .any(|file| has_word(&file.code, &format!("{name}::KERNEL")))
    {
        problem(format!(
            "kernel {name}: no case in {CASES} names {name}::KERNEL"
        ));
    }
}

/// Functions of one name have one text, in whatever files they are. But a part that is joined into several kernels may call
/// what it leaves to each of them to define: those may differ, that is what they are for.
fn check_copies(wgsl: &[&File], kernels: &[KernelText], problems: &mut Vec<Problem>) {
    let shared: Vec<&&File> = wgsl
        .iter()
        .filter(|file| {
            kernels
                .iter()
                .filter(|kernel| kernel.parts.contains(&file.text))
                .count()
                > 1
        })
        .collect();
    let mut seen: BTreeMap<String, (&str, String)> = BTreeMap::new();
    for file in wgsl {
        for function in functions(file)
            .into_iter()
            .filter(|function| !function.entry_point && function.name != BODY)
        {
            let name = function.name;
            let left_to_kernels = shared.iter().any(|part| {
                has_word(&part.code, &name)
                    && !functions(part).iter().any(|defined| defined.name == name)
            });
            if left_to_kernels {
                continue;
            }
            match seen.get(&name) {
                None => drop(seen.insert(name, (&file.path, function.text))),
                Some((_, text)) if *text == function.text => {}
                Some((other, _)) => {
                    let what = format!(
                        "fn {name} differs from the one in {other}: make them equal, or rename one"
                    );
                    problems.push(Problem::new(&file.path, function.line, what));
                }
            }
        }
    }
}

struct Function {
    name: String,
    line: usize,
    /// From `fn` to the closing brace.
    text: String,
    entry_point: bool,
}

/// The functions of a WGSL text.
fn functions(file: &File) -> Vec<Function> {
    let code = &file.code;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find("fn ").map(|offset| at + offset) {
        at = start + 3;
        if code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let Some(open) = code[start..].find('{').map(|offset| start + offset) else {
            break;
        };
        let mut depth = 0;
        let close = code[open..].char_indices().find_map(|(offset, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (depth == 0).then_some(open + offset)
        });
        let Some(close) = close else { break };
        let attributes = &code[code[..start].rfind(['}', ';']).map_or(0, |end| end + 1)..start];
        found.push(Function {
            name: identifier(code[at..].trim_start()).to_owned(),
            line: file.line_of(start),
            text: file.text[start..=close].to_owned(),
            entry_point: has_word(attributes, "compute"),
        });
        at = close;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "// y = f(x)\n//\n// grid: (1, 1, 1)\n\n";

    fn entry(name: &str) -> String {
        format!(
            "@compute @workgroup_size(64)\nfn {name}(@builtin(global_invocation_id) id: vec3<u32>) {{\n  y[0] = f(x[0]);\n}}\n"
        )
    }

    fn problems(files: &[(&str, String)], kernels: &[(&str, &[&String])]) -> Vec<String> {
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File::new(*path, text.clone()))
            .collect();
        let kernels: Vec<KernelText> = kernels
            .iter()
            .map(|(name, parts)| KernelText {
                name: (*name).to_owned(),
                parts: parts.iter().map(|&part| part.clone()).collect(),
            })
            .collect();
        let mut problems = Vec::new();
        check(&files, &kernels, &mut problems);
        problems.into_iter().map(|problem| problem.what).collect()
    }

    fn twin() -> String {
        "//! T.\npub const KERNEL: Kernel = Kernel {};\n".to_owned()
    }

    #[test]
    fn a_whole_kernel_has_no_problem_and_each_missing_piece_is_one() {
        let text = format!(
            "{HEADER}fn f(x: f32) -> f32 {{ return x; }}\n{}",
            entry("a")
        );
        let whole = [
            ("shaders/src/norm/a.rs", twin()),
            ("shaders/src/norm/a.wgsl", text.clone()),
            (
                "tests/support/cases/norm.rs",
                "Case::new(&a::KERNEL)".to_owned(),
            ),
        ];
        assert_eq!(problems(&whole, &[("a", &[&text])]), [""; 0]);
        assert_eq!(
            problems(&whole, &[]),
            [
                "the kernel has no row in KERNELS of shaders/src/lib.rs",
                "no kernel in KERNELS has this text"
            ]
        );
        assert_eq!(
            problems(&whole[..2], &[("a", &[&text])]),
            ["kernel a: no case in tests/support/cases/ names a::KERNEL"]
        );
        assert!(problems(&whole, &[("a", &[&entry("b")])])[1].contains("found [\"b\"]"));
    }

    #[test]
    fn copies_are_equal_unless_a_shared_part_calls_them() {
        let define = |name: &str, value: u32| {
            format!(
                "{HEADER}fn f(x: f32) -> f32 {{ return {value}.0; }}\n{}",
                entry(name)
            )
        };
        let (a, b) = (define("a", 1), define("b", 2));
        let files = |tail: &String| {
            vec![
                ("shaders/src/norm/a.rs", twin()),
                ("shaders/src/norm/a.wgsl", a.clone()),
                ("shaders/src/norm/b.rs", twin()),
                ("shaders/src/norm/b.wgsl", b.clone()),
                ("shaders/src/norm/tail.wgsl", tail.clone()),
                (
                    "tests/support/cases/norm.rs",
                    "a::KERNEL b::KERNEL".to_owned(),
                ),
            ]
        };
        let silent = "// Nothing.\n".to_owned();
        let found = problems(
            &files(&silent),
            &[("a", &[&a, &silent]), ("b", &[&b, &silent])],
        );
        assert_eq!(
            found,
            [
                "fn f differs from the one in shaders/src/norm/a.wgsl: make them equal, or rename one"
            ]
        );
        let calls = "// Calls f.\nfn g() -> f32 { return f(1.0); }\n".to_owned();
        assert_eq!(
            problems(
                &files(&calls),
                &[("a", &[&a, &calls]), ("b", &[&b, &calls])]
            ),
            [""; 0]
        );
    }
}
