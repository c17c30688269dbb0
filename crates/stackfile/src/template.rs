//! Pure. Variables in one text: `$NAME`, `${NAME}`, and the operators of the Compose Specification.
//!
//! What a variable holds is never looked at again for further variables; only what the file says is.

/// How deeply references may be nested in the defaults of others.
const MOST_DEPTH: usize = 32;
/// The longest text that variables may give, in bytes: variables of variables can double at every step.
const MOST_BYTES: usize = 1 << 20;

/// Why a text with variables cannot be evaluated. The fields hold what the file says, never what a variable holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not one of the forms.
    #[error("`{fragment}` is not a variable reference")]
    Invalid {
        /// From its dollar sign on, shortened.
        fragment: String,
        /// Where the fragment begins, in bytes.
        offset: usize,
    },
    /// `${NAME:?message}`, and the variable is not set or, with the colon, empty.
    #[error("the variable `{name}` must be set{}{message}", if message.is_empty() { "" } else { ": " })]
    Required {
        /// The variable.
        name: String,
        /// What the file says about it.
        message: String,
    },
    /// References in defaults of references, more than 32 of them.
    #[error("variable references are nested more than {MOST_DEPTH} deep")]
    TooDeep,
    /// The result is longer than 1 MiB.
    #[error("the variables give a text of more than {MOST_BYTES} bytes")]
    TooLong,
}

/// The text with every variable replaced, and the names of those that had neither a value nor a default.
pub(crate) fn substitute(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
) -> Result<String, TemplateError> {
    evaluate(text, 0, lookup, unset, 0)
}

fn evaluate(
    text: &str,
    base: usize,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
    depth: usize,
) -> Result<String, TemplateError> {
    if depth > MOST_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let offset = base + (text.len() - rest.len()) + at;
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            result.push('$');
            rest = next;
        } else if let Some(inner) = after.strip_prefix('{') {
            let invalid = || TemplateError::Invalid { fragment: fragment(&rest[at..]), offset };
            let (body, next) = braced(inner).ok_or_else(invalid)?;
            let name = name_prefix(body);
            if name.is_empty() {
                return Err(invalid());
            }
            let inner_base = offset + 2;
            let operation = &body[name.len()..];
            result.push_str(&reference(name, operation, inner_base, lookup, unset, depth, &invalid)?);
            rest = next;
        } else {
            let name = name_prefix(after);
            if name.is_empty() {
                result.push('$');
            } else if let Some(value) = lookup(name) {
                result.push_str(&value);
            } else {
                unset.push(name.to_owned());
            }
            rest = &after[name.len()..];
        }
        if result.len() > MOST_BYTES {
            return Err(TemplateError::TooLong);
        }
    }
    result.push_str(rest);
    Ok(result)
}

fn reference(
    name: &str,
    operation: &str,
    base: usize,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
    depth: usize,
    invalid: &dyn Fn() -> TemplateError,
) -> Result<String, TemplateError> {
    let value = lookup(name);
    if operation.is_empty() {
        if value.is_none() {
            unset.push(name.to_owned());
        }
        return Ok(value.unwrap_or_default());
    }
    let (colon, operator) = match operation.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, operation),
    };
    // With the colon, an empty value counts as none.
    let value = value.filter(|value| !(colon && value.is_empty()));
    let Some(kind) = operator.chars().next().filter(|kind| matches!(kind, '-' | '+' | '?')) else {
        return Err(invalid());
    };
    let argument = &operator[1..];
    let argument_base = base + name.len() + usize::from(colon) + 1;
    let mut evaluated = || evaluate(argument, argument_base, lookup, unset, depth + 1);
    match (kind, value) {
        ('-' | '?', Some(value)) => Ok(value),
        ('-', None) | ('+', Some(_)) => evaluated(),
        ('+', None) => Ok(String::new()),
        _ => Err(TemplateError::Required { name: name.to_owned(), message: evaluated()? }),
    }
}

/// One variable that a text refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    /// The variable.
    pub name: &'a str,
    /// What is done where it has a value, or has none.
    pub operator: Operator<'a>,
}

/// What a reference says beside the name; the texts are as written, variables in them not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator<'a> {
    /// `$NAME`, `${NAME}`.
    None,
    /// `${NAME-text}`, `${NAME:-text}`: what stands in for it.
    Default(&'a str),
    /// `${NAME+text}`, `${NAME:+text}`: what takes its place where it is set.
    Alternative(&'a str),
    /// `${NAME?text}`, `${NAME:?text}`: it must be set.
    Required,
}

/// Visits every variable that a text refers to, those within defaults too. What is no reference is passed over.
pub(crate) fn references<'a>(text: &'a str, visit: &mut dyn FnMut(Reference<'a>)) {
    visit_references(text, 0, visit);
}

fn visit_references<'a>(text: &'a str, depth: usize, visit: &mut dyn FnMut(Reference<'a>)) {
    if depth > MOST_DEPTH {
        return;
    }
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(next) = after.strip_prefix('$') {
            rest = next;
            continue;
        }
        let Some(inner) = after.strip_prefix('{') else {
            let name = name_prefix(after);
            if !name.is_empty() {
                visit(Reference { name, operator: Operator::None });
            }
            rest = &after[name.len()..];
            continue;
        };
        let Some((body, next)) = braced(inner) else { return };
        rest = next;
        let name = name_prefix(body);
        let operation = &body[name.len()..];
        let operation = operation.strip_prefix(':').unwrap_or(operation);
        let argument = operation.get(1..).unwrap_or_default();
        let operator = match operation.chars().next() {
            None => Operator::None,
            Some('-') => Operator::Default(argument),
            Some('+') => Operator::Alternative(argument),
            Some('?') => Operator::Required,
            Some(_) => continue,
        };
        if name.is_empty() {
            continue;
        }
        visit(Reference { name, operator });
        visit_references(argument, depth + 1, visit);
    }
}

