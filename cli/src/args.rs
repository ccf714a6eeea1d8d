//! What was typed: the grammar of the command line. Values are checked here; what they mean is decided in `load` and `commands`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Parser, Subcommand};
use plateau::exec::{AttentionChoice, DeviceChoice, KernelChoice, KernelChoices};
use plateau::quantize::outliers::Outliers;
use plateau::quantize::recipe::{Activations, Parts, RECIPES, Recipe, Smoothing};
use plateau::tensor::{Granularity, KvType, Quant};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  plateau generate \"Once upon a time\"            with the built-in model
  plateau generate -m ./my-model -p Hello -n 64  a model in Hugging Face layout
  plateau devices                                which GPUs there are
  plateau bench -m ./my-model                    tokens per second

Exit codes:
  0    done
  1    any other failure
  2    wrong usage: an option, a prompt, a context size
  3    the model was not found
  4    a model file is invalid or unsafe
  5    no usable device, or not the one that was named
  6    out of device memory, or the model does not fit
  7    the device was lost
  8    a numeric check failed
  130  interrupted by Ctrl-C";

#[derive(Debug, Parser)]
#[command(
    name = "plateau",
    version,
    about = "Runs quantized language models on any GPU",
    after_help = EXAMPLES,
    max_term_width = 110,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// Print nothing on stderr but errors, and that no GPU can be used
    #[arg(short, long, global = true, display_order = 998)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Generate(Generate),
    Devices(Devices),
    Inspect(Inspect),
    Logits(Logits),
    Perplexity(Perplexity),
    Eval(Eval),
    Bench(Bench),
    BenchOps(BenchOps),
    Quantize(Quantize),
    Completions(Completions),
}

/// Which model.
#[derive(Debug, clap::Args)]
pub struct ModelArg {
    /// Folder in Hugging Face layout, or owner/name in the local Hugging Face cache [default: the built-in model]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,
}

/// In which formats a model is kept.
#[derive(Debug, clap::Args)]
pub struct FormatArgs {
    /// Round a float model's linears to nearest at load [default: f16; a quantized model keeps its own]
    #[arg(long, value_name = "FORMAT", value_parser = quant())]
    pub quant: Option<Quant>,
    /// One weight scale for each tensor instead of one for each output channel
    #[arg(long, requires = "quant")]
    pub per_tensor: bool,
    /// Type of the KV cache [default: f16]
    #[arg(
        long,
        value_name = "TYPE",
        value_parser = kv_type(),
        aliases = ["cache-type-k", "cache-type-v"],
        action = ArgAction::Append
    )]
    pub kv_type: Vec<KvType>,
}

/// Where it runs.
#[derive(Debug, clap::Args)]
pub struct DeviceArg {
    /// auto, twin (the CPU twins of the kernels; cpu is the same), an index of `plateau devices`, or part of a name
    #[arg(long, value_name = "DEVICE", default_value = "auto", allow_negative_numbers = true, value_parser = device)]
    pub device: DeviceChoice,
    /// How integer matrices with many rows are multiplied: auto (the fastest in a trial, of what the adapter has and what passes its
    /// self-test; dot4 on a software driver), dot4, f32, coop (f16 matrices) or coop-int8
    #[arg(long, value_name = "KERNELS", default_value = "auto", value_parser = kernels())]
    pub kernels: KernelChoice,
    /// What attention over a KV cache in f16 runs on: portable, or coop (f16 matrices: long prompts are faster, generation is slower;
    /// queries and weights are rounded to halves)
    #[arg(long, value_name = "ATTENTION", default_value = "portable", value_parser = attention())]
    pub attention: AttentionChoice,
}

impl DeviceArg {
    pub const fn choices(&self) -> KernelChoices {
        KernelChoices {
            linears: self.kernels,
            attention: self.attention,
        }
    }
}

/// Everything that a command which loads a model has in common.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub model: ModelArg,
    #[command(flatten)]
    pub device: DeviceArg,
    #[command(flatten)]
    pub format: FormatArgs,
}

/// Continue a text
///
/// Only the continuation goes to stdout, as it comes; which device, seed and speed go to stderr.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau generate \"Once upon a time\"
  plateau generate --temp 0 -p \"The sea was\"    greedy: the same text each time
  plateau generate -m ./my-model --quant w4a8 -f prompt.txt
  echo \"The sea was\" | plateau generate - -n -1    from stdin, to the end token
  plateau generate --json --stop \".\" \"It was\"    one JSON object per line")]
