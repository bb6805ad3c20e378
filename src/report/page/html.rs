//! Text, numbers, tables and sections of a page.

use std::fmt::Write as _;

/// Text for HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// A cell of a table.
pub(super) fn cell(text: &str) -> String {
    let kind = if text.parse::<f64>().is_ok() { " class=\"number\"" } else { "" };
    format!("<td{kind}>{}</td>", escaped(text))
}

/// A cell with a share in points, and a bar of its length; below 0 nothing was measured.
pub(super) fn bar(share: f64) -> String {
    if share < 0.0 {
        return cell("-");
    }
    let points = 100.0 * share;
    format!("<td class=\"bar\" style=\"--share:{:.1}%\"><span>{points:.1}</span></td>", points.min(100.0))
}

/// A [`bar`] in the colour of a series.
pub(super) fn bar_of(series: usize, share: f64) -> String {
    bar(share).replacen("class=\"bar\"", &format!("class=\"bar s{}\"", series % 8), 1)
}

/// A section with a heading; nothing where it has no content.
pub(super) fn section(heading: &str, content: &str) -> String {
    match content.is_empty() {
        true => String::new(),
        false => format!("<section>\n<h2>{}</h2>\n{content}</section>\n", escaped(heading)),
    }
}

/// A table that scrolls by itself where the page is too narrow for it.
pub(super) fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let mut text = "<div class=\"wide\" tabindex=\"0\"><table>\n<thead><tr>".to_owned();
    head.iter().for_each(|name| text += &format!("<th>{name}</th>"));
    text += "</tr></thead>\n<tbody>\n";
    for row in rows {
        let _ = writeln!(text, "<tr>{}</tr>", row.concat());
    }
    text + "</tbody></table></div>\n"
}

/// Headings of a table.
pub(super) fn headings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| escaped(name)).collect()
}

/// A number with the digits that a reader needs.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match value {
        _ if size >= 1e6 || (size < 1e-3 && size > 0.0) => format!("{value:.2e}"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Base 64 (RFC 4648).
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let is_there = place <= three.len();
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if is_there { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_that_of_the_rfc() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!(
            [of(""), of("f"), of("fo"), of("foo"), of("foobar")],
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYmFy"]
        );
    }

    #[test]
    fn numbers_are_short() {
        let told = [0.0, 3.0, 12.345, 1234.5, 2e7, 1.5e-5, 0.25].map(number);
        assert_eq!(told, ["0", "3", "12.35", "1234", "2.00e7", "1.50e-5", "0.2500"]);
    }
}
