//! The pages in `docs/`, whose snippets the tests use, so that they are known to work.

use std::fs;
use std::path::Path;

/// The code block of this language in a page that has this text in it: there is one.
pub fn snippet(page: &str, language: &str, text: &str) -> String {
    // Tests run in the folder of their package, which may be further down.
    let start = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let file = start.map(|folder| folder.join("docs").join(page)).find(|file| file.exists());
    let file = file.unwrap_or_else(|| panic!("there is no docs/{page}"));
    let content = fs::read_to_string(&file).unwrap();
    let fence = format!("\n```{language}\n");
    let blocks = content.split(&fence).skip(1);
    let blocks = blocks.map(|rest| rest.split_once("```").unwrap().0);
    let found: Vec<_> = blocks.filter(|block| block.contains(text)).collect();
    assert_eq!(found.len(), 1, "{language} with {text} in {file:?}");
    found[0].to_string()
}
