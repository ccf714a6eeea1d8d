//! Tensors of a checkpoint: one `model.safetensors`, or shards with an index.
//!
//! Headers are parsed here and not by the `safetensors` crate: its parser keeps the last of two tensors of one name, refuses a
//! file for a data type that nobody reads, counts in `usize` (32 bits on the web), wants the whole file in memory, and its
//! errors do not say what was found. The format: <https://huggingface.co/docs/safetensors>.

use super::config::MAX_CONFIG_BYTES;
use super::folder::is_file_name;
use super::json::UniqueKeys;
use super::{
    ByteSource, Family, Folder, GenerationConfig, LoadError, ModelConfig, QuantizationConfig,
    quantized,
};
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub(super) const SINGLE_FILE: &str = "model.safetensors";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// Bytes before the header: its length.
pub(super) const LENGTH_BYTES: u64 = 8;
/// Longest header, the format's own limit; also the longest index that is read.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;
/// Bytes that a read converts at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    BF16,
    U32,
    I32,
    U8,
    /// Any other: the tensor may be there, reading it is an error.
    Other(DtypeName),
}

impl Dtype {
    const KNOWN: [Dtype; 6] = [
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::U32,
        Dtype::I32,
        Dtype::U8,
    ];

    fn parse(name: &str) -> Option<Self> {
        let known = Self::KNOWN.into_iter().find(|dtype| dtype.name() == name);
        known.or_else(|| DtypeName::new(name).map(Dtype::Other))
    }

