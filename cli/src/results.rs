//! What `eval` measured: kept as JSON, shown as a table in markdown.

use crate::console::count;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Of the JSON; another number is another meaning of its fields.
const VERSION: u32 = 1;

/// The results of one run, or of several that were measured in the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub plateau_eval: u32,
    pub text: Option<TextSettings>,
    pub tasks: BTreeMap<String, TaskSettings>,
    pub models: Vec<ModelResult>,
}

/// The windows that perplexity and divergence are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextSettings {
    pub file: String,
    /// Of the ids of all windows.
    pub ids_hash: String,
    pub windows: usize,
    pub ctx_size: u32,
    /// `all` or `second-half`.
    pub score: String,
    pub bos: bool,
    /// Predictions that count.
    pub tokens: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSettings {
    pub file: String,
    /// Of the file's text.
    pub file_hash: String,
    pub rows: usize,
    pub bos: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    pub model: String,
    /// Whether the others are compared with it.
    pub reference: bool,
    pub recipe: String,
    pub format: String,
    pub kv_type: String,
    pub device: String,
    pub parameters: u64,
    /// Of all safetensors files; none where the weights were rounded at load.
    pub file_bytes: Option<u64>,
    pub bits_per_weight: Option<f64>,
    pub perplexity: Option<Perplexity>,
    pub against: Option<Against>,
    /// Under the names of lm-evaluation-harness.
    pub tasks: BTreeMap<String, TaskResult>,
}

/// A value with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub standard_error: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    pub value: f64,
    pub standard_error: f64,
    /// Mean loss, natural logarithm.
    pub nll: f64,
    pub nll_standard_error: f64,
}

/// How far a model is from the reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    pub model: String,
    pub format: String,
    pub kv_type: String,
    /// The reference's own mean loss.
    pub nll: f64,
    /// Model's over reference's; the standard error is that of paired losses.
    pub perplexity_ratio: Estimate,
    /// Of the reference's distribution from the model's, in nats per token.
    pub kl: Kl,
    /// Share of tokens where both find the same one most likely.
    pub same_top: Estimate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kl {
    pub mean: f64,
    pub standard_error: f64,
    pub median: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// The metrics of a task, under their names in lm-evaluation-harness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    pub rows: usize,
    pub acc: f64,
    pub acc_stderr: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm_stderr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity_stderr: Option<f64>,
}

/// FNV-1a of 64 bits, as hexadecimal digits: tells texts apart, no more.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016x}")
}

impl Results {
    pub fn new() -> Self {
        Self {
            plateau_eval: VERSION,
            text: None,
            tasks: BTreeMap::new(),
            models: Vec::new(),
        }
    }

    /// The JSON of an earlier run; what is wrong with it otherwise.
    pub fn parse(json: &str) -> Result<Self, String> {
        let results: Self = serde_json::from_str(json)
            .map_err(|error| format!("found {error}, expected a result of `plateau eval -o`"))?;
        if results.plateau_eval != VERSION {
            return Err(format!(
                "found version {}, expected {VERSION}",
                results.plateau_eval
            ));
        }
        Ok(results)
    }

    /// Takes in the models of another run; what of it was measured differently otherwise.
    pub fn merge(&mut self, other: Self) -> Result<(), String> {
        match (&mut self.text, other.text) {
            (Some(own), Some(others)) => same_text(own, &others)?,
            (own @ None, others) => *own = others,
            (Some(_), None) => {}
        }
        for (name, others) in other.tasks {
            match self.tasks.get(&name) {
                None => drop(self.tasks.insert(name, others)),
                Some(own) => {
                    let what = |what: &str| format!("{what} of {name}");
                    same(&what("the text"), &own.file_hash, &others.file_hash)?;
                    same(&what("the number of rows"), own.rows, others.rows)?;
                    same(&what("the begin token"), own.bos, others.bos)?;
                }
            }
        }
        for model in other.models {
            let reference = self
                .models
                .iter()
                .filter_map(|model| model.against.as_ref());
            for (own, others) in reference.zip(&model.against) {
                // Of one model on two devices the losses differ by rounding.
                const SAME_REFERENCE: f64 = 1e-4;
                if (own.nll - others.nll).abs() > SAME_REFERENCE {
                    same("the reference's loss", own.nll, others.nll)?;
                }
            }
            let again = |own: &ModelResult| own.reference && model.reference;
            if !self.models.iter().any(again) {
                self.models.push(model);
            }
        }
        // The reference first, then the models as they came.
        self.models.sort_by_key(|model| !model.reference);
        Ok(())
    }

