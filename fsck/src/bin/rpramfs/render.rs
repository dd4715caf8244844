// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Values as text: the same for every structure, so that what JSON has, a person sees.

use serde_json::Value;
use std::fmt::Write;

/// Text of a value; objects as `name: value`, their objects indented.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    put(&mut out, value, 0);
    out
}

fn put(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            let width = map
                .iter()
                .filter(|(_, v)| is_plain(v))
                .map(|(k, _)| k.len())
                .max()
                .unwrap_or(0);
            for (key, v) in map {
                indent(out, depth);
                if is_plain(v) {
                    let _ = writeln!(out, "{key:width$}  {}", plain(key, v));
                } else {
                    let _ = writeln!(out, "{key}");
                    put(out, v, depth + 1);
                }
            }
        }
        Value::Array(list) => {
            for v in list {
                match v {
                    Value::Object(map) if map.values().all(is_plain) => {
                        indent(out, depth);
                        let line: Vec<String> = map
                            .iter()
                            .map(|(k, v)| format!("{k} {}", plain(k, v)))
                            .collect();
                        let _ = writeln!(out, "{}", line.join("  "));
                    }
                    Value::Object(_) => {
                        indent(out, depth);
                        let _ = writeln!(out, "-");
                        put(out, v, depth + 1);
                    }
                    _ => {
                        indent(out, depth);
                        let _ = writeln!(out, "{}", plain("", v));
                    }
                }
            }
        }
        _ => {
            indent(out, depth);
            let _ = writeln!(out, "{}", plain("", value));
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n(' ', 2 * depth));
}

fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    }
}

fn plain(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
        Value::Number(n) => {
            let hex = ["offset", "key", "crc", "sum", "commit", "word"];
            let is_hex = hex
                .iter()
                .any(|h| key == *h || key.ends_with(&format!("_{h}")));
            match (n.as_u64(), key) {
                (Some(n), "mode") => format!("{n:o}"),
                (Some(n), _) if is_hex => format!("{n:#x}"),
                _ => n.to_string(),
            }
        }
        Value::String(s) => s
            .chars()
            .flat_map(|c| match c {
                // Names from the region do not get at the terminal.
                c if c.is_control() => c.escape_default().collect::<Vec<_>>(),
                c => vec![c],
            })
            .collect(),
        Value::Array(_) | Value::Object(_) => "(none)".into(),
    }
}

/// A time in nanoseconds since 1970 as UTC, to the second.
pub fn time(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let days = seconds.div_euclid(86400);
    let rest = seconds.rem_euclid(86400);
    // Days since 0000-03-01 to a date, after Howard Hinnant's "chrono-Compatible Low-Level Date
    // Algorithms".
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Bytes as lines of 16, with their offsets and what is printable; runs of equal lines are left
/// out.
pub fn hex(bytes: &[u8], offset: u64) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut last: Option<&[u8]> = None;
    let mut skipping = false;
    for (i, line) in bytes.chunks(16).enumerate() {
        if last == Some(line) {
            if !skipping {
                out.push("*".into());
            }
            skipping = true;
            continue;
        }
        skipping = false;
        last = Some(line);
        let digits: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = line
            .iter()
            .map(|b| match b {
                0x20..=0x7e => char::from(*b),
                _ => '.',
            })
            .collect();
        out.push(format!(
            "{:08x}  {:47}  {text}",
            offset + 16 * i as u64,
            digits.join(" ")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59Z");
        // date -u -d @1709208000
        assert_eq!(time(1_709_208_000_000_000_000), "2024-02-29T12:00:00Z");
        assert_eq!(time(i64::MAX), "2262-04-11T23:47:16Z");
    }

    #[test]
    fn objects_are_indented() {
        let text = text(
            &json!({"offset": 255, "inner": {"mode": 0o755}, "list": [{"a": 1, "b": "x\u{1b}"}]}),
        );
        assert_eq!(
            text,
            "offset  0xff\ninner\n  mode  755\nlist\n  a 1  b x\\u{1b}\n"
        );
    }

    #[test]
    fn equal_lines_are_left_out() {
        assert_eq!(hex(&[0; 64], 0x1000).len(), 2);
        assert_eq!(
            hex(b"0123456789abcdef", 16),
            ["00000010  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef"]
        );
    }
}