    /// As in a safetensors header.
    pub fn name(&self) -> &str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::U32 => "U32",
            Dtype::I32 => "I32",
            Dtype::U8 => "U8",
            Dtype::Other(name) => name.as_str(),
        }
    }

    /// Size of an element; `None` where the type is not known.
    pub fn bits(self) -> Option<u64> {
        match self {
            Dtype::F32 | Dtype::U32 | Dtype::I32 => Some(32),
            Dtype::F16 | Dtype::BF16 => Some(16),
            Dtype::U8 => Some(8),
            Dtype::Other(name) => match name.as_str() {
                "F64" | "I64" | "U64" | "C64" => Some(64),
                "I16" | "U16" => Some(16),
                "BOOL" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => Some(8),
                "F6_E2M3" | "F6_E3M2" => Some(6),
                "F4" => Some(4),
                _ => None,
            },
        }
    }

    const fn is_float(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a data type that this program does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtypeName {
    bytes: [u8; Self::LONGEST],
    len: usize,
}

impl DtypeName {
    const LONGEST: usize = 16;

    fn new(name: &str) -> Option<Self> {
        let well_formed =
            name.len() <= Self::LONGEST && name.bytes().all(|byte| byte.is_ascii_graphic());
        well_formed.then(|| {
            let mut bytes = [0; Self::LONGEST];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            Self {
                bytes,
                len: name.len(),
            }
        })
    }

    pub fn as_str(&self) -> &str {
        // `new` lets only ASCII in.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Where a tensor lies. Checked against its file: in range, and as long as shape and dtype say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Index of the shard.
    pub file: usize,
    /// First byte in the file.
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements. It fits: the header's check multiplied it out.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// An opened checkpoint: headers are read and checked, no weight is. Every tensor that `config.json` asks for is there, with
/// its shape and a type that can be read.
#[derive(Debug)]
pub struct Checkpoint {
    pub folder: Folder,
    pub config: ModelConfig,
    pub generation: GenerationConfig,
    /// `None` for a float model.
    pub quantization: Option<QuantizationConfig>,
    pub tensors: BTreeMap<String, TensorInfo>,
    files: Vec<ByteSource>,
}

impl Checkpoint {
    /// Reads configurations and headers. Errors name the file, and the tensor or key.
    pub async fn open(folder: Folder) -> Result<Self, LoadError> {
        let config_source = folder.open("config.json")?;
        let config_file = config_source.name().to_owned();
        let config_text = config_source.read_text(MAX_CONFIG_BYTES).await?;
        let config = ModelConfig::parse(&config_file, &config_text)?;
        let quantization = QuantizationConfig::parse(&config_file, &config_text)?;

        let generation = if folder.contains("generation_config.json") {
            let source = folder.open("generation_config.json")?;
            let text = source.read_text(MAX_CONFIG_BYTES).await?;
            GenerationConfig::parse(Some((source.name(), &text)), (&config_file, &config_text))?
        } else {
            GenerationConfig::parse(None, (&config_file, &config_text))?
        };

        let (files, mut tensors) = open_tensors(&folder).await?;
        if config.family == Family::Opt {
            tensors = with_whole_names(tensors);
        }
        let checkpoint = Self {
            folder,
            config,
            generation,
            quantization,
            tensors,
            files,
        };
        match &checkpoint.quantization {
            None => checkpoint.check_float_tensors()?,
            Some(quantization) => {
                quantized::check_tensors(&checkpoint, quantization, &config_file)?
            }
        }
        Ok(checkpoint)
    }

    /// Bytes of all its safetensors files, headers included.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(ByteSource::len).sum()
    }

    /// The tensor's info; an error that names it when missing, or when its shape is not `shape`.
    pub fn expect(&self, name: &str, shape: &[u64]) -> Result<&TensorInfo, LoadError> {
        let Some(info) = self.tensors.get(name) else {
            return Err(self.missing(name, format!("shape {shape:?} by config.json")));
        };
        if info.shape != shape {
            let expected = format!("{shape:?} by config.json");
            return Err(self.bad_tensor(
                name,
                info,
                "shape of",
                format!("{:?}", info.shape),
                expected,
            ));
        }
        Ok(info)
    }

    /// [`Checkpoint::expect`], of one dtype.
    pub fn expect_dtype(
        &self,
        name: &str,
        shape: &[u64],
        dtype: Dtype,
    ) -> Result<&TensorInfo, LoadError> {
        let info = self.expect(name, shape)?;
        if info.dtype != dtype {
            return Err(self.bad_tensor(name, info, "dtype of", info.dtype, dtype));
        }
        Ok(info)
    }

    /// [`Checkpoint::expect`], of a dtype that [`Checkpoint::read_f32`] reads.
    pub fn expect_float(&self, name: &str, shape: &[u64]) -> Result<&TensorInfo, LoadError> {
        let info = self.expect(name, shape)?;
        self.check_float(name, info)?;
        Ok(info)
    }

    /// Raw bytes of a tensor from `offset` (in the tensor).
    pub async fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), LoadError> {
        let info = self.find(name)?;
        self.check_range(name, info, offset, buffer.len() as u64, info.bytes, "bytes")?;
        self.files[info.file]
            .read_at(info.offset + offset, buffer)
            .await
    }

    /// `len` elements of a float tensor from element `first`, widened to f32 (exactly). NaN and infinity are errors.
    pub async fn read_f32(
        &self,
        name: &str,
        first: u64,
        len: usize,
    ) -> Result<Vec<f32>, LoadError> {
        let info = self.find(name)?;
        self.check_float(name, info)?;
        let values = match info.dtype {
            Dtype::F16 => {
                self.read_elements(name, first, len, |b| f16::from_le_bytes(b).to_f32())
                    .await?
            }
            Dtype::BF16 => {
                self.read_elements(name, first, len, |b| bf16::from_le_bytes(b).to_f32())
                    .await?
            }
            _ => {
                self.read_elements(name, first, len, f32::from_le_bytes)
                    .await?
            }
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => {
                let what = format!("element {} of", first + at as u64);
                Err(self.bad_tensor(name, info, &what, values[at], "a finite number"))
            }
        }
    }

    /// `len` words of a U32 or I32 tensor from word `first`.
    pub async fn read_u32(
        &self,
        name: &str,
        first: u64,
        len: usize,
    ) -> Result<Vec<u32>, LoadError> {
        let info = self.find(name)?;
        if !matches!(info.dtype, Dtype::U32 | Dtype::I32) {
            return Err(self.bad_tensor(name, info, "dtype of", info.dtype, "U32 or I32"));
        }
        self.read_elements(name, first, len, u32::from_le_bytes)
            .await
    }

    /// The file that holds a tensor, for messages.
    pub fn file_of(&self, tensor: &TensorInfo) -> &str {
        self.files[tensor.file].name()
    }

    /// Names of the files that hold the tensors; [`TensorInfo::file`] is an index of this list.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &str> {
        self.files.iter().map(ByteSource::name)
    }

    async fn read_elements<T, const BYTES: usize>(
        &self,
        name: &str,
        first: u64,
        len: usize,
        convert: impl Fn([u8; BYTES]) -> T,
    ) -> Result<Vec<T>, LoadError> {
        let info = self.find(name)?;
        // Before anything is allocated: what is asked for is in the tensor, and the tensor is in the file.
        self.check_range(name, info, first, len as u64, info.elements(), "elements")?;
        let mut values = Vec::with_capacity(len);
        let mut chunk = vec![0; CHUNK_BYTES.min(len * BYTES)];
        while values.len() < len {
            let count = (len - values.len()).min(CHUNK_BYTES / BYTES);
            let bytes = &mut chunk[..count * BYTES];
            let offset = info.offset + (first + values.len() as u64) * BYTES as u64;
            self.files[info.file].read_at(offset, bytes).await?;
            let elements = bytes.chunks_exact(BYTES);
            values.extend(
                elements.map(|element| convert(element.try_into().expect("chunks are BYTES long"))),
            );
        }
        Ok(values)
    }

    fn find(&self, name: &str) -> Result<&TensorInfo, LoadError> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.missing(name, "a tensor"))
    }

    fn missing(&self, name: &str, expected: impl ToString) -> LoadError {
        LoadError::invalid(
            self.folder.name(),
            format!("tensor '{name}'"),
            "nothing",
            expected,
        )
    }

    pub(super) fn bad_tensor(
        &self,
        name: &str,
        info: &TensorInfo,
        what: &str,
        found: impl ToString,
        expected: impl ToString,
    ) -> LoadError {
        LoadError::invalid(
            self.file_of(info),
            format!("{what} tensor '{name}'"),
            found,
            expected,
        )
    }

    fn check_float(&self, name: &str, info: &TensorInfo) -> Result<(), LoadError> {
        if info.dtype.is_float() {
            return Ok(());
        }
        Err(self.bad_tensor(name, info, "dtype of", info.dtype, "F32, F16 or BF16"))
    }

    fn check_range(
        &self,
        name: &str,
        info: &TensorInfo,
        first: u64,
        len: u64,
        end: u64,
        unit: &str,
    ) -> Result<(), LoadError> {
        if first.checked_add(len).is_some_and(|last| last <= end) {
            return Ok(());
        }
        let what = format!("read of {len} {unit} from {first} of");
        Err(self.bad_tensor(
            name,
            info,
            &what,
            format!("{end} {unit}"),
            format!("{} or more", first.saturating_add(len)),
        ))
    }

    fn check_float_tensors(&self) -> Result<(), LoadError> {
        let config = &self.config;
        for table in config.tables() {
            self.expect_float(
                &format!("{table}.weight"),
                &[config.vocab_size.into(), config.embedding_size().into()],
            )?;
        }
        self.check_float_matrices()?;
        for (norm, len) in config.norms() {
            self.expect_float(&norm, &[len.into()])?;
        }
        for linear in config.linears() {
            let weight = format!("{}.weight", linear.name);
            self.expect_float(
                &weight,
                &[linear.out_features.into(), linear.in_features.into()],
            )?;
            self.check_bias(&linear.name, linear.out_features, linear.bias)?;
        }
        Ok(())
    }

    /// What is float in every checkpoint.
    pub(super) fn check_float_matrices(&self) -> Result<(), LoadError> {
        for (name, shape) in self.config.float_matrices() {
            self.expect_float(&format!("{name}.weight"), &shape.map(u64::from))?;
        }
        Ok(())
    }

    /// A bias is there where the family has one, and only there: one that nobody adds would be a wrong answer.
    pub(super) fn check_bias(
        &self,
        linear: &str,
        out_features: u32,
        wanted: bool,
    ) -> Result<(), LoadError> {
        let name = format!("{linear}.bias");
        if wanted {
            self.expect_float(&name, &[out_features.into()])?;
        } else if let Some(info) = self.tensors.get(&name) {
            return Err(self.bad_tensor(
                &name,
                info,
                "presence of",
                "a bias",
                "none by config.json",
            ));
        }
        Ok(())
    }
}