    /// For people: what was measured, a row for each model, the spread of the KL divergence, and the tasks.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for line in self.settings() {
            let _ = writeln!(text, "- {line}");
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&table(&self.columns()));
        for (title, columns) in [
            ("KL divergence, in nats per token", self.divergences()),
            ("Zero-shot tasks", self.task_columns()),
        ] {
            if columns.len() > 1 {
                let _ = writeln!(text, "\n{title}:\n");
                text.push_str(&table(&columns));
            }
        }
        text
    }

    fn settings(&self) -> Vec<String> {
        let begin = |bos| if bos { "with" } else { "without" };
        let text = self.text.iter().map(|text| {
            let half = match text.score.as_str() {
                "second-half" => ", second half scored",
                _ => "",
            };
            format!(
                "text: {}, {} of {} tokens {} begin token{half}, {} tokens predicted",
                text.file,
                count(text.windows, "window"),
                text.ctx_size,
                begin(text.bos),
                text.tokens
            )
        });
        let against = self.models.iter().find_map(|model| model.against.as_ref());
        let against = against.map(|against| {
            format!(
                "reference: {}, {}, KV cache in {}",
                against.model, against.format, against.kv_type
            )
        });
        let tasks = self.tasks.iter().map(|(name, task)| {
            format!(
                "{name}: {}, {}, {} begin token, no examples",
                task.file,
                count(task.rows, "row"),
                begin(task.bos)
            )
        });
        text.chain(against).chain(tasks).collect()
    }

    fn columns(&self) -> Vec<Column> {
        let against = |cell: fn(&Against) -> String| {
            move |model: &ModelResult| model.against.as_ref().map(cell)
        };
        let mut columns = vec![
            self.column("model", |model| Some(model.label())),
            self.column("recipe", |model| Some(model.recipe.clone())),
            self.column("format", |model| Some(model.format.clone())),
            self.column("KV", |model| Some(model.kv_type.clone())),
            self.column("MB", |model| {
                let bytes = model.file_bytes?;
                Some(format!("{:.2}", bytes as f64 / 1e6))
            }),
            self.column("bits/weight", |model| {
                model.bits_per_weight.map(|bits| format!("{bits:.2}"))
            }),
            self.column("perplexity", |model| {
                let perplexity = model.perplexity.as_ref()?;
                Some(plus_minus(perplexity.value, perplexity.standard_error))
            }),
            self.column(
                "over reference %",
                against(|against| {
                    let ratio = against.perplexity_ratio;
                    format!(
                        "{:+.2} ± {:.2}",
                        100.0 * (ratio.value - 1.0),
                        100.0 * ratio.standard_error
                    )
                }),
            ),
            self.column(
                "mean KL",
                against(|against| plus_minus(against.kl.mean, against.kl.standard_error)),
            ),
            self.column(
                "same top-1 %",
                against(|against| percent(against.same_top.value, against.same_top.standard_error)),
            ),
            self.column("KL 99 %", against(|against| small(against.kl.p99))),
        ];
        columns.retain(|column| column.cells.iter().any(Option::is_some));
        columns
    }

    /// Only the models' names where there are no tasks.
    fn task_columns(&self) -> Vec<Column> {
        let mut columns = vec![self.column("model", |model| {
            Some(format!("{}, {}", model.label(), model.format))
        })];
        for name in self.tasks.keys() {
            let of = |cell: fn(&TaskResult) -> Option<String>| {
                move |model: &ModelResult| model.tasks.get(name).and_then(cell)
            };
            columns.push(self.column(
                format!("{name} perplexity"),
                of(|task| Some(plus_minus(task.perplexity?, task.perplexity_stderr?))),
            ));
            columns.push(self.column(
                format!("{name} acc %"),
                of(|task| Some(percent(task.acc, task.acc_stderr))),
            ));
            columns.push(self.column(
                format!("{name} acc_norm %"),
                of(|task| Some(percent(task.acc_norm?, task.acc_norm_stderr?))),
            ));
        }
        columns.retain(|column| column.cells.iter().any(Option::is_some));
        columns
    }

    /// Only the model's column where nothing was compared.
    fn divergences(&self) -> Vec<Column> {
        let kl = |cell: fn(&Kl) -> f64| {
            move |model: &ModelResult| model.against.as_ref().map(|of| small(cell(&of.kl)))
        };
        let compared = Self {
            models: self
                .models
                .iter()
                .filter(|model| model.against.is_some())
                .cloned()
                .collect(),
            ..self.clone()
        };
        let mut columns = vec![
            compared.column("model", |model| {
                Some(format!("{}, {}", model.label(), model.format))
            }),
            compared.column("mean", kl(|kl| kl.mean)),
            compared.column("median", kl(|kl| kl.median)),
            compared.column("90 %", kl(|kl| kl.p90)),
            compared.column("95 %", kl(|kl| kl.p95)),
            compared.column("99 %", kl(|kl| kl.p99)),
            compared.column("99.9 %", kl(|kl| kl.p99_9)),
            compared.column("max", kl(|kl| kl.max)),
        ];
        columns.retain(|column| column.cells.iter().any(Option::is_some));
        columns
    }

    fn column(
        &self,
        title: impl Into<String>,
        cell: impl Fn(&ModelResult) -> Option<String>,
    ) -> Column {
        Column {
            title: title.into(),
            cells: self.models.iter().map(cell).collect(),
        }
    }
}

