//! Snippets from the pages in `docs/`. The tests use them, so they are known to work.

use std::fs;

/// The code block of this language in a page that contains this text. Panics unless there is exactly one.
pub fn snippet(page: &str, language: &str, text: &str) -> String {
    let file = crate::root().join("docs").join(page);
    let content = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let fence = format!("\n```{language}\n");
    let blocks = content.split(&fence).skip(1);
    let blocks = blocks.map(|rest| rest.split_once("```").unwrap().0);
    let found: Vec<_> = blocks.filter(|block| block.contains(text)).collect();
    assert_eq!(found.len(), 1, "{language} with {text} in {file:?}");
    found[0].to_string()
}
