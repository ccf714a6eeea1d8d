//! Zero-shot tasks: rows of JSON to questions, and likelihoods to the metrics of lm-evaluation-harness.
//!
//! Prompts, choices and metrics are those of its tasks of the same names (<https://github.com/EleutherAI/lm-evaluation-harness>,
//! `lm_eval/tasks`), without examples in front. A row is what `datasets` writes for the data set on the Hugging Face hub, or
//! the same with `choices` as a list of texts and the answer as `label`, counted from 0.

use super::{EvalError, Likelihood, Request, Tally};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// A task, by its name in lm-evaluation-harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Say the last word of a passage.
    Lambada,
    /// Choose the solution that reaches a goal.
    Piqa,
    /// Choose how a description goes on.
    HellaSwag,
    /// Choose what a blank stands for: the rest of the sentence is scored after each option.
    WinoGrande,
    ArcEasy,
    ArcChallenge,
    OpenBookQa,
}

/// No task has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no task is called '{name}'; there are {}", Task::ALL.map(Task::name).join(", "))]
pub struct UnknownTask {
    name: String,
}

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, UnknownTask> {
        Self::ALL
            .into_iter()
            .find(|task| task.name() == name || task.folder() == name)
            .ok_or_else(|| UnknownTask {
                name: name.to_owned(),
            })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Task {
    pub const ALL: [Task; 7] = [
        Task::Lambada,
        Task::Piqa,
        Task::HellaSwag,
        Task::WinoGrande,
        Task::ArcEasy,
        Task::ArcChallenge,
        Task::OpenBookQa,
    ];

    /// In lm-evaluation-harness.
    pub const fn name(self) -> &'static str {
        match self {
            Task::Lambada => "lambada_openai",
            Task::Piqa => "piqa",
            Task::HellaSwag => "hellaswag",
            Task::WinoGrande => "winogrande",
            Task::ArcEasy => "arc_easy",
            Task::ArcChallenge => "arc_challenge",
            Task::OpenBookQa => "openbookqa",
        }
    }

    /// Of the data set: what its file or folder may also be called.
    pub const fn folder(self) -> &'static str {
        match self {
            Task::Lambada => "lambada",
            other => other.name(),
        }
    }

    /// Whether the harness also scores by characters: acc_norm.
    const fn has_acc_norm(self) -> bool {
        match self {
            Task::Lambada | Task::WinoGrande => false,
            Task::Piqa
            | Task::HellaSwag
            | Task::ArcEasy
            | Task::ArcChallenge
            | Task::OpenBookQa => true,
        }
    }

    /// The questions of the first `limit` rows of a file in JSON Lines; empty lines are skipped. `file` is its name in
    /// messages.
    pub fn parse(
        self,
        file: &str,
        text: &str,
        limit: Option<usize>,
    ) -> Result<Questions, EvalError> {
        let lines = (1..).zip(text.lines());
        let rows = lines
            .filter(|(_, line)| !line.trim().is_empty())
            .take(limit.unwrap_or(usize::MAX));
        let questions = rows
            .map(|(line, text)| self.question(&RowReader::new(file, line, text)?))
            .collect::<Result<Vec<Question>, EvalError>>()?;
        if questions.is_empty() {
            return Err(EvalError::NoRows {
                file: file.to_owned(),
            });
        }
        Ok(Questions {
            task: self,
            file: file.to_owned(),
            questions,
        })
    }

    fn question(self, row: &RowReader<'_>) -> Result<Question, EvalError> {
        match self {
            Task::Lambada => row.lambada(),
            Task::Piqa => {
                let context = format!("Question: {}\nAnswer:", row.text("goal")?);
                let solutions = [row.text("sol1")?, row.text("sol2")?];
                let answer = row.index("label", 0, 2)?;
                row.choose(
                    "sol1, sol2",
                    &context,
                    &solutions.map(str::to_owned),
                    answer,
                )
            }
            Task::HellaSwag => row.hellaswag(),
            Task::WinoGrande => row.winogrande(),
            Task::ArcEasy | Task::ArcChallenge => {
                let context = format!("Question: {}\nAnswer:", row.text("question")?);
                let (choices, answer) = row.choices_and_answer()?;
                row.choose("choices", &context, &choices, answer)
            }
            Task::OpenBookQa => {
                let field = if row.has("question_stem") {
                    "question_stem"
                } else {
                    "question"
                };
                let (choices, answer) = row.choices_and_answer()?;
                row.choose("choices", row.text(field)?, &choices, answer)
            }
        }
    }
}

