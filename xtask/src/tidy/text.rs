//! The files of the workspace, and views of their text in which code and comments are apart.

use std::fs;
use std::io;
use std::path::Path;

/// Folders that hold nothing of ours, wherever they stand.
const SKIPPED_FOLDERS: [&str; 3] = ["target", "shared", "__pycache__"];
const EXTENSIONS: [&str; 6] = ["rs", "wgsl", "md", "toml", "py", "cu"];

/// One text file.
pub struct File {
    /// From the top of the workspace, with `/`.
    pub path: String,
    pub text: String,
    /// `text` with every comment and every string's content as spaces: same lines, same columns.
    pub code: String,
    /// The line comments, as (line from 1, text with its slashes).
    pub comments: Vec<(usize, String)>,
}

impl File {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let (code, comments) = split(&text);
        Self {
            path,
            text,
            code,
            comments,
        }
    }

    /// Lines with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.text)
    }

    /// Lines of the view without comments and strings.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code)
    }

    /// The line of a byte of the text.
    pub fn line_of(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
    }

    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    pub fn stem(&self) -> &str {
        self.file_name().split('.').next().unwrap_or_default()
    }
}

/// Not `str::lines`: that one hides a carriage return.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_terminator('\n')
        .enumerate()
        .map(|(i, line)| (i + 1, line))
}

/// Every text file under `root`, sorted by path.
pub fn read_all(root: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    read_folder(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if !hidden && !SKIPPED_FOLDERS.contains(&name.as_str()) {
                read_folder(&entry.path(), &format!("{path}/"), files)?;
            }
        } else if kind.is_file() {
            let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
            if EXTENSIONS.contains(&extension) || path.starts_with(".ci/") {
                files.push(File::new(path, fs::read_to_string(entry.path())?));
            }
        }
    }
    Ok(())
}

/// Whether `word` stands in `text` with no letter, digit or underscore next to it.
pub fn has_word(text: &str, word: &str) -> bool {
    word_at(text, word).is_some()
}

/// Where it stands first.
pub fn word_at(text: &str, word: &str) -> Option<usize> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).find(|&at| {
        !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word)
    })
}

/// The identifier at the start of `text`; empty if there is none.
pub fn identifier(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// Code (comments and the content of strings as spaces) and line comments of Rust or WGSL.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut comments = Vec::new();
    let blank = |code: &mut [u8], from: usize, to: usize| {
        code[from..to]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
    };
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            let end = at
                + rest
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .unwrap_or(rest.len());
            comments.push((line, text[at..end].to_owned()));
            blank(&mut code, at, end);
            end
        } else if rest.starts_with(b"/*") {
            let end = block_comment_end(bytes, at);
            blank(&mut code, at, end);
            end
        } else if let Some((open, end)) = string(bytes, at) {
            blank(&mut code, at + open, end.saturating_sub(1).max(at + open));
            end
        } else {
            at + 1
        };
        line += bytes[at..end].iter().filter(|&&byte| byte == b'\n').count();
        at = end;
    }
    (
        String::from_utf8(code).expect("whole characters became spaces"),
        comments,
    )
}

/// The end of the block comment, which may hold others, that starts at `at`.
fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0;
    let mut end = at;
    while end < bytes.len() {
        match &bytes[end..] {
            [b'/', b'*', ..] => (depth, end) = (depth + 1, end + 2),
            [b'*', b'/', ..] => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            break;
        }
    }
    end
}

/// A string or character literal at `at`: length of what opens it, and where it ends.
fn string(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let rest = &bytes[at..];
    match rest {
        [b'r', b'"' | b'#', ..] if !in_word => {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None; // r#identifier
            }
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let open = 2 + hashes;
            let length = rest[open..]
                .windows(close.len())
                .position(|window| window == close);
            Some((
                open,
                length.map_or(bytes.len(), |length| at + open + length + close.len()),
            ))
        }
        [b'"', ..] => {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            Some((1, (end + 1).min(bytes.len())))
        }
        // A lifetime has no quote after it.
        [b'\'', b'\\', ..] => {
            let length = rest[3..].iter().position(|&byte| byte == b'\'')?;
            Some((1, at + 3 + length + 1))
        }
        [b'\'', first, ..] => {
            let width = match first {
                0x00..=0x7f => 1,
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            (rest.get(1 + width) == Some(&b'\'')).then_some((1, at + width + 2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_comments_are_told_apart() {
        let file = File::new(
            "a.rs",
            "let a = \"// no\\\" comment\"; // one\nlet b = '\"'; /* x /* y */ z */ fn f<'a>() {}\nlet c = r#\"\"//\"#; /// two\n",
        );
        assert_eq!(
            file.comments,
            [(1, "// one".to_owned()), (3, "/// two".to_owned())]
        );
        assert_eq!(file.code.len(), file.text.len());
        assert!(file.code.contains("fn f<'a>() {}"));
        assert!(!file.code.contains("comment") && !file.code.contains('z'));
        assert_eq!(
            file.line_of(file.text.find("let c").expect("it is there")),
            3
        );
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use wgpu::Device;", "wgpu"));
        assert!(!has_word("let wgpu_device = my_wgpu;", "wgpu"));
        assert_eq!(identifier("exec::gpu"), "exec");
    }
}