/// OPT's tensors are `model.decoder.…`; those that were saved from the model without its head are `decoder.…`.
fn with_whole_names(tensors: BTreeMap<String, TensorInfo>) -> BTreeMap<String, TensorInfo> {
    const DECODER: &str = "decoder.";
    let whole = |name: &String| name.starts_with("model.decoder.");
    if tensors.keys().any(whole) {
        return tensors;
    }
    let named = tensors.into_iter().map(|(name, info)| {
        if name.starts_with(DECODER) {
            (format!("model.{name}"), info)
        } else {
            (name, info)
        }
    });
    named.collect()
}

/// The files that hold a folder's tensors, and where each tensor lies.
async fn open_tensors(
    folder: &Folder,
) -> Result<(Vec<ByteSource>, BTreeMap<String, TensorInfo>), LoadError> {
    if folder.contains(SINGLE_FILE) {
        let source = folder.open(SINGLE_FILE)?;
        let tensors = read_header(&source, 0).await?;
        return Ok((vec![source], tensors));
    }
    if !folder.contains(INDEX_FILE) {
        let what = format!("{SINGLE_FILE} or {INDEX_FILE}");
        return Err(LoadError::not_found(what, format!("in {}", folder.name())));
    }
    let index = folder.open(INDEX_FILE)?;
    let weight_map = read_index(&index).await?;

    let names: BTreeSet<&str> = weight_map.iter().map(|(_, file)| file.as_str()).collect();
    let mut files = Vec::new();
    let mut shards = BTreeMap::new();
    for &name in &names {
        if !folder.contains(name) {
            let searched = format!("in {}, though {INDEX_FILE} names it", folder.name());
            return Err(LoadError::not_found(name, searched));
        }
        let source = folder.open(name)?;
        shards.insert(name, read_header(&source, files.len()).await?);
        files.push(source);
    }
    let mut tensors = BTreeMap::new();
    for (tensor, file) in &weight_map {
        match shards
            .get_mut(file.as_str())
            .and_then(|shard| shard.remove(tensor))
        {
            Some(info) => {
                tensors.insert(tensor.clone(), info);
            }
            None => {
                let what = format!("tensor '{tensor}'");
                let expected = format!("the tensor, by {INDEX_FILE}");
                return Err(LoadError::invalid(
                    folder.file_name(file),
                    what,
                    "nothing",
                    expected,
                ));
            }
        }
    }
    Ok((files, tensors))
}

