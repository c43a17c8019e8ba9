//! The README shows the code as it is.

/// The text between two marks, the first included.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("no `{from}`"));
    let end = text[start..].find(to).unwrap_or_else(|| panic!("no `{to}` after `{from}`"));
    text[start..start + end].trim_end()
}

fn unindented(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|l| l.strip_prefix("    ").unwrap_or(l)).collect();
    lines.join("\n").trim_end().to_string()
}

#[test]
fn the_readme_shows_came_as_it_stands_in_the_code() {
    let code = include_str!("../src/optim/came.rs");
    let step = between(code, "    #[inline(always)]\n    fn step<", "\n}\n");
    let readme = include_str!("../README.md");
    let shown =
        between(readme, "```rust,ignore\n", "\n```\n").trim_start_matches("```rust,ignore\n");
    assert_eq!(shown, unindented(step), "copy the step of src/optim/came.rs into README.md");
}

#[test]
fn the_step_of_came_is_at_most_25_lines() {
    let code = include_str!("../src/optim/came.rs");
    let body = between(code, "    fn step<I: Interpreter>(s: Step<'_, I>) {\n", "\n    }\n");
    let lines = body.lines().skip(1).filter(|l| !l.trim().is_empty()).count();
    assert!(lines <= 25, "{lines} lines");
}