pub struct Generate {
    /// The text to continue; - reads it from stdin
    #[arg(value_name = "PROMPT", required_unless_present_any = ["prompt", "file"])]
    pub text: Option<String>,
    /// The text to continue
    #[arg(short, long, value_name = "PROMPT", conflicts_with_all = ["text", "file"], allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// File that holds the text to continue, in UTF-8, less one newline at its end; - is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub load: LoadArgs,
    /// New tokens at most; -1 goes on to the end token or the end of the context
    #[arg(
        short = 'n',
        long,
        visible_alias = "max-new-tokens",
        value_name = "N",
        default_value_t = 128,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX))
    )]
    pub n_predict: i64,
    /// Tokens of prompt and continuation together [default: the model's limit, at most 4096]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_size: Option<u32>,
    /// Seed of the random choice [default: a random one, printed on stderr]
    #[arg(short, long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true, value_parser = not_negative)]
    pub temp: f32,
    /// Choose among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: u32,
    /// Choose among the most likely tokens whose probabilities reach P together; 1 is all
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true, value_parser = share)]
    pub top_p: f32,
    /// Leave out tokens that are less likely than P times the most likely one; 0 is none
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true, value_parser = share)]
    pub min_p: f32,
    /// Make the last 64 tokens less likely; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, value_parser = positive)]
    pub repeat_penalty: f32,
    /// End before this text; may be given several times
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub stop: Vec<String>,
    /// Go on after an end token
    #[arg(long)]
    pub ignore_eos: bool,
    /// One JSON object per line on stdout: each piece of text, then the end with its reason, counts and rates
    #[arg(long)]
    pub json: bool,
}

/// List the devices that --device can name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau devices
  plateau devices --json
  plateau generate --device 1 \"Once upon a time\"")]
pub struct Devices {
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Show what is in a model, and the memory that it needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau inspect
  plateau inspect ./my-model -c 2048
  plateau inspect ./my-model --quant w4a8 --json")]
pub struct Inspect {
    /// Folder in Hugging Face layout, or owner/name in the local Hugging Face cache [default: the built-in model]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    pub folder: Option<String>,
    #[command(flatten)]
    pub model: ModelArg,
    #[command(flatten)]
    pub format: FormatArgs,
    /// Count the memory for a context of N tokens [default: the model's limit, at most 4096]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_size: Option<u32>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Write the logits of some tokens to a file
///
/// The file is safetensors with one tensor, `logits`, [tokens, vocab] in f32. An existing file is replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau logits -m ./my-model --ids 1,306,4658 -o logits.safetensors
  plateau logits -m ./my-model --ids 1,306 -o l.safetensors --quant f32")]
pub struct Logits {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_delimiter = ',')]
    pub ids: Vec<u32>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Which tokens of a window count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Score {
    /// Every token that is predicted
    All,
    /// The second half of each window, as llama.cpp does
    SecondHalf,
}

/// Measure how well a model predicts a text
///
/// The text is tokenized once, without special tokens, and cut into windows that do not overlap; what is left at the
/// end is dropped. A window is the begin token and N-1 tokens of text where the model has a begin token, else N tokens
/// of text. Its first token is not predicted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau perplexity -m ./my-model -f wiki.test.raw
  plateau perplexity -f book.txt -c 256 --chunks 16 --no-bos --kv-type f32
  plateau perplexity -f wiki.test.raw --score second-half    as llama.cpp does")]
pub struct Perplexity {
    #[command(flatten)]
    pub load: LoadArgs,
    /// The text, in UTF-8
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Tokens of a window [default: 512, or the model's limit where that is less]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub ctx_size: Option<u32>,
    /// Windows at most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Windows without a begin token
    #[arg(long)]
    pub no_bos: bool,
    /// Which predictions count
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Score::All)]
    pub score: Score,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Score models: perplexity, divergence from the float original, zero-shot tasks
///
/// Perplexity is that of `plateau perplexity`, on the same windows. With --against each model is also compared with its
/// float original, computed in f32: ratio of the perplexities, KL divergence in nats per token, and how often both find the
/// same token most likely. Tasks have the prompts and metrics of lm-evaluation-harness, without examples; each row of a
/// JSON Lines file is a question. All models are loaded at the same time. Errors (±) are standard errors.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau eval -m ./my-model-w4a8 -f book.txt --against ./my-model
  plateau eval -m ./my-model --kv-type f16 --quant f32 -f book.txt \\
      --against ./my-model                       what an f16 KV cache costs
  plateau eval -m ./my-model --tasks piqa=valid.jsonl,arc_easy=test.jsonl
  plateau eval -m ./my-model --tasks all --task-dir ./tasks --limit 100
  plateau eval --compare ./w8a8 ./w4a8 --against ./my-model -f book.txt -o t.md
  plateau eval --compare a.json b.json           results of earlier runs (-o)")]
pub struct Eval {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Several models side by side, as -m takes them, or results of earlier runs (.json); --quant rounds the float ones
    #[arg(long, value_name = "MODEL", num_args = 1.., conflicts_with = "model")]
    pub compare: Vec<String>,
    /// The float original that models are compared with, as -m takes it
    #[arg(long, value_name = "MODEL")]
    pub against: Option<String>,
    /// Type of the float original's KV cache [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = kv_type(), requires = "against")]
    pub against_kv_type: Option<KvType>,
    /// A text, in UTF-8
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Tokens of a window [default: 512, or the model's limit where that is less]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub ctx_size: Option<u32>,
    /// Windows at most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Windows and tasks without a begin token
    #[arg(long)]
    pub no_bos: bool,
    /// Which predictions of a window count
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Score::All)]
    pub score: Score,
    /// Tasks, separated by commas: NAME=FILE, or NAME or all with --task-dir; names are lambada_openai, piqa, hellaswag,
    /// winogrande, arc_easy, arc_challenge, openbookqa
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub tasks: Vec<String>,
    /// Folder with NAME.jsonl or NAME/*.jsonl
    #[arg(long, value_name = "DIR", requires = "tasks")]
    pub task_dir: Option<PathBuf>,
    /// Only the first N rows of each task
    #[arg(long, value_name = "N", requires = "tasks", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    pub json: bool,
    /// Write the results to a file too, .json or .md; may be given several times
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
}