/// `weight_map` of an index: tensors with the names of their files, which are plain names.
async fn read_index(index: &ByteSource) -> Result<Vec<(String, String)>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: UniqueKeys<String>,
    }
    let text = index.read_text(MAX_HEADER_BYTES).await?;
    let parsed: Index = serde_json::from_str(&text).map_err(|error| {
        LoadError::invalid(
            index.name(),
            "index",
            error,
            "a weight_map from tensors to files",
        )
    })?;
    let weight_map = parsed.weight_map.0;
    if let Some((tensor, file)) = weight_map.iter().find(|(_, file)| !is_file_name(file)) {
        let what = format!("file of tensor '{tensor}'");
        return Err(LoadError::invalid(
            index.name(),
            what,
            format!("'{file}'"),
            "the name of a file inside the folder",
        ));
    }
    Ok(weight_map)
}

/// One entry of a header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderTensor {
    dtype: String,
    shape: Vec<u64>,
    /// First byte and the one after the last, counted from the end of the header.
    data_offsets: [u64; 2],
}

/// The tensors of one file, each checked: no hole, no overlap, nothing beyond the end.
async fn read_header(
    source: &ByteSource,
    file: usize,
) -> Result<BTreeMap<String, TensorInfo>, LoadError> {
    let invalid = |what: &str, found: String, expected: String| {
        LoadError::invalid(source.name(), what, found, expected)
    };
    if source.len() < LENGTH_BYTES {
        let expected = format!("at least {LENGTH_BYTES} (a safetensors file)");
        return Err(invalid(
            "length",
            format!("{} bytes", source.len()),
            expected,
        ));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    source.read_at(0, &mut length).await?;
    let header_bytes = u64::from_le_bytes(length);
    // Before the header is allocated: no longer than the format allows, nor than the file is.
    let longest = MAX_HEADER_BYTES.min(source.len() - LENGTH_BYTES);
    if header_bytes > longest {
        return Err(invalid(
            "header length",
            format!("{header_bytes} bytes"),
            format!("at most {longest}"),
        ));
    }
    let mut header = vec![0; header_bytes as usize];
    source.read_at(LENGTH_BYTES, &mut header).await?;
    if header.first() != Some(&b'{') {
        let found = header
            .first()
            .map_or("nothing".to_owned(), |byte| format!("byte 0x{byte:02x}"));
        return Err(invalid("start of the header", found, "'{'".to_owned()));
    }
    let entries: UniqueKeys<&RawValue> = serde_json::from_slice(&header)
        .map_err(|error| invalid("header", error.to_string(), "a JSON object".to_owned()))?;

    let data_start = LENGTH_BYTES + header_bytes;
    let data_bytes = source.len() - data_start;
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        if name == "__metadata__" {
            continue;
        }
        let parsed: HeaderTensor = serde_json::from_str(entry.get()).map_err(|error| {
            invalid(
                &format!("header of tensor '{name}'"),
                error.to_string(),
                "dtype, shape and data_offsets".to_owned(),
            )
        })?;
        let info = check_entry(source, &name, parsed, data_bytes)?;
        tensors.push((name, info));
    }

    tensors.sort_by_key(|(_, info)| (info.offset, info.bytes));
    let mut end = 0;
    let mut last = "the header";
    for (name, info) in &tensors {
        if info.offset != end {
            let what = format!("first byte of tensor '{name}', after {last}");
            let expected = format!("{end} (no overlap, no hole)");
            return Err(invalid(&what, info.offset.to_string(), expected));
        }
        end += info.bytes;
        last = name;
    }
    if end != data_bytes {
        return Err(invalid(
            "length of the data",
            format!("{data_bytes} bytes"),
            format!("{end}, where the last tensor ends"),
        ));
    }
    let placed = tensors.into_iter().map(|(name, info)| {
        (
            name,
            TensorInfo {
                file,
                offset: data_start + info.offset,
                ..info
            },
        )
    });
    Ok(placed.collect())
}

