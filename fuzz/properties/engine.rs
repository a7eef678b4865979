//! An engine's configuration file: set, set again, revert; every byte that is not ours stays.

use nvoci::engine::edit::{Editor, Format};
use serde_json::json;

use crate::count::reached;

/// Holds for every input. The first byte chooses format and key.
pub(crate) fn check(input: &[u8]) {
    reached("run");
    let Some((&first, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let format = if first & 1 == 0 {
        Format::Json
    } else {
        Format::Toml
    };
    let paths: [&[&str]; 4] = [
        &["default-runtime"],
        &["runtimes", "nvidia"],
        &["features", "cdi"],
        &["a", "b", "c", "d"],
    ];
    let path = paths[usize::from(first >> 1) % paths.len()];
    let value = if first & 8 == 0 {
        json!("nvidia")
    } else {
        json!({"path": "/usr/bin/nvoci-runtime"})
    };
    let Ok(mut editor) = Editor::open("f", format, text) else {
        return;
    };
    let before = editor.value().clone();
    if editor.set(path, &value).is_err() {
        assert_eq!(editor.text(), text, "a refused edit changed the text");
        return;
    }
    reached("accepted");
    assert_eq!(editor.get(path), Some(&value));
    let edit = editor.finish(Vec::new());
    let mut again = Editor::open("f", format, &edit.text).expect("the written text can be read");
    for change in edit.changes.iter().rev() {
        again.undo(change).expect("an edit can be reverted");
    }
    assert_eq!(again.value(), &before, "{}", edit.text);
}