/// How `bench` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchOutput {
    Md,
    Csv,
    Json,
    Jsonl,
}

/// A word of a list of counts as llama-bench takes it: 512, 1-4, 128-512+128 (in steps), 1-32*2 (multiplied).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(pub Vec<u32>);

/// All the counts of a list.
pub fn all_counts(list: &[Counts]) -> Vec<u32> {
    list.iter().flat_map(|counts| counts.0.clone()).collect()
}

/// Tokens of a prompt and of its continuation, measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptAndGen {
    pub prompt: u32,
    pub gen_tokens: u32,
}

/// Measure tokens per second
///
/// Options, table and field names are llama-bench's. Lists are separated by commas or given by several options; 1-4 is a
/// range, 0-512+128 one in steps, 1-32*2 one that is multiplied. Each test runs for half a second, at least once, to warm
/// up. Tokenizing is not measured. First a few greedy tokens are checked against the logits of one prefill; a wrong result has no
/// speed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau bench
  plateau bench -m ./my-model --quant w4a8 -p 128,512 -n 64 -r 3
  plateau bench --shape llama2-7b --quant w4a8 -o json   random weights
  plateau bench -m ./my-model -pg 512,128 -ub 128,512
  plateau bench -p 0 -n 32 --profile trace.json    where the time goes

How speed changes:
  plateau bench -p 512 -n 64 -d 0,512,2048 --plot context.svg
  plateau bench -p 0 -n 64 -npl 1-32*2 --plot batch.svg
  plateau bench --shape tinyllama-1.1b,llama2-7b --plot size.svg")]
