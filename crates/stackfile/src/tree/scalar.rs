//! Pure. What a scalar without quotes means: as the reference implementation of Compose (Go, yaml.v3) reads it, which is
//! YAML 1.2's core schema with the octal numbers and underscores of YAML 1.1.

use super::Value;

/// The value of a scalar without quotes and without a tag.
pub(crate) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return Value::Text(text.to_owned());
    }
    if let Some(number) = integer(text) {
        return Value::Integer(number);
    }
    if let Some(number) = float(text) {
        return Value::Float(number);
    }
    Value::Text(text.to_owned())
}

/// Decimal, `0x…`, `0o…`, `0b…`, and octal after a mere `0`; underscores between digits do not count.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let digits: String = text.chars().filter(|character| *character != '_').collect();
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|byte| byte.is_ascii_digit()) {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -number } else { number }).ok()
}

/// Digits with a point or an exponent.
fn float(text: &str) -> Option<f64> {
    let digits: String = text.chars().filter(|character| *character != '_').collect();
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    if let Some(exponent) = exponent {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if exponent.is_empty() || !all_digits(exponent) {
            return None;
        }
    }
    digits.parse().ok()
}

/// As Go prints it with `%v`: the fewest digits that read back, with an exponent from 1e21 and below 1e-4.
pub(crate) fn print_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{value}")
}

/// What YAML 1.1 calls booleans beside `true` and `false`, in the spellings that Docker Compose accepts.
pub(crate) fn old_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "on" | "1" | "t" => Some(true),
        "n" | "no" | "off" | "0" | "f" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        format!("{:?}", resolve(text))
    }

    #[test]
    fn scalars_are_read_as_compose_reads_them() {
        for (text, value) in [
            ("0644", "Integer(420)"),
            ("0o644", "Integer(420)"),
            ("1_000", "Integer(1000)"),
            ("0x1F", "Integer(31)"),
            ("-12", "Integer(-12)"),
            ("1.10", "Float(1.1)"),
            ("1e3", "Float(1000.0)"),
            (".5", "Float(0.5)"),
            ("yes", "Text(\"yes\")"),
            ("22:22", "Text(\"22:22\")"),
            ("1.2.3", "Text(\"1.2.3\")"),
            ("0899", "Float(899.0)"),
            ("-", "Text(\"-\")"),
            ("+", "Text(\"+\")"),
            (".", "Text(\".\")"),
            ("2001-01-01", "Text(\"2001-01-01\")"),
            ("~", "Null"),
            ("True", "Boolean(true)"),
            ("99999999999999999999", "Float(1e20)"),
            ("1s", "Text(\"1s\")"),
        ] {
            assert_eq!(shown(text), value, "{text}");
        }
    }

    #[test]
    fn floats_print_as_go_prints_them() {
        for (value, text) in [(1.1, "1.1"), (3.0, "3"), (1e21, "1e+21"), (0.00001, "1e-05"), (0.5, "0.5")] {
            assert_eq!(print_float(value), text);
        }
    }
}
