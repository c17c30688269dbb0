//! Pure. A command line to words, as a shell splits it, without expanding anything.

/// Why a text cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandLineError {
    #[error("a quote is not closed")]
    Quote,
    #[error("it ends with a backslash")]
    Backslash,
}

/// The words. Single quotes keep everything, double quotes everything but `\"` and `\\`.
pub(crate) fn split(text: &str) -> Result<Vec<String>, CommandLineError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(inner) => word.push(inner),
                        None => return Err(CommandLineError::Quote),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => match characters.next() {
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                            Some('\n') => {}
                            Some(other) => {
                                word.push('\\');
                                word.push(other);
                            }
                            None => return Err(CommandLineError::Quote),
                        },
                        Some(inner) => word.push(inner),
                        None => return Err(CommandLineError::Quote),
                    }
                }
            }
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err(CommandLineError::Backslash),
            },
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(split("bundle exec  thin -p 3000").unwrap(), ["bundle", "exec", "thin", "-p", "3000"]);
        assert_eq!(split("sh -c 'echo \"a b\"' \"\"").unwrap(), ["sh", "-c", "echo \"a b\"", ""]);
        assert_eq!(split("a\\ b \"c\\\"d\" e'f'g").unwrap(), ["a b", "c\"d", "efg"]);
        assert_eq!(split("say 'hi"), Err(CommandLineError::Quote));
        assert_eq!(split("say \\"), Err(CommandLineError::Backslash));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in prop::collection::vec("[^']{0,8}", 0..5)) {
            let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), words);
        }
    }
}
