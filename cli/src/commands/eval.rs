//! `plateau eval`: how good models are, side by side.

use super::perplexity::{Text, window_size};
use crate::args::{Eval, Score};
use crate::console::{Console, Unit, count, print, print_json};
use crate::exit::{CliError, usage};
use crate::load;
use crate::results::{
    Against, Estimate, Kl, ModelResult, Perplexity, Results, TaskResult, TaskSettings,
    TextSettings, hash,
};
use crate::text::read_text;
use anyhow::Result;
use plateau::checkpoint::Checkpoint;
use plateau::eval::{
    Divergence, Encoded, Questions, Subject, Task, TextScore, Windows, likelihoods, score_text,
};
use plateau::exec;
use plateau::session::{LoadOptions, Session, SessionError, memory_needed};
use plateau::tensor::{KvType, Quant};
use plateau::tokenizer::Tokenizer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A model to be measured, and what it is given.
struct Candidate {
    name: String,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    options: LoadOptions,
    reference: bool,
    bos: Option<u32>,
    /// By task.
    questions: Vec<Encoded>,
}

/// The rows of a task.
struct TaskRows {
    questions: Questions,
    /// What the models decide of it, the begin token, is false until they are opened.
    settings: TaskSettings,
}

pub async fn run(args: &Eval, console: &Console) -> Result<()> {
    for path in &args.output {
        check_output(path)?;
    }
    let (earlier, folders) = models(args)?;
    let mut results = Results::new();
    if !folders.is_empty() {
        results = measure(args, &folders, console).await?;
    }
    for (path, earlier) in earlier {
        results
            .merge(earlier)
            .map_err(|what| usage(format!("{}: {what}", path.display())))?;
    }
    let markdown = results.markdown();
    if args.json {
        print_json(&results)?;
    } else {
        print(&markdown)?;
    }
    for path in &args.output {
        let text = match Form::of(path) {
            Some(Form::Markdown) => markdown.clone(),
            _ => serde_json::to_string_pretty(&results)? + "\n",
        };
        std::fs::write(path, text).map_err(|source| CliError::File {
            verb: "write",
            path: path.display().to_string(),
            source,
        })?;
    }
    Ok(())
}

/// What a file's name ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Markdown,
}

impl Form {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Form::Json),
            "md" => Some(Form::Markdown),
            _ => None,
        }
    }
}

/// Before anything runs: what would be lost at the end otherwise.
fn check_output(path: &Path) -> Result<()> {
    if Form::of(path).is_none() {
        let line = format!(
            "-o {}: a name that ends in .json or .md is expected",
            path.display()
        );
        return Err(usage(line));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(usage(format!(
            "-o {}: there is no folder {}",
            path.display(),
            folder.display()
        ))),
        _ => Ok(()),
    }
}

type Earlier = Vec<(PathBuf, Results)>;

/// The results of earlier runs, and the models to run (`None` is the built-in one).
fn models(args: &Eval) -> Result<(Earlier, Vec<Option<&str>>)> {
    if args.compare.is_empty() {
        return Ok((Vec::new(), vec![args.load.model.model.as_deref()]));
    }
    let mut earlier = Vec::new();
    let mut folders = Vec::new();
    for name in &args.compare {
        let path = Path::new(name);
        if Form::of(path) == Some(Form::Json) && !path.is_dir() {
            let results = Results::parse(&read_text(path)?)
                .map_err(|what| usage(format!("{}: {what}", path.display())))?;
            earlier.push((path.to_owned(), results));
        } else {
            folders.push(Some(name.as_str()));
        }
    }
    Ok((earlier, folders))
}

