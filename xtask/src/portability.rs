//! `cargo xtask portability`: what can be proved of other vendors on a machine without a GPU.
//!
//! Every kernel is executed where an implementation computes on the CPU, compiled where a vendor's compiler runs without its
//! hardware, and handed to compilers of what naga translates. Each [`Implementation`] gives a [`Report`]; reports of earlier
//! calls are kept, so that a table is filled by and by.

mod dawn;
mod quirks;
mod statistics;
mod table;
mod translators;
mod tree;
mod vulkan;
mod windows;

use crate::process;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use statistics::Figures;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tree::Tree;

/// What became of a kernel, or of one of its cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Executed; the outputs are the twin's.
    Equal,
    Differs,
    /// A pipeline was made of it.
    Compiled,
    /// A compiler takes its translation.
    Accepted,
    Refused,
}

/// A line of the program of tests/portability, and what a compiler said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub kernel: String,
    /// The `override`s.
    pub variant: String,
    #[serde(default)]
    pub case: String,
    pub outcome: Outcome,
    #[serde(default)]
    pub why: String,
    #[serde(default)]
    pub figures: Option<Figures>,
    /// Compiled, though the engine gives it only to adapters with more registers.
    #[serde(default)]
    pub for_more_registers: bool,
}

/// What one implementation made of the kernels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The adapter and its driver, or the compiler and its version.
    pub about: String,
    pub date: String,
    pub commit: String,
    pub seconds: u64,
    pub rows: Vec<Row>,
    /// Why there are no rows: it could not be prepared, or it broke off.
    pub failure: Option<String>,
    /// It was there, and broke off.
    #[serde(default)]
    pub broke: bool,
}

/// What was there and broke off.
#[derive(Debug)]
struct Broke(String);

impl std::fmt::Display for Broke {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broke {}

/// What the program says where a driver has nothing for the chip.
const NO_ADAPTER: &str = "no adapter";

/// What is done with the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Executed,
    Compiled,
    Translated,
}

/// Who executes, compiles or takes the kernels.
pub struct Implementation {
    /// For `--only`.
    pub name: String,
    pub kind: Kind,
    /// Also of `--fast`.
    fast: bool,
    run: Run,
}

/// What an implementation does when it is called.
type Run = Box<dyn Fn(&Call<'_>) -> Result<Found>>;

/// About the implementation, and rows.
type Found = (String, Vec<Row>);

/// What an implementation is given.
pub struct Call<'a> {
    /// For what is fetched and made: cached, and removed by `--clean`.
    folder: &'a Path,
    tree: &'a Tree,
    kernel: Option<&'a str>,
    /// One case for each variant.
    brief: bool,
}

impl Call<'_> {
    /// The program of tests/portability, and how it is to be called in `mode`.
    fn program(&self, mode: &str) -> Result<Vec<String>> {
        let program = process::target_dir().join("debug/examples/portability");
        let mut words = vec![text(&program)?, mode.to_owned()];
        if let Some(kernel) = self.kernel {
            words.extend(["--kernel".to_owned(), kernel.to_owned()]);
        }
        if self.brief {
            words.push("--brief".to_owned());
        }
        Ok(words)
    }

    fn in_tree(&self, words: &[String]) -> Command {
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        self.tree.command(&words[0], &args)
    }
}

fn implementations() -> Vec<Implementation> {
    let mut all = vulkan::implementations();
    all.extend(dawn::implementations());
    all.extend(translators::implementations());
    all.extend(windows::implementations());
    all
}

#[derive(Default)]
struct Options {
    only: Vec<String>,
    kernel: Option<String>,
    json: bool,
    fast: bool,
    clean: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("{arg} wants a value"))
                    .cloned()
            };
            match arg.as_str() {
                "--only" => options.only.push(value()?),
                "--kernel" => options.kernel = Some(value()?),
                "--json" => options.json = true,
                "--fast" => options.fast = true,
                "--clean" => options.clean = true,
                _ => bail!(
                    "cannot do '{arg}'; there are --only, --kernel, --json, --fast and --clean"
                ),
            }
        }
        Ok(options)
    }
}

pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let folder = process::target_dir().join("portability");
    if options.clean {
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("removing {}", folder.display()))?;
        }
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let all = implementations();
    // A whole name is that one alone.
    let is_wanted = |name: &str| {
        options.only.iter().any(|only| {
            let is_whole = all.iter().any(|one| one.name == *only);
            if is_whole {
                name == only
            } else {
                name.contains(only.as_str())
            }
        })
    };
    let wanted: Vec<&Implementation> = all
        .iter()
        .filter(|one| options.only.is_empty() || is_wanted(&one.name))
        .filter(|one| one.fast || !options.fast)
        .collect();
    if wanted.is_empty() {
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        bail!(
            "--only: no such implementation; there are {}",
            names.join(", ")
        );
    }
    process::run(&mut process::cargo(&[
        "build",
        "--package",
        "plateau-tests",
        "--example",
        "portability",
    ]))?;

    let tree = Tree::new(&folder);
    let call = Call {
        folder: &folder,
        tree: &tree,
        kernel: options.kernel.as_deref(),
        brief: options.fast,
    };
    let (date, commit) = (
        line_of("date", &["+%F"])?,
        line_of("git", &["rev-parse", "--short", "HEAD"])?,
    );
    // Reports of earlier calls, which this one's replace as they come. A part of the kernels is no report to keep.
    let keep = options.kernel.is_none() && !options.fast;
    let kept = folder.join("results.json");
    let mut fresh = BTreeMap::new();
    for one in wanted {
        let start = Instant::now();
        let found = (one.run)(&call);
        let mut report = Report {
            about: String::new(),
            date: date.clone(),
            commit: commit.clone(),
            seconds: start.elapsed().as_secs(),
            rows: Vec::new(),
            failure: None,
            broke: false,
        };
        match found {
            Ok((about, rows)) => (report.about, report.rows) = (about, rows),
            Err(error) => {
                let why = format!("{error:#}");
                report.broke = error.is::<Broke>() && !why.contains(NO_ADAPTER);
                report.failure = Some(why);
            }
        }
        eprintln!("{}", table::line(one, &report));
        fresh.insert(one.name.clone(), report.clone());
        if keep {
            let text = fs::read_to_string(&kept).unwrap_or_else(|_| "{}".to_owned());
            let mut reports: BTreeMap<String, Report> = serde_json::from_str(&text)
                .with_context(|| format!("reading {}", kept.display()))?;
            reports.insert(one.name.clone(), report);
            fs::write(&kept, serde_json::to_string(&reports)?)?;
            fs::write(folder.join("table.md"), table::page(&all, &reports))?;
        }
    }
    if options.json {
        println!("{}", serde_json::to_string(&fresh)?);
    } else {
        println!("{}", table::page(&all, &fresh));
    }
    let problems = quirks::problems(&all, &fresh, keep);
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        count => bail!("{count} problems"),
    }
}

/// Runs the program of tests/portability and takes the rows among what it and the driver print. `other` gets every other line, and the
/// figures of the row that comes next.
fn rows(command: &mut Command, mut other: impl FnMut(&str, &mut Figures)) -> Result<Found> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the program could not be started")?;
    let errors = child.stderr.take().context("no pipe for errors")?;
    // Read beside the rows: a full pipe would stop the program.
    let errors = std::thread::spawn(move || {
        let lines = BufReader::new(errors).lines().map_while(Result::ok);
        lines.last().unwrap_or_default()
    });
    let mut output = BufReader::new(child.stdout.take().context("no pipe for rows")?);
    let (mut about, mut rows) = (String::new(), Vec::new());
    let (mut compiling, mut figures) = (None, Figures::default());
    let mut bytes = Vec::new();
    let mut last = String::new();
    loop {
        bytes.clear();
        if output.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else {
            other(line, &mut figures);
            line.clone_into(&mut last);
            continue;
        };
        let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        if value.get("adapter").is_some() {
            about = format!("{} ({})", word("adapter").trim(), word("driver"));
        } else if value.get("compiling").is_some() {
            let for_more_registers = value["for_more_registers"].as_bool().unwrap_or(false);
            compiling = Some((word("compiling"), word("variant"), for_more_registers));
            figures = Figures::default();
        } else {
            let mut row: Row = serde_json::from_value(value)?;
            if let Some((_, _, for_more_registers)) = compiling.take() {
                row.figures = Some(figures);
                row.for_more_registers = for_more_registers;
            }
            rows.push(row);
        }
    }
    let status = child.wait()?;
    let errors = errors.join().unwrap_or_default();
    if let (false, Some((kernel, variant, _))) = (status.success(), compiling) {
        let why = format!("crashed ({status}) while it compiled {kernel} {variant}");
        return Err(Broke(why).into());
    }
    if !status.success() {
        let why = if errors.is_empty() { last } else { errors };
        return Err(Broke(format!("{status} after {} rows: {why}", rows.len())).into());
    }
    Ok((about, rows))
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str();
    Ok(text
        .with_context(|| format!("{} is not UTF-8", path.display()))?
        .to_owned())
}

/// What a small program prints.
fn line_of(program: &str, args: &[&str]) -> Result<String> {
    let output = process::program(program, args)
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Debian's and npm's clients put things here.
fn cached(folder: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = folder.join(name);
    if !place.exists() {
        // Beside it, so that a rename puts what is whole in place.
        let fresh = folder.join(format!("{name}-fresh"));
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        fs::create_dir_all(&fresh)?;
        make(&fresh)?;
        fs::rename(&fresh, &place)?;
    }
    Ok(place)
}