pub struct Bench {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Random weights instead of a model: names of shapes (tinyllama-1.1b, llama2-7b, llama3.1-8b, opt-1.3b, opt-6.7b)
    /// or paths of config.json files, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "model"
    )]
    pub shape: Vec<String>,
    /// Features of a group of INT4 weights of --shape; 0 is none
    #[arg(long, value_name = "N", default_value_t = 0, requires = "shape", value_parser = group_size())]
    pub group_size: u32,
    /// Static inputs for --shape, with so many extra channels as a share of the channels; after a comma those of down_proj
    /// or fc2
    #[arg(long, value_name = "SHARE[,DOWN]", requires = "shape", value_parser = added_channels)]
    pub added_channels: Option<AddedChannels>,
    /// Prompt lengths (pp); 0 is none
    #[arg(
        short = 'p',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "512",
        value_parser = counts
    )]
    pub n_prompt: Vec<Counts>,
    /// Tokens to generate (tg); 0 is none
    #[arg(
        short = 'n',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "128",
        value_parser = counts
    )]
    pub n_gen: Vec<Counts>,
    /// A prompt and its continuation in one measurement (-pg is the same); may be given several times
    #[arg(long, value_name = "PP,TG", value_parser = prompt_and_gen)]
    pub pg: Vec<PromptAndGen>,
    /// Tokens in the context before each test, which are not measured
    #[arg(
        short = 'd',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "0",
        value_parser = counts
    )]
    pub n_depth: Vec<Counts>,
    /// Sequences at once, each with the test's tokens; speeds are those of all together (-npl is the same)
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1",
        value_parser = positive_counts
    )]
    pub npl: Vec<Counts>,
    /// How often each test is measured
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Tokens of a prompt that are handed over at once; a submission has no more, whatever -ub says
    #[arg(
        short,
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "2048",
        value_parser = positive_counts
    )]
    pub batch_size: Vec<Counts>,
    /// Tokens of one prefill submission (-ub is the same) [default: 2048 on a GPU with memory of its own, 512 elsewhere]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = positive_counts
    )]
    pub ubatch_size: Vec<Counts>,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = BenchOutput::Md)]
    pub output: BenchOutput,
    /// Say of how many dispatches a step consists, and of which ones in a layer
    #[arg(short, long)]
    pub verbose: bool,
    /// Run each test once more with a timestamp after each dispatch: print the time of each kernel, and write a trace that
    /// a browser opens (chrome://tracing, ui.perfetto.dev) to FILE [default: plateau-trace.json]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "plateau-trace.json")]
    pub profile: Option<PathBuf>,
    /// Draw the speeds as SVG: against -d, else -npl, else the size of the models, else the length, whichever is a list
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// What `bench-ops` does with the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OpsMode {
    /// Compare each case with its twin
    Test,
    /// Compare, then time, and set against what the adapter can do at most
    Perf,
    /// Which kernels and variants this adapter runs, and why not the others
    Support,
}

/// What `bench-ops` compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// The twins: plain loops on the CPU
    Twin,
    /// CUDA kernels of the same operations: test compares every case of several seeds, and whole models; perf times cuBLASLt beside
    /// the large linears, and a copy; support says whether all that it takes is there
    Cuda,
}

/// Test and time single kernels
///
/// The cases are those of the project's own tests; perf adds linears of the shapes that models have. A kernel is compared
/// with its twin, a plain loop on the CPU, before it is timed: a wrong result has no speed. perf measures first what the
/// adapter can do at most: copy and read memory, and calculate in dot4, f32, f16 and, where it has them, on matrices.
///
/// µs is the time of a dispatch among others that do not wait for each other, chained µs of one that waits for the one before,
/// as in a model. Weights take turns, so that they come from memory. GB/s counts every word once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau bench-ops                    large linears, and each other kernel
  plateau bench-ops perf --filter 'gem[mv]_i4.*in=4096' -o csv
  plateau bench-ops test               every case against its twin
  plateau bench-ops test --filter rms_norm --seed 7
  plateau bench-ops support --device 1
  plateau bench-ops test --against cuda    on an NVIDIA GPU")]
pub struct BenchOps {
    #[arg(value_enum, default_value_t = OpsMode::Perf)]
    pub mode: OpsMode,
    /// Only cases whose kernel and name contain TEXT or match it as a regular expression; the whole name is that case alone
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = BenchOutput::Md)]
    pub output: BenchOutput,
    /// Other random inputs [default: 0, those of the project's tests; test --against cuda: 0, 1 and 2]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What kernels are compared with; cuda is for NVIDIA GPUs, and needs the CUDA toolkit's NVRTC and cuBLASLt
    #[arg(long, value_enum, value_name = "PEER", default_value_t = Against::Twin)]
    pub against: Against,
    /// perf: leave out cases that would take longer, each
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive)]
    pub budget: f32,
    #[command(flatten)]
    pub device: DeviceArg,
}

/// Extra channels, as shares of the channels: of every linear, and of an MLP's second one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddedChannels(pub [f32; 2]);