async fn measure(args: &Eval, folders: &[Option<&str>], console: &Console) -> Result<Results> {
    if args.file.is_none() && args.tasks.is_empty() {
        return Err(usage("nothing to measure: -f FILE or --tasks is needed"));
    }
    let text = match &args.file {
        Some(file) => Some(read_text(file)?),
        None => None,
    };
    let mut tasks = read_tasks(args)?;
    let mut candidates = Vec::new();
    if let Some(reference) = &args.against {
        candidates.push(reference_candidate(args, reference).await?);
    }
    for folder in folders {
        candidates.push(candidate(args, *folder).await?);
    }
    let bos = check_begin_tokens(&candidates)?;
    for task in &mut tasks {
        task.settings.bos = bos;
    }
    let mut results = Results::new();
    let windows = match (&args.file, &text) {
        (Some(file), Some(text)) => Some(cut(args, file, text, &candidates)?),
        _ => None,
    };
    for candidate in &mut candidates {
        candidate.ask(&tasks, windows.as_ref(), console)?;
    }
    let mut sessions = load_all(args, &candidates, console).await?;

    let mut measured: Vec<ModelResult> = candidates
        .iter()
        .zip(&mut sessions)
        .map(|(candidate, session)| candidate.describe(session))
        .collect();
    if let Some((windows, settings)) = windows {
        let scores = run_text(&candidates, &mut sessions, &windows, console).await?;
        let own = scores[0].losses.mean();
        for ((result, score), candidate) in measured.iter_mut().zip(&scores).zip(&candidates) {
            result.perplexity = Some(perplexity(candidate, score)?);
            let divergence = score.divergence.as_ref();
            result.against = divergence.map(|divergence| against(&candidates[0], own, divergence));
        }
        results.text = Some(settings);
    }
    for (i, task) in tasks.iter().enumerate() {
        let name = task.questions.task.name();
        for ((candidate, session), result) in
            candidates.iter().zip(&mut sessions).zip(&mut measured)
        {
            let result_of_task = run_task(task, i, candidate, session, console).await?;
            result.tasks.insert(name.to_owned(), result_of_task);
        }
        results.tasks.insert(name.to_owned(), task.settings.clone());
    }
    results.models = measured;
    Ok(results)
}

/// Whether the models have one: all or none.
fn check_begin_tokens(candidates: &[Candidate]) -> Result<bool> {
    let has = |candidate: &&Candidate| candidate.bos.is_some();
    let (with, without) = (
        candidates.iter().find(has),
        candidates.iter().find(|candidate| !has(candidate)),
    );
    match (with, without) {
        (Some(with), Some(without)) => Err(usage(format!(
            "{} has a begin token and {} has none: their figures compare with --no-bos only",
            with.name, without.name
        ))),
        (with, _) => Ok(with.is_some()),
    }
}

/// Rows of a step: the logits of more would not be read at once, and several models are loaded together.
const ROWS: u32 = 512;

async fn open(args: &Eval, model: Option<&str>, options: LoadOptions) -> Result<Candidate> {
    let checkpoint = load::checkpoint(model).await?;
    let bos = match args.no_bos {
        true => None,
        false => checkpoint.generation.bos_token_id,
    };
    Ok(Candidate {
        name: checkpoint.folder.name(),
        tokenizer: load::tokenizer(&checkpoint).await?,
        checkpoint,
        options: LoadOptions {
            max_rows: Some(ROWS),
            ..options
        },
        reference: false,
        bos,
        questions: Vec::new(),
    })
}

/// Of several models, only the float ones are rounded by --quant.
async fn candidate(args: &Eval, model: Option<&str>) -> Result<Candidate> {
    let mut candidate = open(args, model, load::options(&args.load.format, None)?).await?;
    if !args.compare.is_empty() && candidate.checkpoint.quantization.is_some() {
        candidate.options.quant = None;
    }
    Ok(candidate)
}

async fn reference_candidate(args: &Eval, model: &str) -> Result<Candidate> {
    let options = LoadOptions {
        quant: Some(Quant::F32),
        kv_type: args.against_kv_type.unwrap_or(KvType::F32),
        ..LoadOptions::default()
    };
    let candidate = open(args, Some(model), options).await?;
    match &candidate.checkpoint.quantization {
        None => Ok(Candidate {
            reference: true,
            ..candidate
        }),
        Some(quantization) => Err(usage(format!(
            "--against {model}: found a quantized model ({}), a float one is expected",
            quantization.recipe
        ))),
    }
}

