//! Errors to exit codes and to one line on stderr.

use crate::console::bytes;
use plateau::Error;
use plateau::checkpoint::{LoadError, LoadErrorKind, WriteError};
use plateau::eval::EvalError;
use plateau::exec::{DRIVER_HINT, DeviceError};
use plateau::quantize::QuantizeError;
use plateau::session::SessionError;
use plateau_tests::cuda::CudaError;
use std::io;

/// The documented exit codes; `plateau --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Done = 0,
    Failure = 1,
    Usage = 2,
    ModelNotFound = 3,
    InvalidModel = 4,
    NoDevice = 5,
    OutOfMemory = 6,
    DeviceLost = 7,
    NumericCheck = 8,
    Interrupted = 130,
}

/// Failures that only the command line knows.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NumericCheck(String),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    #[error("cannot {verb} {path}")]
    File {
        verb: &'static str,
        path: String,
        source: io::Error,
    },
}

/// A wrong option, found after clap.
pub fn usage(line: impl Into<String>) -> anyhow::Error {
    CliError::Usage(line.into()).into()
}

/// What an error means for who called the program.
pub fn code(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<CliError>() {
            return of_cli(error);
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            return of_engine(error);
        }
        if let Some(error) = cause.downcast_ref::<LoadError>() {
            return of_load(error);
        }
        if let Some(error) = cause.downcast_ref::<DeviceError>() {
            return of_device(error);
        }
        if let Some(error) = cause.downcast_ref::<SessionError>() {
            return of_session(error);
        }
        if let Some(error) = cause.downcast_ref::<QuantizeError>() {
            return of_quantize(error);
        }
        if let Some(error) = cause.downcast_ref::<EvalError>() {
            return of_eval(error);
        }
        if let Some(error) = cause.downcast_ref::<CudaError>() {
            return of_cuda(error);
        }
    }
    Code::Failure
}

fn of_cli(error: &CliError) -> Code {
    match error {
        CliError::Usage(_) => Code::Usage,
        CliError::NumericCheck(_) => Code::NumericCheck,
        CliError::Interrupted => Code::Interrupted,
        // Who reads, `head` say, has enough: that is an end, not a failure.
        CliError::Stdout(source) if source.kind() == io::ErrorKind::BrokenPipe => Code::Done,
        CliError::Stdout(_) | CliError::File { .. } => Code::Failure,
    }
}

fn of_engine(error: &Error) -> Code {
    match error {
        Error::Load(error) => of_load(error),
        Error::Device(error) => of_device(error),
        Error::Session(error) => of_session(error),
    }
}

fn of_eval(error: &EvalError) -> Code {
    match error {
        EvalError::Engine(error) => of_engine(error),
        EvalError::Row { .. } | EvalError::NoRows { .. } | EvalError::Vocabulary { .. } => {
            Code::Usage
        }
        EvalError::NotFinite { .. } => Code::NumericCheck,
    }
}

fn of_cuda(error: &CudaError) -> Code {
    match error {
        CudaError::Missing { .. } => Code::NoDevice,
        CudaError::Compile { .. }
        | CudaError::Driver { .. }
        | CudaError::Library { .. }
        | CudaError::NoFunction { .. }
        | CudaError::Room { .. } => Code::Failure,
    }
}

fn of_load(error: &LoadError) -> Code {
    match error.kind() {
        LoadErrorKind::NotFound => Code::ModelNotFound,
        LoadErrorKind::Invalid => Code::InvalidModel,
    }
}

fn of_quantize(error: &QuantizeError) -> Code {
    match error {
        QuantizeError::Load(error) => of_load(error),
        QuantizeError::AlreadyQuantized { .. }
        | QuantizeError::Write(WriteError::Occupied { .. }) => Code::Usage,
        QuantizeError::Device(error) => of_device(error),
        QuantizeError::OverBudget { .. }
        | QuantizeError::Prefix { .. }
        | QuantizeError::NeedsCalibration { .. } => Code::Usage,
        QuantizeError::Write(WriteError::Io { .. }) | QuantizeError::Gptq { .. } => Code::Failure,
    }
}

