//! Models for tests: the goldens of this repository, the built-in model, and larger ones that may lie beside it.

use plateau::checkpoint::{ActivationFormat, Checkpoint, Folder, LinearFormat};
use plateau::exec::Executor;
use plateau::quantize::recipe::{Activations, BitPolicy};
use plateau::quantize::{Progress, QuantizeError, Recipe, Source, quantize};
use plateau::session::{LoadOptions, Session};
use plateau::tensor::{Bits, KvType, Quant, WeightBits};
use std::path::{Path, PathBuf};

/// The folders of tests/golden that hold a model.
pub fn goldens() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let entries =
        std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(
        folders.len() >= 8,
        "{}: found {} models",
        root.display(),
        folders.len()
    );
    folders
}

/// `shared/<path>` beside the repository; `None`, and a line that says what is skipped, where it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared")
        .join(path);
    if found.exists() {
        return Some(found);
    }
    println!(
        "skipped: {} is not there; it holds larger models than this repository",
        found.display()
    );
    None
}

pub async fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(Folder::Disk(folder.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

pub async fn builtin() -> Checkpoint {
    Checkpoint::open(Folder::builtin())
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

pub async fn load(checkpoint: &Checkpoint, executor: Executor, options: &LoadOptions) -> Session {
    Session::load(checkpoint, executor, options, &mut |_| {})
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// f32 throughout: what is compared with a float64 reference.
pub fn f32_options() -> LoadOptions {
    LoadOptions {
        quant: Some(Quant::F32),
        kv_type: KvType::F32,
        ..LoadOptions::default()
    }
}

/// Logits of every id, [ids, vocab], in steps of `chunk` rows (`None`: as many as fit).
pub async fn logits(session: &mut Session, ids: &[u32], chunk: Option<usize>) -> Vec<f32> {
    let mut all = Vec::new();
    let mut take = |_: usize, rows: &[f32]| all.extend_from_slice(rows);
    let done = match chunk {
        None => session.logits(ids, &mut take).await,
        Some(chunk) => session.logits_in_chunks(ids, chunk, &mut take).await,
    };
    done.unwrap_or_else(|error| panic!("{error}"));
    all
}

/// Tokens of a greedy generation, whatever the end tokens are.
pub async fn greedy(session: &mut Session, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    let sampler = plateau::sampler::SamplerConfig::GREEDY;
    session
        .generate(prompt, &sampler, Some(n), &mut |id| {
            ids.push(id);
            std::ops::ControlFlow::Continue(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    ids
}

/// The recipe's name in checkpoints of [`round_to_nearest`].
pub const ROUNDED: &str = "rounded";

/// A checkpoint in `out_dir` with every linear of `float` rounded to `format`.
pub async fn round_to_nearest(
    float: &Checkpoint,
    out_dir: &Path,
    format: LinearFormat,
    shard_bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), QuantizeError> {
    let source = Source {
        checkpoint: float,
        samples: None,
        outliers: None,
    };
    let plain = Recipe::named("rtn-w8a8-dynamic").expect("a recipe");
    let recipe = Recipe {
        name: ROUNDED.to_owned(),
        activations: match format.activations {
            ActivationFormat::Float => Activations::Float,
            ActivationFormat::Dynamic(_) => Activations::Dynamic,
            ActivationFormat::Static(_) => Activations::Static,
        },
        bits: BitPolicy::All {
            weights: format.weight_bits,
            activations: format.activations.bits().unwrap_or(Bits::Int8),
        },
        weight_scale: format.weight_scale,
        group_size: format.group_size,
        ..plain
    };
    let mut twin = Executor::twin();
    let done = quantize(&source, &mut twin, &recipe, out_dir, shard_bytes, progress);
    done.await.map(|_| ())
}

/// The integers of a row, by the words of the format's description: `words` of `qweight`, `high` of `qweight_high`.
pub fn integers(words: &[u32], high: &[u32], bits: WeightBits) -> Vec<i32> {
    if bits == WeightBits::Int8 {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        return bytes.map(|byte| i32::from(byte as i8)).collect();
    }
    let nibbles = words.iter().flat_map(|word| {
        let bytes = word.to_le_bytes();
        let low = bytes.map(|byte| i32::from(byte & 15));
        let high = bytes.map(|byte| i32::from(byte >> 4));
        [low, high].concat()
    });
    let value = |(at, nibble): (usize, i32)| {
        let (block, g, b) = (at / 32, at % 32 / 4, at % 4);
        let byte = |word: u32| i32::from(word.to_le_bytes()[b]);
        match bits {
            WeightBits::Int5 => nibble + 16 * (byte(high[block]) >> g & 1) - 16,
            WeightBits::Int6 => {
                nibble + 16 * (byte(high[2 * block + g / 4]) >> (2 * (g % 4)) & 3) - 32
            }
            WeightBits::Int4 | WeightBits::Int8 => nibble - 8,
        }
    };
    nibbles.enumerate().map(value).collect()
}
