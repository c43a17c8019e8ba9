//! Pieces of messages and texts. What the standard library does for any type and pattern takes more
//! of a browser's download than what is needed here.

use std::fmt::Write as _;

/// Texts with another between each two of them.
pub(crate) fn joined<'t>(texts: impl IntoIterator<Item = &'t str>, between: &str) -> String {
    let mut out = String::new();
    join(&mut out, &mut texts.into_iter(), between);
    out
}

fn join(out: &mut String, texts: &mut dyn Iterator<Item = &str>, between: &str) {
    for (i, text) in texts.enumerate() {
        out.push_str(if i > 0 { between } else { "" });
        out.push_str(text);
    }
}

/// A shape, as `{:?}` writes it.
pub(crate) fn extents(shape: &[usize]) -> String {
    let mut out = "[".to_string();
    for (i, n) in shape.iter().enumerate() {
        let _ = write!(out, "{}{n}", if i > 0 { ", " } else { "" });
    }
    out.push(']');
    out
}

/// The part of a text before another, and the part after it.
pub(crate) fn cut<'t>(text: &'t str, at: &str) -> Option<(&'t str, &'t str)> {
    let mut windows = text.as_bytes().windows(at.len());
    let place = windows.position(|part| part == at.as_bytes())?;
    Some((&text[..place], &text[place + at.len()..]))
}

/// A text with another in place of each `from`.
pub(crate) fn replaced(text: &str, from: &str, to: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = cut(rest, from) {
        out.push_str(before);
        out.push_str(to);
        rest = after;
    }
    out + rest
}