fn added_channels(text: &str) -> Result<AddedChannels, String> {
    let (first, down) = text.split_once(',').unwrap_or((text, text));
    let share = |text: &str| match text.trim().parse::<f32>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?}: a share from 0 to 1 is expected")),
    };
    Ok(AddedChannels([share(first)?, share(down)?]))
}

/// Write a quantized copy of a float model
///
/// Runs sample text through the model, chooses scales, bits and flatten maps layer by layer, and writes a folder that every other
/// command loads. A recipe says which steps there are; each knob below changes one thing of it.
#[derive(Debug, clap::Args)]
#[command(after_help = recipe_help("\
Examples:
  plateau quantize ./my-model ./my-model-w4a8 --calib book.txt
  plateau quantize ./my-model ./my-model-fq --calib book.txt \\
      --recipe flattenquant --report report.json
  plateau quantize ./my-model ./my-model-w4 --recipe rtn-w4a8
  plateau generate -m ./my-model-w4a8 \"Once upon a time\""))]
pub struct Quantize {
    /// Folder in Hugging Face layout, or owner/name in the local Hugging Face cache
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Folder to write; made where it does not exist
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Which steps, and their settings
    #[arg(long, value_name = "NAME", default_value = "flattenquant-w4a8", value_parser = recipe())]
    pub recipe: Recipe,
    /// Put outliers into the float model first, without changing what it computes: SHARE of the channels of each norm are
    /// scaled by LOWEST to HIGHEST
    #[arg(long, value_name = "SHARE,LOWEST,HIGHEST", num_args = 0..=1, require_equals = true, default_missing_value = "0.02,5,60", value_parser = outliers)]
    pub inject_outliers: Option<Outliers>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write what was chosen and measured as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write into OUT even where it has other files (another model is never overwritten)
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub device: DeviceArg,
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    #[command(flatten)]
    pub knobs: KnobArgs,
}

/// The sample text.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Text like that which the model will see; - is standard input
    #[arg(long, value_name = "FILE")]
    pub calib: Option<PathBuf>,
    /// Windows of the text that are run; fewer where the text has fewer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub nsamples: u32,
    /// Tokens of a window, the first one <s> where the model has it [default: 512, or the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub seqlen: Option<u32>,
    /// Chooses the windows, and the channels of --inject-outliers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// What changes a recipe.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Knobs [default: the recipe's]")]
pub struct KnobArgs {
    /// Features that share a multiplier of the channel's scale, for INT4 weights; 0 is none
    #[arg(long, value_name = "N", value_parser = group_size())]
    pub group_size: Option<u32>,
    /// One weight scale for each output channel, or one for each tensor
    #[arg(long, value_name = "OF", value_parser = weight_scale())]
    pub weight_scale: Option<Granularity>,
    /// off, balance (least noise after flattening), or SmoothQuant's migration strength from 0 to 1
    #[arg(long, value_name = "HOW", value_parser = smoothing)]
    pub smooth: Option<Smoothing>,
    /// Static scales: one part for each channel, as many as cover the largest value, or as many as lower the expected
    /// error most
    #[arg(long, value_name = "HOW", value_parser = parts())]
    pub parts: Option<Parts>,
    /// Channels that flattening may add, as a share of a linear's inputs, where activations are INT4
    #[arg(long, value_name = "SHARE", value_parser = not_negative)]
    pub added_int4: Option<f32>,
    /// The same where activations are INT8
    #[arg(long, value_name = "SHARE", value_parser = not_negative)]
    pub added_int8: Option<f32>,
    /// The same where activations are INT8, for the MLP's second linear, whose input has the largest outliers
    #[arg(long, value_name = "SHARE", value_parser = not_negative)]
    pub added_down: Option<f32>,
    /// All tensors take at most so many megabytes (of 1000000 bytes): weights of INT4 in groups, INT5, INT6 or INT8, by
    /// measured sensitivity; activations INT8
    #[arg(long, value_name = "MB", value_parser = positive)]
    pub target_size: Option<f32>,
    /// The same in bits for each of the model's weights, embedding and head among them
    #[arg(long, value_name = "BITS", value_parser = positive, conflicts_with_all = ["target_size", "int4_share", "kl_limit"])]
    pub target_bpw: Option<f32>,
    /// Scales of the activations: found for each token, or static with a flatten map; float: none, the weights are
    /// dequantized to f32 at load
    #[arg(long, value_name = "HOW", value_parser = activations())]
    pub activations: Option<Activations>,
    /// Share of the linears' work in INT4 by INT4, for recipes that mix
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub int4_share: Option<f32>,
    /// The same choice as FlattenQuant makes it: INT4 by INT4 where its KL divergence is at most X times that of INT8
    #[arg(long, value_name = "X", value_parser = positive, conflicts_with_all = ["int4_share", "target_size"])]
    pub kl_limit: Option<f32>,
    /// Whether weights are rounded by GPTQ
    #[arg(long, value_name = "ON", value_parser = on_off)]
    pub gptq: Option<bool>,
    /// GPTQ with static scales: fit weights to the quantized inputs before they are rounded
    #[arg(long, value_name = "ON", value_parser = on_off)]
    pub refit: Option<bool>,
    /// GPTQ: what is added to the Hessian's diagonal, as a share of its mean
    #[arg(long, value_name = "SHARE", value_parser = not_negative)]
    pub damping: Option<f32>,
    /// GPTQ: round the features with the largest inputs first
    #[arg(long, value_name = "ON", value_parser = on_off)]
    pub act_order: Option<bool>,
    /// Whether weight scales are searched for, clipping the largest weights
    #[arg(long, value_name = "ON", value_parser = on_off)]
    pub clip: Option<bool>,
    /// Whether keys and values of the first token <s> are stored as floats
    #[arg(long, value_name = "ON", value_parser = on_off)]
    pub prefix: Option<bool>,
}

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plateau completions bash > ~/.local/share/bash-completion/completions/plateau
  plateau completions zsh > ~/.zfunc/_plateau
  plateau completions fish > ~/.config/fish/completions/plateau.fish")]