/// A tensor whose range is within the data and as long as its shape says; the offset still counts from the end of the header.
fn check_entry(
    source: &ByteSource,
    name: &str,
    entry: HeaderTensor,
    data_bytes: u64,
) -> Result<TensorInfo, LoadError> {
    let invalid = |what: &str, found: String, expected: String| {
        LoadError::invalid(
            source.name(),
            format!("{what} of tensor '{name}'"),
            found,
            expected,
        )
    };
    let [begin, end] = entry.data_offsets;
    if begin > end || end > data_bytes {
        let expected =
            format!("an ascending range within the {data_bytes} bytes of data in the file");
        return Err(invalid("data_offsets", format!("{begin}..{end}"), expected));
    }
    let bytes = end - begin;
    let Some(dtype) = Dtype::parse(&entry.dtype) else {
        return Err(invalid(
            "dtype",
            format!("'{}'", entry.dtype),
            "the name of a data type".to_owned(),
        ));
    };
    if entry.shape.len() > MAX_RANK {
        return Err(invalid(
            "rank",
            entry.shape.len().to_string(),
            format!("at most {MAX_RANK}"),
        ));
    }
    let elements = entry
        .shape
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(size));
    let Some(elements) = elements else {
        return Err(invalid(
            "shape",
            format!("{:?}", entry.shape),
            "fewer than 2^64 elements".to_owned(),
        ));
    };
    if let Some(bits) = dtype.bits() {
        // In 128 bits: the product cannot overflow.
        let expected = u128::from(elements) * u128::from(bits);
        if expected != u128::from(bytes) * 8 {
            let shape = &entry.shape;
            let expected = format!("{} ({dtype} {shape:?})", expected.div_ceil(8));
            return Err(invalid("length", format!("{bytes} bytes"), expected));
        }
    }
    Ok(TensorInfo {
        dtype,
        shape: entry.shape,
        file: 0,
        offset: begin,
        bytes,
    })
}