/// A continuation that is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    context: String,
    /// With the space in front that parts it from the context.
    continuation: String,
    /// Characters of the choice as the file has it: what acc_norm divides by.
    characters: usize,
}

/// What a row asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// In the file, from 1.
    pub line: usize,
    choices: Vec<Choice>,
    /// Index of the right choice.
    pub answer: usize,
}

/// The questions of a file.
#[derive(Clone, Debug)]
pub struct Questions {
    pub task: Task,
    file: String,
    pub questions: Vec<Question>,
}

/// Questions as ids.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// [questions][choices]
    pub requests: Vec<Vec<Request>>,
    /// Requests that lost ids at their beginning, since they are longer than the model's context.
    pub truncated: usize,
}

impl Questions {
    /// The ids of context and continuation are those of both texts joined; as many as the context has alone count as
    /// context. Spaces at a context's end count as the continuation's. `bos` stands in front of all. What does not fit
    /// `context_size` inputs loses its beginning.
    ///
    /// # Errors
    /// A continuation that adds no id, that does not fit the context, or that has nothing in front of it.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        bos: Option<u32>,
        context_size: usize,
    ) -> Result<Encoded, EvalError> {
        let mut truncated = 0;
        let requests = self
            .questions
            .iter()
            .map(|question| {
                let encode = |choice: &Choice| {
                    self.request(
                        question,
                        choice,
                        tokenizer,
                        bos,
                        context_size,
                        &mut truncated,
                    )
                };
                question.choices.iter().map(encode).collect()
            })
            .collect::<Result<Vec<Vec<Request>>, EvalError>>()?;
        Ok(Encoded {
            requests,
            truncated,
        })
    }

    fn request(
        &self,
        question: &Question,
        choice: &Choice,
        tokenizer: &Tokenizer,
        bos: Option<u32>,
        context_size: usize,
        truncated: &mut usize,
    ) -> Result<Request, EvalError> {
        let whole = format!("{}{}", choice.context, choice.continuation);
        let text = tokenizer.encode(&whole, false)?;
        let context = tokenizer.encode(choice.context.trim_end(), false)?;
        let mut ids: Vec<u32> = bos.into_iter().chain(text.iter().copied()).collect();
        let scored = text.len().saturating_sub(context.len());
        let wrong = |found: String, expected: String| EvalError::Row {
            file: self.file.clone(),
            line: question.line,
            field: format!("tokens of '{}'", shortened(&choice.continuation)),
            found,
            expected,
        };
        if scored == 0 || scored == ids.len() || scored > context_size {
            let expected = if scored == ids.len() {
                "at least one token in front of them".to_owned()
            } else {
                format!("1 to {context_size}")
            };
            return Err(wrong(scored.to_string(), expected));
        }
        let too_many = ids.len().saturating_sub(context_size + 1);
        if too_many > 0 {
            ids.drain(..too_many);
            *truncated += 1;
        }
        Ok(Request { ids, scored })
    }

    /// The metrics of the questions' likelihoods, [questions][choices].
    pub fn score(&self, likelihoods: &[Vec<Likelihood>]) -> TaskScore {
        let mut score = TaskScore {
            acc: Tally::default(),
            acc_norm: self.task.has_acc_norm().then(Tally::default),
            word_losses: (self.task == Task::Lambada).then(Tally::default),
        };
        for (question, likelihoods) in self.questions.iter().zip(likelihoods) {
            let right =
                |chosen: Option<usize>| f64::from(u8::from(chosen == Some(question.answer)));
            if let Some(losses) = &mut score.word_losses {
                let word = likelihoods.first().copied().unwrap_or_default();
                losses.add(-word.log_likelihood);
                score.acc.add(f64::from(u8::from(word.greedy)));
                continue;
            }
            let sums = likelihoods
                .iter()
                .map(|likelihood| likelihood.log_likelihood);
            score.acc.add(right(largest(sums.clone())));
            if let Some(acc_norm) = &mut score.acc_norm {
                let normed = sums.zip(&question.choices);
                let normed = normed.map(|(sum, choice)| sum / choice.characters as f64);
                acc_norm.add(right(largest(normed)));
            }
        }
        score
    }
}

/// Index of the largest value, the first of equal ones.
fn largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let pairs = values.enumerate();
    pairs
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(index, _)| index)
}