pub struct Completions {
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

fn quant() -> impl TypedValueParser<Value = Quant> {
    PossibleValuesParser::new(Quant::ALL.map(Quant::name)).try_map(|name| name.parse::<Quant>())
}

/// The recipes, a line each, and what follows.
fn recipe_help(examples: &str) -> String {
    let width = RECIPES
        .map(|(name, _)| name.len())
        .into_iter()
        .max()
        .unwrap_or(0);
    let lines = RECIPES.map(|(name, what)| format!("  {name:width$}  {what}\n"));
    format!("Recipes:\n{}\n{examples}", lines.concat())
}

fn recipe() -> impl TypedValueParser<Value = Recipe> {
    PossibleValuesParser::new(RECIPES.map(|(name, _)| name))
        .try_map(|name| Recipe::named(&name).ok_or("a recipe's name is expected"))
}

fn weight_scale() -> impl TypedValueParser<Value = Granularity> {
    PossibleValuesParser::new(["channel", "tensor"]).map(|name| match name.as_str() {
        "tensor" => Granularity::PerTensor,
        _ => Granularity::PerChannel,
    })
}

fn parts() -> impl TypedValueParser<Value = Parts> {
    PossibleValuesParser::new(["none", "cover", "search"]).map(|name| match name.as_str() {
        "none" => Parts::None,
        "cover" => Parts::Cover,
        _ => Parts::Search,
    })
}

fn activations() -> impl TypedValueParser<Value = Activations> {
    PossibleValuesParser::new(["dynamic", "static", "float"]).map(|name| match name.as_str() {
        "static" => Activations::Static,
        "float" => Activations::Float,
        _ => Activations::Dynamic,
    })
}

fn smoothing(text: &str) -> Result<Smoothing, String> {
    match text {
        "off" => Ok(Smoothing::Off),
        "balance" => Ok(Smoothing::Balance),
        _ => share(text)
            .map(Smoothing::Strength)
            .map_err(|_| "off, balance, or a number from 0 to 1 is expected".to_owned()),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off is expected".to_owned()),
    }
}

fn outliers(text: &str) -> Result<Outliers, String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[share, lowest, highest])
            if share > 0.0
                && share <= 1.0
                && lowest >= 1.0
                && highest >= lowest
                && highest.is_finite() =>
        {
            Ok(Outliers {
                share,
                lowest,
                highest,
                seed: 0,
            })
        }
        _ => Err(
            "a share above 0 and two factors of 1 or more, such as 0.02,5,60, are expected"
                .to_owned(),
        ),
    }
}

fn attention() -> impl TypedValueParser<Value = AttentionChoice> {
    PossibleValuesParser::new(AttentionChoice::ALL.map(AttentionChoice::name))
        .try_map(|name| name.parse::<AttentionChoice>())
}

