//! Errors of files: each names the file and the tensor or key, what was found and what was expected, in one line.

/// What a caller can do about a [`LoadError`]; the command line's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// Nothing there: exit code 3.
    NotFound,
    /// There, but not what it has to be, or unreadable: exit code 4.
    Invalid,
}

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{what}: not found ({searched})")]
    NotFound { what: String, searched: String },
    #[error("{file}: {source}")]
    Io {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{file}: {what}: found {found}, expected {expected}")]
    Invalid {
        file: String,
        what: String,
        found: String,
        expected: String,
    },
}

/// Longest piece of a file's own words in a message, in characters.
const LONGEST_QUOTE: usize = 200;

impl LoadError {
    pub fn kind(&self) -> LoadErrorKind {
        match self {
            Self::NotFound { .. } => LoadErrorKind::NotFound,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                LoadErrorKind::NotFound
            }
            Self::Io { .. } | Self::Invalid { .. } => LoadErrorKind::Invalid,
        }
    }

    pub(crate) fn not_found(what: impl Into<String>, searched: impl Into<String>) -> Self {
        Self::NotFound {
            what: one_line(what.into()),
            searched: one_line(searched.into()),
        }
    }

    pub(crate) fn invalid(
        file: impl Into<String>,
        what: impl Into<String>,
        found: impl ToString,
        expected: impl ToString,
    ) -> Self {
        Self::Invalid {
            file: file.into(),
            what: one_line(what.into()),
            found: one_line(found.to_string()),
            expected: one_line(expected.to_string()),
        }
    }
}

/// Names and values come from files: a message stays one line, and short, whatever they hold.
fn one_line(text: String) -> String {
    if text.len() <= LONGEST_QUOTE && !text.contains(char::is_control) {
        return text;
    }
    let mut line: String = text
        .chars()
        .take(LONGEST_QUOTE)
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        line.push('…');
    }
    line
}
