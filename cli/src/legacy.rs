//! llama.cpp's options of one dash and several letters, which clap would take for several options of one letter.

use std::ffi::OsString;

/// What becomes of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It is spelled so here.
    Long(&'static str),
    /// There is nothing to choose, and why.
    Nothing(&'static str),
}

const WORDS: [(&str, Word); 9] = [
    ("-dev", Word::Long("--device")),
    ("-hf", Word::Long("--model")),
    ("-npl", Word::Long("--npl")),
    ("-pg", Word::Long("--pg")),
    ("-ub", Word::Long("--ubatch-size")),
    ("-ctk", Word::Long("--cache-type-k")),
    ("-ctv", Word::Long("--cache-type-v")),
    (
        "-fa",
        Word::Nothing("attention is always computed page by page, there is nothing to switch"),
    ),
    (
        "-ngl",
        Word::Nothing("all layers run on the one device that --device names"),
    ),
];

/// Options whose value may be any text, these words too.
const BEFORE_TEXT: [&str; 3] = ["-p", "--prompt", "--stop"];

/// The words that clap understands, or the one line that says why there is no such option. What follows `--` stays.
pub fn rewrite(words: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, String> {
    let mut rewritten: Vec<OsString> = Vec::new();
    let mut options_ended = false;
    for word in words {
        let is_text = rewritten
            .last()
            .is_some_and(|last| BEFORE_TEXT.iter().any(|option| last == option));
        options_ended |= word == "--" && !is_text;
        rewritten.push(if options_ended || is_text {
            word
        } else {
            rewrite_one(word)?
        });
    }
    Ok(rewritten)
}

fn rewrite_one(word: OsString) -> Result<OsString, String> {
    let Some(text) = word.to_str() else {
        return Ok(word);
    };
    let (name, value) = text
        .split_once('=')
        .map_or((text, None), |(name, value)| (name, Some(value)));
    match WORDS.iter().find(|(short, _)| *short == name) {
        None => Ok(word),
        Some((_, Word::Long(long))) => Ok(match value {
            None => OsString::from(long),
            Some(value) => OsString::from(format!("{long}={value}")),
        }),
        Some((short, Word::Nothing(why))) => Err(format!("no option '{short}': {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> Result<String, String> {
        let words = rewrite(line.split(' ').map(OsString::from))?;
        Ok(words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn every_word_of_the_table_is_rewritten_or_explained() {
        for (short, word) in WORDS {
            match word {
                Word::Long(long) => {
                    assert_eq!(
                        rewritten(&format!("plateau bench {short} 1")),
                        Ok(format!("plateau bench {long} 1"))
                    );
                    assert_eq!(
                        rewritten(&format!("plateau {short}=1")),
                        Ok(format!("plateau {long}=1"))
                    );
                }
                Word::Nothing(why) => {
                    assert_eq!(
                        rewritten(&format!("plateau {short} 1")),
                        Err(format!("no option '{short}': {why}"))
                    );
                }
            }
        }
    }

    #[test]
    fn other_words_stay() {
        for line in [
            "plateau generate -p text -n -1 -c 64",
            "plateau generate - -dev1 -f a",
            "plateau --device x",
        ] {
            assert_eq!(rewritten(line), Ok(line.to_owned()));
        }
    }

    #[test]
    fn a_text_that_looks_like_an_option_stays() {
        for line in [
            "plateau generate -p -fa",
            "plateau generate x --stop -ngl",
            "plateau generate -p -- -n 3",
        ] {
            assert_eq!(rewritten(line), Ok(line.to_owned()));
        }
    }

    #[test]
    fn what_follows_two_dashes_stays() {
        assert_eq!(
            rewritten("plateau -dev 0 -- -dev -fa"),
            Ok("plateau --device 0 -- -dev -fa".to_owned())
        );
    }

    #[test]
    fn a_rewritten_line_parses() {
        use clap::Parser;
        let line = "plateau bench -dev twin -ub 64 -npl 2 -pg 8,4 -ctk f32 -ctv f32";
        let words =
            rewrite(line.split(' ').map(OsString::from)).expect("every word has a long form");
        crate::args::Args::try_parse_from(words).expect("clap knows the long forms");
    }
}