/// The metrics of a task.
#[derive(Clone, Debug)]
pub struct TaskScore {
    /// Of each question, 1 where it was answered right, else 0. The answer is the likeliest choice; of LAMBADA, the
    /// last word if greedy decoding gives it.
    pub acc: Tally,
    /// As `acc`, of log-likelihoods over the number of characters of the choice.
    pub acc_norm: Option<Tally>,
    /// LAMBADA: −ln of the probability of each last word. The perplexity is exp of the mean.
    pub word_losses: Option<Tally>,
}

/// Longest quote of a row in a message, in characters.
const LONGEST_QUOTE: usize = 40;

fn shortened(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(LONGEST_QUOTE)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        line.push('…');
    }
    line
}

/// A row of a file, for which errors are told.
struct RowReader<'a> {
    file: &'a str,
    line: usize,
    fields: Map<String, Value>,
}

impl<'a> RowReader<'a> {
    fn new(file: &'a str, line: usize, text: &str) -> Result<Self, EvalError> {
        let wrong = |found: String| EvalError::Row {
            file: file.to_owned(),
            line,
            field: "row".to_owned(),
            found,
            expected: "one JSON object".to_owned(),
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self { file, line, fields }),
            Ok(other) => Err(wrong(kind(&other))),
            Err(error) => Err(wrong(format!("'{}' ({error})", shortened(text)))),
        }
    }

    fn wrong(&self, field: &str, found: String, expected: impl Into<String>) -> EvalError {
        EvalError::Row {
            file: self.file.to_owned(),
            line: self.line,
            field: field.to_owned(),
            found,
            expected: expected.into(),
        }
    }

    fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    fn value(&self, field: &str, expected: &str) -> Result<&Value, EvalError> {
        self.fields
            .get(field)
            .ok_or_else(|| self.wrong(field, "no such field".to_owned(), expected))
    }

    fn text(&self, field: &str) -> Result<&str, EvalError> {
        let value = self.value(field, "a text")?;
        value
            .as_str()
            .ok_or_else(|| self.wrong(field, kind(value), "a text"))
    }

    fn texts(&self, field: &str, value: &Value) -> Result<Vec<String>, EvalError> {
        let list = value
            .as_array()
            .ok_or_else(|| self.wrong(field, kind(value), "a list of texts"))?;
        list.iter()
            .map(|text| match text.as_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(self.wrong(field, kind(text), "texts only")),
            })
            .collect()
    }

    /// A number, or a text that is one, of `count` from `first` on; counted from 0.
    fn index(&self, field: &str, first: usize, count: usize) -> Result<usize, EvalError> {
        let last = (first + count).saturating_sub(1);
        let expected = format!("a number from {first} to {last}");
        let value = self.value(field, &expected)?;
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other
                .as_u64()
                .and_then(|number| usize::try_from(number).ok()),
        };
        match number {
            Some(number) if (first..=last).contains(&number) => Ok(number - first),
            _ => Err(self.wrong(field, quote(value), expected)),
        }
    }

    fn lambada(&self) -> Result<Question, EvalError> {
        let text = self.text("text")?;
        match text.rsplit_once(' ') {
            Some((context, word)) if !word.is_empty() => Ok(Question {
                line: self.line,
                choices: vec![Choice {
                    context: context.to_owned(),
                    continuation: format!(" {word}"),
                    characters: word.chars().count(),
                }],
                answer: 0,
            }),
            _ => Err(self.wrong(
                "text",
                format!("'{}'", shortened(text)),
                "a passage that ends in a space and a word",
            )),
        }
    }

    /// Rows of the data set are cleaned as the harness does; rows with only `ctx` have been.
    fn hellaswag(&self) -> Result<Question, EvalError> {
        let endings = self.texts("endings", self.value("endings", "a list of texts")?)?;
        let answer = self.index("label", 0, endings.len())?;
        if !self.has("activity_label") {
            return self.choose("endings", self.text("ctx")?, &endings, answer);
        }
        let context = format!(
            "{}: {} {}",
            self.text("activity_label")?,
            self.text("ctx_a")?,
            capitalized(self.text("ctx_b")?)
        );
        let endings: Vec<String> = endings.iter().map(|ending| cleaned(ending)).collect();
        self.choose("endings", &cleaned(&context), &endings, answer)
    }

    fn winogrande(&self) -> Result<Question, EvalError> {
        let sentence = self.text("sentence")?;
        let Some((before, after)) = sentence.split_once('_') else {
            return Err(self.wrong(
                "sentence",
                format!("'{}'", shortened(sentence)),
                "a sentence with a blank, _",
            ));
        };
        let rest = after.trim();
        let choice = |option: &str| Choice {
            context: format!("{before}{option}"),
            continuation: format!(" {rest}"),
            characters: rest.chars().count(),
        };
        Ok(Question {
            line: self.line,
            choices: vec![choice(self.text("option1")?), choice(self.text("option2")?)],
            answer: self.index("answer", 1, 2)?,
        })
    }

    /// `choices` as a list with `label`, or as {text, label} with `answerKey`.
    fn choices_and_answer(&self) -> Result<(Vec<String>, usize), EvalError> {
        let expected = "a list of texts, or an object with text and label";
        let value = self.value("choices", expected)?;
        if value.is_array() {
            let choices = self.texts("choices", value)?;
            let answer = self.index("label", 0, choices.len())?;
            return Ok((choices, answer));
        }
        let (Some(texts), Some(labels)) = (value.get("text"), value.get("label")) else {
            return Err(self.wrong("choices", kind(value), expected));
        };
        let choices = self.texts("choices.text", texts)?;
        let labels = self.texts("choices.label", labels)?;
        if labels.len() != choices.len() {
            let found = format!("{} labels", labels.len());
            return Err(self.wrong("choices.label", found, choices.len().to_string()));
        }
        let key = self.text("answerKey")?.trim();
        match labels.iter().position(|label| label == key) {
            Some(answer) => Ok((choices, answer)),
            None => Err(self.wrong(
                "answerKey",
                format!("'{}'", shortened(key)),
                format!("one of {}", shortened(&labels.join(", "))),
            )),
        }
    }

    /// A question whose choices, from `field`, follow one context after a space.
    fn choose(
        &self,
        field: &str,
        context: &str,
        choices: &[String],
        answer: usize,
    ) -> Result<Question, EvalError> {
        if choices.len() < 2 || choices.iter().any(String::is_empty) {
            let found = if choices.len() < 2 {
                format!("{} choices", choices.len())
            } else {
                "an empty choice".to_owned()
            };
            return Err(self.wrong(field, found, "two or more, none of them empty"));
        }
        let choice = |text: &String| Choice {
            context: context.to_owned(),
            continuation: format!(" {text}"),
            characters: text.chars().count(),
        };
        Ok(Question {
            line: self.line,
            choices: choices.iter().map(choice).collect(),
            answer,
        })
    }
}

