//! Times and numbers as people write and read them.

use std::time::Duration;

/// Reads `30s`, `500ms`, `5m` or `1h`; a bare number counts seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a time above zero, such as 30s, 500ms, 5m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    match number.checked_mul(millis) {
        None | Some(0) => Err(error()),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// A time or a span as the API takes it, checked here so that a wrong one is wrong usage.
pub(crate) fn parse_since(text: &str) -> Result<String, String> {
    if humantime::parse_rfc3339_weak(text).is_err() && humantime::parse_duration(text).is_err() {
        return Err(format!(
            "`{text}` is neither a time such as 2026-01-31T12:00:00Z nor a span such as 5m"
        ));
    }
    Ok(text.to_owned())
}

/// Seconds as a person reads them: `12s`, `5m03s`, `2h05m`, `3d04h`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A number scaled by thousands to at most four characters and a letter: `999`, `1.23k`, `45.6M`.
pub(crate) fn scaled(number: f64) -> String {
    const LETTERS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut value = number;
    let mut letter = 0;
    while value >= 999.5 && letter + 1 < LETTERS.len() {
        value /= 1000.0;
        letter += 1;
    }
    let decimals = match value {
        _ if letter == 0 && (value.fract() == 0.0 || value >= 100.0) => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", LETTERS[letter])
}

/// `1 change`, `2 changes`, `3 switches`, `4 entries`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ if noun.ends_with("ch") || noun.ends_with("ss") => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7", 7_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "0s", "-1s", "1.5s", "1d", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (63, "1m03s"),
            (7_500, "2h05m"),
            (273_600, "3d04h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn counting() {
        for (number, noun, text) in [
            (1, "entry", "1 entry"),
            (0, "entry", "0 entries"),
            (2, "switch", "2 switches"),
            (3, "port group", "3 port groups"),
        ] {
            assert_eq!(count(number, noun), text);
        }
    }

    #[test]
    fn scaling() {
        for (number, text) in [
            (0.0, "0"),
            (0.5, "0.50"),
            (999.0, "999"),
            (999.7, "1.00k"),
            (1234.0, "1.23k"),
            (45_600_000.0, "45.6M"),
            (456e9, "456G"),
        ] {
            assert_eq!(scaled(number), text);
        }
    }
}