impl ModelResult {
    fn label(&self) -> String {
        if self.reference {
            format!("{} (reference)", self.model)
        } else {
            self.model.clone()
        }
    }
}

fn same_text(own: &TextSettings, others: &TextSettings) -> Result<(), String> {
    same("the windows' size", own.ctx_size, others.ctx_size)?;
    same("the number of windows", own.windows, others.windows)?;
    same("what is scored", &own.score, &others.score)?;
    same("the begin token", own.bos, others.bos)?;
    same("the text's ids", &own.ids_hash, &others.ids_hash)
}

fn same<T: PartialEq + std::fmt::Display>(what: &str, own: T, others: T) -> Result<(), String> {
    if own == others {
        Ok(())
    } else {
        Err(format!("{what}: found {others}, the others have {own}"))
    }
}

/// Cells by model; `None` where there is nothing to say.
struct Column {
    title: String,
    cells: Vec<Option<String>>,
}

/// Columns are as wide as their widest cell, so that the text is a table for people too.
fn table(columns: &[Column]) -> String {
    let cells: Vec<Vec<String>> = columns
        .iter()
        .map(|column| {
            let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "–".to_owned());
            std::iter::once(column.title.clone())
                .chain(column.cells.iter().map(cell))
                .map(|cell| cell.replace('|', "\\|"))
                .collect()
        })
        .collect();
    let width = |column: &[String]| {
        let widths = column.iter().map(|cell| cell.chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = cells.iter().map(|column| width(column)).collect();
    let line = |row: usize| {
        let padded = cells.iter().zip(&widths);
        let padded = padded.map(|(column, &width)| format!(" {:<width$} |", column[row]));
        format!("|{}\n", padded.collect::<String>())
    };
    let rule: String = widths
        .iter()
        .map(|width| format!(" {} |", "-".repeat(*width)))
        .collect();
    let rows = cells.first().map_or(0, Vec::len);
    let mut text = line(0);
    let _ = writeln!(text, "|{rule}");
    (1..rows).for_each(|row| text.push_str(&line(row)));
    text
}

/// With two digits of the error.
fn plus_minus(value: f64, error: f64) -> String {
    const MOST_DECIMALS: f64 = 9.0;
    let decimals = if error > 0.0 && error.is_finite() {
        (1.0 - error.log10().floor()).clamp(0.0, MOST_DECIMALS) as usize
    } else {
        4
    };
    format!("{value:.decimals$} ± {error:.decimals$}")
}

fn percent(share: f64, error: f64) -> String {
    format!("{:.2} ± {:.2}", 100.0 * share, 100.0 * error)
}

/// Three digits.
fn small(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, nll: f64) -> ModelResult {
        let estimate = |value, standard_error| Estimate {
            value,
            standard_error,
        };
        ModelResult {
            model: name.to_owned(),
            reference: false,
            recipe: "rtn-w4a8".to_owned(),
            format: "w4a8".to_owned(),
            kv_type: "f16".to_owned(),
            device: "CPU twins".to_owned(),
            parameters: 1000,
            file_bytes: Some(1_234_567),
            bits_per_weight: Some(4.5),
            perplexity: Some(Perplexity {
                value: 23.4567,
                standard_error: 0.321,
                nll: 3.155,
                nll_standard_error: 0.0137,
            }),
            against: Some(Against {
                model: "float".to_owned(),
                format: "f32".to_owned(),
                kv_type: "f32".to_owned(),
                nll,
                perplexity_ratio: estimate(1.0392, 0.0034),
                kl: Kl {
                    mean: 0.05061,
                    standard_error: 0.00087,
                    median: 0.0312,
                    p90: 0.1,
                    p95: 0.15,
                    p99: 0.4,
                    p99_9: 1.25,
                    max: 3.5,
                },
                same_top: estimate(0.857, 0.0055),
            }),
            tasks: BTreeMap::from([(
                "piqa".to_owned(),
                TaskResult {
                    rows: 500,
                    acc: 0.5,
                    acc_stderr: 0.0224,
                    acc_norm: Some(0.49),
                    acc_norm_stderr: Some(0.0224),
                    perplexity: None,
                    perplexity_stderr: None,
                },
            )]),
        }
    }

    fn results(models: Vec<ModelResult>) -> Results {
        Results {
            text: Some(TextSettings {
                file: "book.txt".to_owned(),
                ids_hash: hash(*b"ids"),
                windows: 16,
                ctx_size: 512,
                score: "second-half".to_owned(),
                bos: true,
                tokens: 4080,
            }),
            tasks: BTreeMap::from([(
                "piqa".to_owned(),
                TaskSettings {
                    file: "valid.jsonl".to_owned(),
                    file_hash: hash(*b"rows"),
                    rows: 500,
                    bos: true,
                },
            )]),
            models,
            ..Results::new()
        }
    }

    fn reference() -> ModelResult {
        ModelResult {
            reference: true,
            against: None,
            recipe: "float".to_owned(),
            format: "f32".to_owned(),
            ..model("float", 0.0)
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash([]), "cbf29ce484222325");
        assert_eq!(hash(*b"a"), "af63dc4c8601ec8c");
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let results = results(vec![reference(), model("a", 3.1)]);
        let json = serde_json::to_string(&results).expect("plain data");
        assert_eq!(Results::parse(&json), Ok(results.clone()));
        let newer = Results {
            plateau_eval: 2,
            ..results
        };
        let json = serde_json::to_string(&newer).expect("plain data");
        assert_eq!(
            Results::parse(&json),
            Err("found version 2, expected 1".to_owned())
        );
        assert!(Results::parse("{}").is_err());
    }

    #[test]
    fn the_table_has_a_row_for_each_model_and_no_empty_column() {
        let text = results(vec![reference(), model("a|b", 3.1)]).markdown();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 4 + 3 + 4, "{text}");
        for part in [
            "- text: book.txt, 16 windows of 512 tokens with begin token, second half scored, 4080 tokens predicted",
            "- reference: float, f32, KV cache in f32",
            "- piqa: valid.jsonl, 500 rows, with begin token, no examples",
            "float (reference)",
            "a\\|b",
            "1.23",
            "23.46 ± 0.32",
            "+3.92 ± 0.34",
            "0.05061 ± 0.00087",
            "85.70 ± 0.55",
            "0.400",
            "50.00 ± 2.24",
            "piqa acc_norm %",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("piqa perplexity"), "{text}");
        let widths: Vec<usize> = rows[..4].iter().map(|row| row.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");

        let mut alone = model("a", 3.1);
        alone.against = None;
        let text = results(vec![alone]).markdown();
        assert!(!text.contains("KL") && !text.contains("top-1"), "{text}");
    }

    #[test]
    fn results_of_one_measurement_are_merged() {
        let mut all = results(vec![reference(), model("a", 3.1)]);
        let second = results(vec![reference(), model("b", 3.100001)]);
        assert_eq!(all.merge(second), Ok(()));
        let names: Vec<String> = all.models.iter().map(ModelResult::label).collect();
        assert_eq!(names, ["float (reference)", "a", "b"]);

        let mut other = results(vec![model("c", 3.1)]);
        let settings = other.text.as_mut().expect("has a text");
        settings.ids_hash = hash(*b"others");
        let refused = all.clone().merge(other).expect_err("another text");
        assert!(refused.starts_with("the text's ids: "), "{refused}");
        let refused = all.clone().merge(results(vec![model("c", 3.2)]));
        let refused = refused.expect_err("another reference");
        assert_eq!(
            refused,
            "the reference's loss: found 3.2, the others have 3.1"
        );
        let mut fewer = results(vec![model("c", 3.1)]);
        fewer
            .tasks
            .entry("piqa".to_owned())
            .and_modify(|task| task.rows = 7);
        let refused = all.merge(fewer).expect_err("fewer rows");
        assert_eq!(
            refused,
            "the number of rows of piqa: found 7, the others have 500"
        );

        let mut empty = Results::new();
        assert_eq!(empty.merge(results(vec![model("a", 3.1)])), Ok(()));
        assert_eq!(empty, results(vec![model("a", 3.1)]));
    }

    #[test]
    fn numbers_have_the_digits_that_their_error_allows() {
        assert_eq!(plus_minus(23.45678, 0.321), "23.46 ± 0.32");
        assert_eq!(plus_minus(3777.3, 312.0), "3777 ± 312");
        assert_eq!(plus_minus(0.000_601_2, 0.000_021), "0.000601 ± 0.000021");
        assert_eq!(plus_minus(0.0, 0.0), "0.0000 ± 0.0000");
        assert_eq!(small(0.040_61), "0.0406");
        assert_eq!(small(12.3456), "12.3");
        assert_eq!(small(0.0), "0");
    }
}