/// The windows of the text, which are the same for all models.
fn cut(
    args: &Eval,
    file: &Path,
    text: &str,
    candidates: &[Candidate],
) -> Result<(Windows, TextSettings)> {
    let shortest = candidates
        .iter()
        .map(|candidate| candidate.checkpoint.config.max_position_embeddings)
        .min()
        .unwrap_or(u32::MAX);
    let text = Text {
        file,
        text,
        size: window_size(args.ctx_size, shortest),
        most: args.chunks,
        score: args.score,
    };
    let (first, others) = match candidates.split_first() {
        Some(split) => split,
        None => return Err(usage("no model to measure")),
    };
    let windows = text.windows(&first.tokenizer, first.bos)?;
    for other in others {
        if text.windows(&other.tokenizer, other.bos)?.ids != windows.ids {
            return Err(usage(format!(
                "{} and {} make different tokens of {}: their figures do not compare",
                first.name,
                other.name,
                file.display()
            )));
        }
    }
    let ids = windows.ids.iter().flatten();
    let settings = TextSettings {
        file: file_name(file),
        ids_hash: hash(ids.flat_map(|id| id.to_le_bytes())),
        windows: windows.ids.len(),
        ctx_size: text.size,
        score: match args.score {
            Score::All => "all".to_owned(),
            Score::SecondHalf => "second-half".to_owned(),
        },
        bos: first.bos.is_some(),
        tokens: windows.predictions() as u64,
    };
    Ok((windows, settings))
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn read_tasks(args: &Eval) -> Result<Vec<TaskRows>> {
    let mut tasks: Vec<TaskRows> = Vec::new();
    let mut seen = BTreeSet::new();
    for (task, file) in task_files(&args.tasks, args.task_dir.as_deref())? {
        if !seen.insert(task) {
            return Err(usage(format!("--tasks names {task} twice")));
        }
        let text = read_text(&file)?;
        let limit = args.limit.map(|limit| limit as usize);
        let questions = task.parse(&file.display().to_string(), &text, limit)?;
        let settings = TaskSettings {
            file: file_name(&file),
            file_hash: hash(text.bytes()),
            rows: questions.questions.len(),
            bos: false,
        };
        tasks.push(TaskRows {
            questions,
            settings,
        });
    }
    Ok(tasks)
}

/// NAME=FILE, or NAME or `all` with the files in a folder.
fn task_files(words: &[String], folder: Option<&Path>) -> Result<Vec<(Task, PathBuf)>> {
    let mut files = Vec::new();
    let find = |task: Task| -> Result<Option<PathBuf>> {
        let Some(folder) = folder else {
            return Err(usage(format!(
                "--tasks {task}: where its rows are is missing: {task}=FILE, or --task-dir DIR"
            )));
        };
        find_task(task, folder)
    };
    for word in words {
        if word == "all" {
            for task in Task::ALL {
                files.extend(find(task)?.map(|file| (task, file)));
            }
            continue;
        }
        let (name, file) = match word.split_once('=') {
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (word.as_str(), None),
        };
        let task: Task = name
            .parse()
            .map_err(|error| usage(format!("--tasks: {error}")))?;
        let file = match file {
            Some(file) => file,
            None => find(task)?.ok_or_else(|| {
                usage(format!(
                    "--tasks {task}: no {task}.jsonl in --task-dir, and no folder of that name with one .jsonl file"
                ))
            })?,
        };
        files.push((task, file));
    }
    if files.is_empty() && !words.is_empty() {
        return Err(usage("--tasks all: no task's file was found in --task-dir"));
    }
    Ok(files)
}

/// NAME.jsonl, or the one file of that kind in the folder NAME.
fn find_task(task: Task, folder: &Path) -> Result<Option<PathBuf>> {
    for name in [task.name(), task.folder()] {
        let file = folder.join(format!("{name}.jsonl"));
        if file.is_file() {
            return Ok(Some(file));
        }
        let inner = folder.join(name);
        if !inner.is_dir() {
            continue;
        }
        let failure = |source| CliError::File {
            verb: "read",
            path: inner.display().to_string(),
            source,
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&inner).map_err(failure)? {
            let path = entry.map_err(failure)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
            {
                found.push(path);
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(file), true) => return Ok(Some(file)),
            (Some(_), false) => {
                return Err(usage(format!(
                    "{}: several .jsonl files; {task}=FILE names one",
                    inner.display()
                )));
            }
            (None, _) => {}
        }
    }
    Ok(None)
}

impl Candidate {
    /// Tokenizes the tasks and decides how large the session has to be.
    fn ask(
        &mut self,
        tasks: &[TaskRows],
        windows: Option<&(Windows, TextSettings)>,
        console: &Console,
    ) -> Result<()> {
        /// Of the KV cache that several questions at once may take.
        const KV_BYTES: u64 = 1 << 30;
        const MOST_SEQUENCES: u64 = 32;

        let limit = self.checkpoint.config.max_position_embeddings as usize;
        for task in tasks {
            let encoded = task.questions.encode(&self.tokenizer, self.bos, limit)?;
            if encoded.truncated > 0 {
                console.note(format!(
                    "{}: {} of {} lost their beginning: the model's context is {limit}",
                    self.name,
                    count(encoded.truncated, "input"),
                    task.questions.task
                ));
            }
            self.questions.push(encoded);
        }
        let requests = self
            .questions
            .iter()
            .flat_map(|of| of.requests.iter().flatten());
        let longest = requests.map(|request| request.ids.len() - 1).max();
        let window = windows.map(|(_, settings)| settings.ctx_size as usize);
        let context = window.max(longest).unwrap_or(1);
        self.options.context_size = Some(u32::try_from(context).unwrap_or(u32::MAX));
        if longest.is_some() {
            let alone = memory_needed(&self.checkpoint, &self.options, None)?.kv_cache;
            let sequences = (KV_BYTES / alone.max(1)).clamp(1, MOST_SEQUENCES);
            self.options.max_sequences = sequences as u32;
        }
        Ok(())
    }

    fn describe(&self, session: &mut Session) -> ModelResult {
        let checkpoint = &self.checkpoint;
        let quant = self.options.quant.unwrap_or(Quant::F16);
        let float = matches!(quant, Quant::F32 | Quant::F16);
        let recipe = match &checkpoint.quantization {
            Some(quantization) if quantization.recipe.is_empty() => "quantized",
            Some(quantization) => quantization.recipe.as_str(),
            None if float => "float",
            None => "rounded at load",
        };
        let parameters = load::parameters(&checkpoint.config);
        // A file says nothing about a model that is rounded at load.
        let from_file = checkpoint.quantization.is_some() || float;
        let file_bytes = from_file.then(|| checkpoint.file_bytes());
        ModelResult {
            model: load::short_name(&checkpoint.folder),
            reference: self.reference,
            recipe: recipe.to_owned(),
            format: load::format_label(checkpoint, self.options.quant),
            kv_type: self.options.kv_type.name().to_owned(),
            device: session.parts().1.name().to_owned(),
            parameters,
            file_bytes,
            bits_per_weight: file_bytes.map(|bytes| 8.0 * bytes as f64 / parameters as f64),
            perplexity: None,
            against: None,
            tasks: BTreeMap::new(),
        }
    }
}

/// All models stay loaded: a window is run on each in turn. Refused before the first is read where they cannot fit together.
async fn load_all(
    args: &Eval,
    candidates: &[Candidate],
    console: &Console,
) -> Result<Vec<Session>> {
    let needed = candidates
        .iter()
        .map(|candidate| {
            Ok(memory_needed(&candidate.checkpoint, &candidate.options, None)?.total())
        })
        .sum::<Result<u64>>()?;
    let first = load::open(&args.load.device, console).await?;
    if let Some(available) = first.executor.available_memory() {
        if needed > available {
            return Err(SessionError::DoesNotFit {
                name: first.executor.name().to_owned(),
                needed,
                available,
            }
            .into());
        }
    }
    let mut first = Some(first);
    let mut sessions = Vec::new();
    for candidate in candidates {
        let opened = match first.take() {
            Some(opened) => opened,
            None => {
                let device = &args.load.device;
                exec::open_with(&device.device, device.choices()).await?
            }
        };
        let (checkpoint, options) = (&candidate.checkpoint, &candidate.options);
        console.note(load::model_line(checkpoint, options, &opened.executor)?);
        sessions
            .push(load::upload(&candidate.checkpoint, opened, &candidate.options, console).await?);
    }
    Ok(sessions)
}

/// A score for each candidate.
async fn run_text(
    candidates: &[Candidate],
    sessions: &mut [Session],
    windows: &Windows,
    console: &Console,
) -> Result<Vec<TextScore>> {
    let mut subjects: Vec<Subject<'_>> = candidates
        .iter()
        .zip(sessions)
        .map(|(candidate, session)| Subject {
            name: &candidate.name,
            session,
        })
        .collect();
    let all = windows.ids.len() as u64 * subjects.len() as u64;
    let progress = console.progress("windows", all, Unit::Steps);
    let has_reference = candidates.first().is_some_and(|first| first.reference);
    let reference = has_reference.then(|| subjects.remove(0));
    let (own, scores) = score_text(reference, &mut subjects, windows, &mut |done| {
        progress.set(done)
    })
    .await?;
    Ok(own.into_iter().chain(scores).collect())
}

fn perplexity(candidate: &Candidate, score: &TextScore) -> Result<Perplexity> {
    let nll = score.losses.mean();
    let value = nll.exp();
    if !value.is_finite() {
        let line = format!(
            "{}: the mean loss is {nll}: it has no finite perplexity",
            candidate.name
        );
        return Err(CliError::NumericCheck(line).into());
    }
    Ok(Perplexity {
        value,
        standard_error: value * score.losses.standard_error(),
        nll,
        nll_standard_error: score.losses.standard_error(),
    })
}

fn against(reference: &Candidate, nll: f64, divergence: &Divergence) -> Against {
    let [median, p90, p95, p99, p99_9, max] =
        divergence.kl_quantiles([0.5, 0.9, 0.95, 0.99, 0.999, 1.0]);
    let ratio = divergence.extra_losses.mean().exp();
    Against {
        model: load::short_name(&reference.checkpoint.folder),
        format: load::format_label(&reference.checkpoint, reference.options.quant),
        kv_type: reference.options.kv_type.name().to_owned(),
        nll,
        perplexity_ratio: Estimate {
            value: ratio,
            standard_error: ratio * divergence.extra_losses.standard_error(),
        },
        kl: Kl {
            mean: divergence.kl.mean(),
            standard_error: divergence.kl.standard_error(),
            median,
            p90,
            p95,
            p99,
            p99_9,
            max,
        },
        same_top: Estimate {
            value: divergence.same_top.mean(),
            standard_error: divergence.same_top.standard_error(),
        },
    }
}

async fn run_task(
    task: &TaskRows,
    number: usize,
    candidate: &Candidate,
    session: &mut Session,
    console: &Console,
) -> Result<TaskResult> {
    let requests = &candidate.questions[number].requests;
    let name = task.questions.task.name();
    let progress = console.progress(name, requests.len() as u64, Unit::Steps);
    let found = likelihoods(&candidate.name, session, requests, &mut |done| {
        progress.set(done)
    })
    .await?;
    drop(progress);
    let score = task.questions.score(&found);
    let word_perplexity = score.word_losses.map(|losses| losses.mean().exp());
    if word_perplexity.is_some_and(|perplexity| !perplexity.is_finite()) {
        let line = format!("{}: {name} has no finite perplexity", candidate.name);
        return Err(CliError::NumericCheck(line).into());
    }
    let word_error = score.word_losses.map(|losses| losses.standard_error());
    Ok(TaskResult {
        rows: requests.len(),
        acc: score.acc.mean(),
        acc_stderr: score.acc.standard_error(),
        acc_norm: score.acc_norm.map(|norm| norm.mean()),
        acc_norm_stderr: score.acc_norm.map(|norm| norm.standard_error()),
        perplexity: word_perplexity,
        perplexity_stderr: word_perplexity.zip(word_error).map(|(p, error)| p * error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_task_is_a_name_and_a_file() {
        let files = task_files(&words(&["piqa=a=b.jsonl", "lambada=c.jsonl"]), None);
        assert_eq!(
            files.ok(),
            Some(vec![
                (Task::Piqa, PathBuf::from("a=b.jsonl")),
                (Task::Lambada, PathBuf::from("c.jsonl")),
            ])
        );
        for wrong in ["boolq=a.jsonl", "piqa", "all", ""] {
            assert!(task_files(&words(&[wrong]), None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_has_tasks_as_files_or_folders() {
        let root = std::env::temp_dir().join(format!("plateau-eval-tasks-{}", std::process::id()));
        let make = |path: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("is in the root")).expect("can be made");
            std::fs::write(&path, "").expect("can be written");
            path
        };
        let piqa = make("piqa.jsonl");
        let lambada = make("lambada/test.jsonl");
        make("lambada/README.md");
        let all = task_files(&words(&["all"]), Some(&root));
        assert_eq!(
            all.ok(),
            Some(vec![(Task::Lambada, lambada), (Task::Piqa, piqa)])
        );
        assert!(task_files(&words(&["winogrande"]), Some(&root)).is_err());
        make("lambada/train.jsonl");
        assert!(task_files(&words(&["lambada_openai"]), Some(&root)).is_err());
        let _ = std::fs::remove_dir_all(root);
    }

    #[test]
    fn results_go_to_json_or_markdown_in_a_folder_that_is_there() {
        let check = |name: &str| check_output(Path::new(name)).is_ok();
        assert!(check("a.json") && check("a.md") && check("./a.md"));
        assert!(!check("a.txt") && !check("json") && !check("no-such-folder/a.json"));
    }
}