fn of_device(error: &DeviceError) -> Code {
    match error {
        DeviceError::NoAdapter
        | DeviceError::Unknown { .. }
        | DeviceError::Ambiguous { .. }
        | DeviceError::Refused { .. }
        | DeviceError::Kernels { .. } => Code::NoDevice,
        DeviceError::TooLarge { .. } | DeviceError::OutOfMemory { .. } => Code::OutOfMemory,
        DeviceError::Lost { .. } => Code::DeviceLost,
        DeviceError::Driver { .. } => Code::Failure,
    }
}

fn of_session(error: &SessionError) -> Code {
    match error {
        SessionError::DoesNotFit { .. } | SessionError::Pages(_) => Code::OutOfMemory,
        SessionError::EmptyPrompt
        | SessionError::PromptTooLong { .. }
        | SessionError::UnknownToken { .. }
        | SessionError::AlreadyQuantized { .. }
        | SessionError::ContextSize { .. } => Code::Usage,
        // No command asks a session for more than it loaded it for.
        SessionError::TooManySequences { .. }
        | SessionError::TooManyRows { .. }
        | SessionError::SequenceOrder { .. } => Code::Failure,
    }
}

/// What to do about an error, where there is something to say.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let load = |error: &LoadError| match error {
        LoadError::NotFound { .. } => Some(
            "-m takes a folder with config.json, tokenizer.json and model.safetensors, or owner/name in the local Hugging Face \
             cache; without -m the built-in model runs",
        ),
        LoadError::Io { .. } | LoadError::Invalid { .. } => None,
    };
    let device = |error: &DeviceError| match error {
        DeviceError::NoAdapter => Some(DRIVER_HINT),
        DeviceError::Unknown { .. } | DeviceError::Ambiguous { .. } => {
            Some("`plateau devices` lists what --device can name")
        }
        DeviceError::Refused { .. } => {
            Some("--device takes another one; --device twin needs no GPU")
        }
        DeviceError::Kernels { .. } => {
            Some("`plateau devices` says which kernels a device has; --kernels auto chooses")
        }
        DeviceError::TooLarge { .. } | DeviceError::OutOfMemory { .. } => Some(LESS_MEMORY),
        DeviceError::Lost { .. } | DeviceError::Driver { .. } => None,
    };
    let session = |error: &SessionError| match error {
        SessionError::EmptyPrompt => Some("for example: plateau generate \"Once upon a time\""),
        SessionError::PromptTooLong { .. } => {
            Some("-c makes the context larger, up to the model's own limit")
        }
        SessionError::AlreadyQuantized { .. } => Some("leave --quant out"),
        SessionError::DoesNotFit { .. } | SessionError::Pages(_) => Some(LESS_MEMORY),
        SessionError::UnknownToken { .. }
        | SessionError::ContextSize { .. }
        | SessionError::TooManySequences { .. }
        | SessionError::TooManyRows { .. }
        | SessionError::SequenceOrder { .. } => None,
    };
    let hint = error.chain().find_map(|cause| {
        let engine = match cause.downcast_ref::<EvalError>() {
            Some(EvalError::Engine(error)) => Some(error),
            _ => cause.downcast_ref::<Error>(),
        };
        if let Some(error) = engine {
            return match error {
                Error::Load(error) => load(error),
                Error::Device(error) => device(error),
                Error::Session(error) => session(error),
            };
        }
        cause
            .downcast_ref::<LoadError>()
            .and_then(load)
            .or_else(|| cause.downcast_ref::<DeviceError>().and_then(device))
            .or_else(|| cause.downcast_ref::<SessionError>().and_then(session))
    });
    hint.map(|hint| match does_not_fit(error) {
        Some((needed, available)) => format!(
            "{} are needed, {} are there; {hint}",
            bytes(needed),
            bytes(available)
        ),
        None => hint.to_owned(),
    })
}

/// Bytes needed and bytes available.
fn does_not_fit(error: &anyhow::Error) -> Option<(u64, u64)> {
    error.chain().find_map(|cause| {
        let session = match cause.downcast_ref::<Error>() {
            Some(Error::Session(error)) => Some(error),
            _ => cause.downcast_ref::<SessionError>(),
        };
        match session {
            Some(SessionError::DoesNotFit {
                needed, available, ..
            }) => Some((*needed, *available)),
            _ => None,
        }
    })
}

const LESS_MEMORY: &str =
    "less memory is needed with a shorter context, with --quant w4a8, or with --kv-type i8";