fn kernels() -> impl TypedValueParser<Value = KernelChoice> {
    PossibleValuesParser::new(KernelChoice::ALL.map(KernelChoice::name))
        .try_map(|name| name.parse::<KernelChoice>())
}

fn kv_type() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(KvType::ALL.map(KvType::name)).try_map(|name| name.parse::<KvType>())
}

fn group_size() -> impl TypedValueParser<Value = u32> {
    PossibleValuesParser::new(["0", "32", "64", "128"]).try_map(|name| name.parse::<u32>())
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    if text.trim().is_empty() {
        return Err("a name, an index, auto or twin is expected".to_owned());
    }
    let Ok(choice) = text.parse();
    Ok(choice)
}

fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("a number is expected".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f32, String> {
    let value = number(text)?;
    if value >= 0.0 {
        Ok(value)
    } else {
        Err("0 or more is expected".to_owned())
    }
}

fn positive(text: &str) -> Result<f32, String> {
    let value = number(text)?;
    if value > 0.0 {
        Ok(value)
    } else {
        Err("more than 0 is expected".to_owned())
    }
}

fn share(text: &str) -> Result<f32, String> {
    let value = number(text)?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("0 to 1 is expected".to_owned())
    }
}

fn counts(text: &str) -> Result<Counts, String> {
    /// Longer lists are mistakes.
    const MOST: usize = 1000;
    let expected =
        || "a count, or a range such as 1-4, 0-512+128 or 1-32*2, is expected".to_owned();
    let number = |word: &str| word.trim().parse::<u32>().map_err(|_| expected());
    let Some((first, rest)) = text.split_once('-') else {
        return Ok(Counts(vec![number(text)?]));
    };
    let (last, add, multiply) = match (rest.split_once('+'), rest.split_once('*')) {
        (Some((last, step)), _) => (last, number(step)?, 1),
        (None, Some((last, factor))) => (last, 0, number(factor)?),
        (None, None) => (rest, 1, 1),
    };
    let (first, last) = (number(first)?, number(last)?);
    let mut list = Vec::new();
    let mut next = first;
    while next <= last && list.len() < MOST {
        list.push(next);
        let after = u64::from(next) * u64::from(multiply) + u64::from(add);
        match u32::try_from(after) {
            Ok(after) if after > next => next = after,
            _ if next == last => break,
            Ok(_) => return Err(format!("'{text}' does not go on after {next}")),
            Err(_) => break,
        }
    }
    if list.is_empty() || list.len() == MOST {
        return Err(expected());
    }
    Ok(Counts(list))
}

fn positive_counts(text: &str) -> Result<Counts, String> {
    let list = counts(text)?;
    if list.0.contains(&0) {
        return Err("1 or more is expected".to_owned());
    }
    Ok(list)
}