/// What a value is, for messages.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => quote(value),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn quote(value: &Value) -> String {
    shortened(&value.to_string())
}

/// As Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        None => String::new(),
        Some(first) => first
            .to_uppercase()
            .chain(letters.as_str().to_lowercase().chars())
            .collect(),
    }
}

/// The harness's cleaning of HellaSwag: marks of WikiHow, such as [title], go.
fn cleaned(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut kept = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let inside = &rest[open..];
        let end = inside
            .find(']')
            .filter(|&end| !inside[..end].contains('\n'));
        let cut = match end {
            Some(end) => {
                kept.push_str(&rest[..open]);
                open + end + 1
            }
            None => {
                kept.push_str(&rest[..=open]);
                open + 1
            }
        };
        rest = &rest[cut..];
    }
    kept.push_str(rest);
    kept.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(task: Task, text: &str) -> Result<Questions, EvalError> {
        task.parse("rows.jsonl", text, None)
    }

    /// Of the only row: (context, continuation) of each choice, and the answer.
    fn prompts(task: Task, row: &str) -> (Vec<(String, String)>, usize) {
        let questions = parse(task, row).unwrap_or_else(|error| panic!("{error}"));
        let [question] = questions.questions.as_slice() else {
            panic!("one row");
        };
        let choices = question.choices.iter();
        let texts = choices.map(|choice| (choice.context.clone(), choice.continuation.clone()));
        (texts.collect(), question.answer)
    }

    fn pairs(context: &str, continuations: &[&str]) -> Vec<(String, String)> {
        let pair = |text: &&str| (context.to_owned(), (*text).to_owned());
        continuations.iter().map(pair).collect()
    }

    #[test]
    fn tasks_have_the_names_of_the_harness() {
        for task in Task::ALL {
            assert_eq!(task.name().parse(), Ok(task));
            assert_eq!(task.folder().parse(), Ok(task));
        }
        let error = "boolq".parse::<Task>().expect_err("no such task");
        assert!(error.to_string().contains("'boolq'") && error.to_string().contains("piqa"));
    }

    #[test]
    fn prompts_are_those_of_the_harness() {
        assert_eq!(
            prompts(Task::Lambada, r#"{"text": "One two.\nThree four"}"#),
            (pairs("One two.\nThree", &[" four"]), 0)
        );
        assert_eq!(
            prompts(
                Task::Piqa,
                r#"{"goal": "Boil water", "sol1": "Heat it.", "sol2": "Cool it.", "label": 1}"#
            ),
            (
                pairs("Question: Boil water\nAnswer:", &[" Heat it.", " Cool it."]),
                1
            )
        );
        assert_eq!(
            prompts(
                Task::WinoGrande,
                r#"{"sentence": "Ann met Eve as _ was late. ", "option1": "Ann", "option2": "Eve", "answer": "2"}"#
            ),
            (
                vec![
                    ("Ann met Eve as Ann".to_owned(), " was late.".to_owned()),
                    ("Ann met Eve as Eve".to_owned(), " was late.".to_owned())
                ],
                1
            )
        );
        let listed = r#"{"question": "Why?", "choices": ["a", "b", "c"], "label": 2}"#;
        let keyed = r#"{"question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"}"#;
        for row in [listed, keyed] {
            for task in [Task::ArcEasy, Task::ArcChallenge] {
                assert_eq!(
                    prompts(task, row),
                    (pairs("Question: Why?\nAnswer:", &[" a", " b", " c"]), 2)
                );
            }
            assert_eq!(
                prompts(Task::OpenBookQa, row),
                (pairs("Why?", &[" a", " b", " c"]), 2)
            );
        }
        let stem = r#"{"question_stem": "The sun is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": " A"}"#;
        assert_eq!(
            prompts(Task::OpenBookQa, stem),
            (pairs("The sun is", &[" hot", " cold"]), 0)
        );
    }

    #[test]
    fn hellaswag_is_cleaned_as_the_harness_does() {
        let clean =
            r#"{"ctx": "Swim: A man dives. he", "endings": ["swims.", "flies."], "label": 0}"#;
        assert_eq!(
            prompts(Task::HellaSwag, clean),
            (pairs("Swim: A man dives. he", &[" swims.", " flies."]), 0)
        );
        let raw = r#"{"activity_label": "Swim", "ctx_a": "[header] How to dive [title] Breathe.", "ctx_b": "the MAN",
            "ctx": "not used", "endings": [" swims  far.", "[step] flies"], "label": "1"}"#
            .replace('\n', " ");
        assert_eq!(
            prompts(Task::HellaSwag, &raw),
            (
                pairs(
                    "Swim: How to dive. Breathe. The man",
                    &[" swims far.", "  flies"]
                ),
                1
            )
        );
        assert_eq!(cleaned("a [b\nc] [d] e ["), "a [b\nc] e [");
        assert_eq!(capitalized("élan VITAL"), "Élan vital");
        assert_eq!(capitalized(""), "");
    }

    #[test]
    fn rows_that_are_wrong_are_told_with_line_and_field() {
        let good = r#"{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}"#;
        let piqa = |row: &str| format!("{good}\n\n{row}\n");
        for (task, row, parts) in [
            (Task::Piqa, "{", ["row", "one JSON object"]),
            (Task::Piqa, "[1]", ["row: found a list", "one JSON object"]),
            (
                Task::Piqa,
                r#"{"goal": "g", "sol1": "a", "sol2": "b"}"#,
                ["label: found no such field", "a number from 0 to 1"],
            ),
            (
                Task::Piqa,
                r#"{"goal": "g", "sol1": "a", "sol2": "b", "label": 2}"#,
                ["label: found 2", "a number from 0 to 1"],
            ),
            (
                Task::Piqa,
                r#"{"goal": "g", "sol1": 7, "sol2": "b", "label": 1}"#,
                ["sol1: found 7", "a text"],
            ),
            (
                Task::Piqa,
                r#"{"goal": "g", "sol1": "", "sol2": "b", "label": 1}"#,
                ["sol1, sol2: found an empty choice", "none of them empty"],
            ),
        ] {
            let error = parse(task, &piqa(row)).expect_err(row).to_string();
            assert!(error.starts_with("rows.jsonl, line 3: "), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        for (task, row, part) in [
            (Task::Lambada, r#"{"text": "word"}"#, "text: found 'word'"),
            (Task::Lambada, r#"{"text": "ends "}"#, "text: found 'ends '"),
            (
                Task::WinoGrande,
                r#"{"sentence": "none", "option1": "a", "option2": "b", "answer": 1}"#,
                "sentence: found 'none'",
            ),
            (
                Task::WinoGrande,
                r#"{"sentence": "a _ b", "option1": "a", "option2": "b", "answer": 0}"#,
                "answer: found 0, expected a number from 1 to 2",
            ),
            (
                Task::HellaSwag,
                r#"{"ctx": "c", "endings": [], "label": 0}"#,
                "endings: found 0 choices",
            ),
            (
                Task::ArcEasy,
                r#"{"question": "q", "choices": ["a"], "label": 0}"#,
                "choices: found 1 choices",
            ),
            (
                Task::ArcEasy,
                r#"{"question": "q", "choices": ["a", 1], "label": 0}"#,
                "choices: found 1, expected texts only",
            ),
            (
                Task::ArcEasy,
                r#"{"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}"#,
                "choices.label: found 1 labels, expected 2",
            ),
            (
                Task::ArcEasy,
                r#"{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}"#,
                "answerKey: found 'C', expected one of A, B",
            ),
            (
                Task::ArcEasy,
                r#"{"question": "q", "choices": "a", "label": 0}"#,
                "choices: found a text",
            ),
        ] {
            let error = parse(task, row).expect_err(row).to_string();
            assert!(
                error.starts_with("rows.jsonl, line 1: ") && error.contains(part),
                "{error}"
            );
        }
        let empty = parse(Task::Piqa, " \n\n").expect_err("no rows");
        assert_eq!(
            empty.to_string(),
            "rows.jsonl: found no rows, expected one JSON object on each line"
        );
        // What comes after the limit is not read.
        let limited = Task::Piqa.parse("rows.jsonl", &piqa("{"), Some(1));
        assert_eq!(limited.map(|rows| rows.questions.len()).ok(), Some(1));
    }

    fn likelihood(log_likelihood: f64, greedy: bool) -> Likelihood {
        Likelihood {
            log_likelihood,
            greedy,
        }
    }

    #[test]
    fn accuracy_counts_the_likeliest_choice_and_the_likeliest_by_characters() {
        let rows = [
            r#"{"question": "q", "choices": ["ab", "abcdefgh"], "label": 0}"#,
            r#"{"question": "q", "choices": ["ab", "abcdefgh"], "label": 1}"#,
            r#"{"question": "q", "choices": ["éé", "ab", "cd"], "label": 0}"#,
        ]
        .join("\n");
        let questions = parse(Task::ArcEasy, &rows).expect("valid");
        let choice = |sum| likelihood(sum, false);
        let likelihoods = [
            // By sums the first, by characters (-2, -1) the second.
            vec![choice(-4.0), choice(-8.0)],
            vec![choice(-4.0), choice(-8.0)],
            // Equal ones: the first, also by characters, which are not bytes.
            vec![choice(-4.0), choice(-4.0), choice(-4.0)],
        ];
        let score = questions.score(&likelihoods);
        assert_eq!((score.acc.count(), score.acc.mean()), (3, 2.0 / 3.0));
        let expected = (2.0f64 / 3.0 / 3.0 / 2.0).sqrt();
        assert!((score.acc.standard_error() - expected).abs() < 1e-12);
        assert_eq!(score.acc_norm.map(|norm| norm.mean()), Some(2.0 / 3.0));
        assert!(score.word_losses.is_none());
    }

    #[test]
    fn lambada_has_a_perplexity_and_counts_greedy_words() {
        let rows = "{\"text\": \"a b\"}\n{\"text\": \"a c\"}\r\n{\"text\": \"a d\"}";
        let questions = parse(Task::Lambada, rows).expect("valid");
        let score = questions.score(&[
            vec![likelihood(-1.0, true)],
            vec![likelihood(-2.0, false)],
            vec![likelihood(-6.0, false)],
        ]);
        assert_eq!(score.acc.mean(), 1.0 / 3.0);
        assert_eq!(score.word_losses.map(|losses| losses.mean()), Some(3.0));
        assert!(score.acc_norm.is_none());
    }

    #[test]
    fn winogrande_compares_the_rest_after_each_option() {
        let row = r#"{"sentence": "a _ b", "option1": "x", "option2": "y", "answer": 2}"#;
        let questions = parse(Task::WinoGrande, row).expect("valid");
        let score = questions.score(&[vec![likelihood(-3.0, true), likelihood(-2.5, false)]]);
        assert_eq!(score.acc.mean(), 1.0);
        assert!(score.acc_norm.is_none());
    }
}