/// The longest prefix that is the name of a variable: a letter or `_`, then letters, digits, `_`.
pub(crate) fn name_prefix(text: &str) -> &str {
    let end = text
        .bytes()
        .enumerate()
        .find(|&(at, byte)| !(byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit())))
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// What is before the brace that closes the one just opened, and what is after it. Pairs of braces within count as
/// text, as in `${A:-{"key": 1}}`.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    // A lone brace within: only references are paired.
    let mut depth = 0usize;
    let mut last = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if last == b'$' => depth += 1,
            b'}' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            b'}' => depth -= 1,
            _ => {}
        }
        last = byte;
    }
    None
}

fn fragment(text: &str) -> String {
    let end = text.find('}').map_or(text.len(), |at| at + 1);
    let text = &text[..end];
    if text.chars().count() > 40 {
        format!("{}…", text.chars().take(40).collect::<String>())
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str, values: &[(&str, &str)]) -> Result<String, TemplateError> {
        let lookup = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        substitute(text, &lookup, &mut Vec::new())
    }

    #[test]
    fn every_reference_is_found() {
        let found = |text: &str| {
            let mut found = Vec::new();
            references(text, &mut |reference| {
                found.push((reference.name.to_owned(), format!("{:?}", reference.operator)))
            });
            found.into_iter().map(|(name, operator)| format!("{name} {operator}")).collect::<Vec<_>>()
        };
        assert_eq!(
            found("$A $$B ${C:-${D?must}}${E+x} ${F!} ${9} $ ${G"),
            ["A None", "C Default(\"${D?must}\")", "D Required", "E Alternative(\"x\")"]
        );
    }

    #[test]
    fn an_unused_default_is_not_evaluated() {
        assert_eq!(with("${A:-${B:?missing}}", &[("A", "x")]).unwrap(), "x");
        assert_eq!(with("${A+${B:?missing}}", &[]).unwrap(), "");
    }

    #[test]
    fn values_are_not_looked_at_again() {
        assert_eq!(with("$A ${A} ${B:-$A}", &[("A", "$B${C}")]).unwrap(), "$B${C} $B${C} $B${C}");
    }

    #[test]
    fn the_place_of_a_bad_reference_is_known() {
        let Err(TemplateError::Invalid { fragment, offset }) = with("ok ${A:-${B!}}", &[]) else { panic!() };
        assert_eq!((fragment.as_str(), offset), ("${B!}", 8));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{}x{}", "${A:-".repeat(10_000), "}".repeat(10_000));
        assert_eq!(with(&text, &[]), Err(TemplateError::TooDeep));
    }

    #[test]
    fn a_result_that_grows_without_bounds_is_refused() {
        let long = "x".repeat(1000);
        assert_eq!(with(&"$A".repeat(10_000), &[("A", &long)]), Err(TemplateError::TooLong));
    }

    proptest! {
        #[test]
        fn a_text_without_dollars_is_unchanged(text in "[^$]{0,60}") {
            prop_assert_eq!(with(&text, &[]).unwrap(), text);
        }

        #[test]
        fn doubled_dollars_protect_any_text(text in ".{0,60}") {
            prop_assert_eq!(with(&text.replace('$', "$$"), &[("A", "leak")]).unwrap(), text);
        }

        #[test]
        fn nothing_panics(text in r"[$\{\}:?+\-A-Cé ]{0,40}") {
            let _ = with(&text, &[("A", "x")]);
            references(&text, &mut |_| ());
        }

        #[test]
        fn only_variables_that_are_referred_to_are_looked_up(text in r"[$\{\}:?+\-A-C ]{0,40}") {
            let mut known = Vec::new();
            references(&text, &mut |reference| known.push(reference.name.to_owned()));
            let looked_up = std::cell::RefCell::new(Vec::new());
            let lookup = |name: &str| {
                looked_up.borrow_mut().push(name.to_owned());
                None
            };
            if substitute(&text, &lookup, &mut Vec::new()).is_ok() {
                for name in looked_up.into_inner() {
                    prop_assert!(known.contains(&name), "{} is looked up and not known", name);
                }
            }
        }
    }
}