fn prompt_and_gen(text: &str) -> Result<PromptAndGen, String> {
    let parse = |word: &str| word.trim().parse::<u32>().ok().filter(|&count| count > 0);
    text.split_once(',')
        .and_then(|(prompt, gen_tokens)| {
            Some(PromptAndGen {
                prompt: parse(prompt)?,
                gen_tokens: parse(gen_tokens)?,
            })
        })
        .ok_or_else(|| "two counts such as 512,128 are expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("plateau").chain(line.split(' ')))
    }

    fn generate(line: &str) -> Generate {
        match parse(line).map(|args| args.command) {
            Ok(Command::Generate(generate)) => generate,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Args::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn examples_fit_a_narrow_terminal() {
        let all = Args::command();
        for command in all.get_subcommands().chain([&all]) {
            let help = command.get_after_help().map(ToString::to_string);
            for line in help.unwrap_or_default().lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn the_defaults_are_those_of_llama_cpp() {
        let args = generate("generate text");
        assert_eq!(
            (args.temp, args.top_k, args.top_p, args.min_p),
            (0.8, 40, 0.95, 0.05)
        );
        assert_eq!(
            (args.repeat_penalty, args.n_predict, args.seed),
            (1.0, 128, None)
        );
        assert_eq!(args.load.device.device, DeviceChoice::Auto);
    }

    #[test]
    fn minus_one_is_a_count_and_a_dash_is_stdin() {
        let args = generate("generate - -n -1");
        assert_eq!((args.text.as_deref(), args.n_predict), (Some("-"), -1));
        assert_eq!(generate("generate x --max-new-tokens 7").n_predict, 7);
        assert_eq!(generate("generate -p -dash --stop ---").stop, ["---"]);
        assert_eq!(generate("generate -f -").file, Some(PathBuf::from("-")));
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "generate",
            "generate x -n -2",
            "generate x -n many",
            "generate x -c 0",
            "generate x -c -1",
            "generate x --temp -0.1",
            "generate x --temp nan",
            "generate x --temp inf",
            "generate x --top-k -1",
            "generate x --top-p 1.01",
            "generate x --top-p -0.5",
            "generate x --min-p 2",
            "generate x --repeat-penalty 0",
            "generate x --quant w3a3",
            "generate x --kv-type f64",
            "generate x --per-tensor",
            "generate x --device=",
            "generate x --stop=",
            "generate x -p y",
            "generate x -f y",
            "generate -p x -f y",
            "generate x y",
            "generate x --flash-attn",
            "inspect a -m b",
            "logits -m a -o b",
            "logits -m a -o b --ids 1,x",
            "logits -m a -o b --ids -1",
            "perplexity -m a",
            "perplexity -m a -f b -c 1",
            "perplexity -m a -f b --chunks 0",
            "perplexity -m a -f b --score some",
            "eval -m a --compare b -f c",
            "eval --compare",
            "eval -f a --against-kv-type f16",
            "eval -f a --limit 1",
            "eval -f a --task-dir b",
            "eval --tasks a=b --limit 0",
            "bench -r 0",
            "bench --pg 512",
            "bench --pg 512,0",
            "bench --ubatch-size 0",
            "bench -m a --shape llama2-7b",
            "bench -o sql",
            "bench -d x",
            "bench --npl 0",
            "bench -b 0",
            "bench --plot",
            "bench-ops all",
            "bench-ops --budget 0",
            "bench-ops --seed x",
            "quantize a",
            "quantize a b --recipe unknown",
            "quantize a b --group-size 48",
            "quantize a b --smooth 2",
            "quantize a b --inject-outliers=0.5,60,5",
            "quantize a b --gptq maybe",
            "completions tcsh",
            "unknown",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let Ok(Command::Bench(bench)) =
            parse("bench -p 64,128 -n 0 --pg 8,4 --pg 16,2").map(|args| args.command)
        else {
            panic!("bench");
        };
        assert_eq!(all_counts(&bench.n_prompt), [64, 128]);
        assert_eq!(all_counts(&bench.n_gen), [0]);
        assert_eq!(
            bench.pg,
            [
                PromptAndGen {
                    prompt: 8,
                    gen_tokens: 4
                },
                PromptAndGen {
                    prompt: 16,
                    gen_tokens: 2
                }
            ]
        );
    }

    #[test]
    fn lists_have_the_ranges_of_llama_bench() {
        let list = |text: &str| counts(text).map(|counts| counts.0);
        assert_eq!(list("7"), Ok(vec![7]));
        assert_eq!(list("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(list("0-512+256"), Ok(vec![0, 256, 512]));
        assert_eq!(list("1-9*2"), Ok(vec![1, 2, 4, 8]));
        assert_eq!(list("5-5*1"), Ok(vec![5]));
        for wrong in [
            "", "x", "4-1", "0-8*2", "1-8*1", "1-8+0", "1-9999", "-1", "1-2-3",
        ] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
        assert!(positive_counts("0-4").is_err());
        let Ok(Command::Bench(bench)) =
            parse("bench -d 0 -d 64-128+64 --npl 1-4*2 -b 64").map(|args| args.command)
        else {
            panic!("bench");
        };
        assert_eq!(all_counts(&bench.n_depth), [0, 64, 128]);
        assert_eq!(all_counts(&bench.npl), [1, 2, 4]);
        assert_eq!(all_counts(&bench.batch_size), [64]);
    }

    #[test]
    fn devices_are_named_by_word_index_or_name() {
        let device = |line: &str| generate(line).load.device.device;
        assert_eq!(device("generate x --device cpu"), DeviceChoice::Twin);
        assert_eq!(device("generate x --device TWIN"), DeviceChoice::Twin);
        assert_eq!(device("generate x --device 2"), DeviceChoice::Index(2));
        assert_eq!(
            device("generate x --device -1"),
            DeviceChoice::Name("-1".to_owned())
        );
        assert_eq!(
            device("generate x --device h200"),
            DeviceChoice::Name("h200".to_owned())
        );
    }
}