/// An error and its causes in one line. A cause that is already part of what was said is not said again.
pub fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = one_line(&cause.to_string());
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What Rust says about a word that is no whole number, and what a user understands.
const NUMBER_ERRORS: [(&str, &str); 3] = [
    (
        "invalid digit found in string",
        "a whole number is expected",
    ),
    (
        "cannot parse integer from empty string",
        "a whole number is expected",
    ),
    (
        "number too large to fit in target type",
        "the number is too large",
    ),
];

/// clap's message of several paragraphs as one line and its hints.
pub fn usage_lines(rendered: &str) -> (String, Vec<String>) {
    let mut paragraphs = rendered
        .split("\n\n")
        .map(one_line)
        .filter(|text| !text.is_empty());
    let mut first = paragraphs.next().unwrap_or_default();
    for (of_rust, of_ours) in NUMBER_ERRORS {
        first = first.replace(of_rust, of_ours);
    }
    let hints = paragraphs.filter(|text| !text.starts_with("Usage:"));
    let without =
        |text: &str, prefix: &str| text.strip_prefix(prefix).unwrap_or(text).trim().to_owned();
    (
        without(&first, "error:"),
        hints.map(|text| without(&text, "tip:")).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn io_error(kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, "the system says so")
    }

    #[test]
    fn each_error_has_its_documented_code() {
        let text = String::new;
        let not_found = || LoadError::NotFound {
            what: text(),
            searched: text(),
        };
        let invalid = || LoadError::Invalid {
            file: text(),
            what: text(),
            found: text(),
            expected: text(),
        };
        let io = |kind| LoadError::Io {
            file: text(),
            source: io_error(kind),
        };
        let load: [(LoadError, u8); 5] = [
            (not_found(), 3),
            (invalid(), 4),
            (io(io::ErrorKind::NotFound), 3),
            (io(io::ErrorKind::UnexpectedEof), 4),
            (io(io::ErrorKind::PermissionDenied), 4),
        ];
        for (error, expected) in load {
            let error: anyhow::Error = Error::from(error).into();
            assert_eq!(code(&error) as u8, expected, "{error}");
        }
        let cuda = CudaError::Missing {
            what: "a driver",
            hint: "",
        };
        assert_eq!(code(&cuda.into()) as u8, 5);
        let device: [(DeviceError, u8); 8] = [
            (DeviceError::NoAdapter, 5),
            (
                DeviceError::Unknown {
                    wanted: text(),
                    known: text(),
                },
                5,
            ),
            (
                DeviceError::Ambiguous {
                    wanted: text(),
                    matches: text(),
                },
                5,
            ),
            (
                DeviceError::Refused {
                    name: text(),
                    reason: text(),
                },
                5,
            ),
            (
                DeviceError::TooLarge {
                    name: text(),
                    label: text(),
                    bytes: 2,
                    limit: 1,
                },
                6,
            ),
            (
                DeviceError::OutOfMemory {
                    name: text(),
                    label: text(),
                    bytes: 2,
                },
                6,
            ),
            (
                DeviceError::Lost {
                    name: text(),
                    reason: text(),
                },
                7,
            ),
            (
                DeviceError::Driver {
                    name: text(),
                    reason: text(),
                },
                1,
            ),
        ];
        for (error, expected) in device {
            let error: anyhow::Error = error.into();
            assert_eq!(code(&error) as u8, expected, "{error}");
        }
        let session: [(SessionError, u8); 6] = [
            (SessionError::EmptyPrompt, 2),
            (SessionError::PromptTooLong { found: 2, limit: 1 }, 2),
            (
                SessionError::UnknownToken {
                    index: 0,
                    found: 2,
                    vocab: 1,
                },
                2,
            ),
            (SessionError::AlreadyQuantized { recipe: text() }, 2),
            (
                SessionError::DoesNotFit {
                    name: text(),
                    needed: 2,
                    available: 1,
                },
                6,
            ),
            (SessionError::ContextSize { found: 2, limit: 1 }, 2),
        ];
        for (error, expected) in session {
            let error: anyhow::Error = Error::from(error).into();
            assert_eq!(code(&error) as u8, expected, "{error}");
        }
        let occupied = WriteError::Occupied {
            folder: text(),
            file: text(),
        };
        let full = WriteError::Io {
            file: text(),
            source: io_error(io::ErrorKind::StorageFull),
        };
        let quantize: [(QuantizeError, u8); 5] = [
            (invalid().into(), 4),
            (occupied.into(), 2),
            (full.into(), 1),
            (
                QuantizeError::AlreadyQuantized {
                    folder: text(),
                    recipe: text(),
                },
                2,
            ),
            (QuantizeError::NeedsCalibration { recipe: text() }, 2),
        ];
        for (error, expected) in quantize {
            let error: anyhow::Error = error.into();
            assert_eq!(code(&error) as u8, expected, "{error}");
        }
        let eval: [(EvalError, u8); 5] = [
            (not_found().into(), 3),
            (Error::from(SessionError::EmptyPrompt).into(), 2),
            (EvalError::NoRows { file: text() }, 2),
            (
                EvalError::Vocabulary {
                    model: text(),
                    found: 1,
                    reference: text(),
                    expected: 2,
                },
                2,
            ),
            (
                EvalError::NotFinite {
                    model: text(),
                    place: text(),
                },
                8,
            ),
        ];
        for (error, expected) in eval {
            let error: anyhow::Error = error.into();
            assert_eq!(code(&error) as u8, expected, "{error}");
        }
        let cli: [(CliError, u8); 6] = [
            (CliError::Usage(text()), 2),
            (CliError::NumericCheck(text()), 8),
            (CliError::Interrupted, 130),
            (CliError::Stdout(io_error(io::ErrorKind::BrokenPipe)), 0),
            (CliError::Stdout(io_error(io::ErrorKind::StorageFull)), 1),
            (
                CliError::File {
                    verb: "read",
                    path: text(),
                    source: io_error(io::ErrorKind::NotFound),
                },
                1,
            ),
        ];
        for (error, expected) in cli {
            assert_eq!(code(&error.into()) as u8, expected);
        }
        assert_eq!(code(&anyhow::anyhow!("anything else")), Code::Failure);
    }

    #[test]
    fn context_around_an_error_keeps_its_code_and_hint() {
        let error = Err::<(), _>(Error::from(DeviceError::NoAdapter))
            .context("while opening")
            .expect_err("an error");
        assert_eq!(code(&error), Code::NoDevice);
        assert_eq!(hint(&error).as_deref(), Some(DRIVER_HINT));
        assert_eq!(line(&error), "while opening: no GPU adapter was found");
    }

    #[test]
    fn what_does_not_fit_is_said_in_sizes_that_people_read() {
        let error = Error::from(SessionError::DoesNotFit {
            name: "GPU".to_owned(),
            needed: 26 << 30,
            available: 2 << 30,
        });
        let hint = hint(&error.into()).expect("there is something to do");
        assert!(
            hint.starts_with("26.0 GiB are needed, 2.0 GiB are there; "),
            "{hint}"
        );
    }

    #[test]
    fn a_cause_is_said_once_and_in_one_line() {
        let error = LoadError::Io {
            file: "model.safetensors".to_owned(),
            source: io_error(io::ErrorKind::Other),
        };
        assert_eq!(line(&error.into()), "model.safetensors: the system says so");
        assert_eq!(line(&anyhow::anyhow!("two\n  lines")), "two lines");
    }

    #[test]
    fn a_message_of_clap_becomes_one_line_and_hints() {
        let rendered = "error: unexpected argument '--tmp' found\n\n  tip: a similar argument exists: '--temp'\n\n\
                        Usage: plateau generate --temp <T> <PROMPT>\n\nFor more information, try '--help'.\n";
        let (line, hints) = usage_lines(rendered);
        assert_eq!(line, "unexpected argument '--tmp' found");
        assert_eq!(
            hints,
            [
                "a similar argument exists: '--temp'",
                "For more information, try '--help'."
            ]
        );
        let (line, _) = usage_lines(
            "error: the following required arguments were not provided:\n  <OUT>\n\nUsage: x\n",
        );
        assert_eq!(
            line,
            "the following required arguments were not provided: <OUT>"
        );
        let (line, _) = usage_lines(
            "error: invalid value 'x' for '--ids <IDS>': invalid digit found in string\n",
        );
        assert_eq!(
            line,
            "invalid value 'x' for '--ids <IDS>': a whole number is expected"
        );
    }
}
