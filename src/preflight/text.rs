//! Reads the few forms of Python literals in which frameworks write their build, without Python.

/// The value of `name = 'text'` on a line of its own, with or without an annotation. `Some(None)`
/// for `name = None`.
pub fn assignment<'t>(text: &'t str, name: &str) -> Option<Option<&'t str>> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.trim_start();
        let rest = match rest.strip_prefix(':') {
            Some(annotated) => annotated.split_once('=')?.1,
            None => rest.strip_prefix('=')?,
        };
        let rest = rest.trim();
        if rest == "None" {
            return Some(None);
        }
        quoted(rest).map(Some)
    })
}

/// The text behind a quoted key and its comma or colon: of `('cuda_version', '12.5.1')`,
/// `'12.5.1')`.
pub fn after_key<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    ['\'', '"'].into_iter().find_map(|quote| {
        let (_, rest) = text.split_once(&format!("{quote}{key}{quote}"))?;
        let rest = rest.trim_start();
        Some(
            rest.strip_prefix(',')
                .or_else(|| rest.strip_prefix(':'))?
                .trim_start(),
        )
    })
}

/// The string at the beginning of `text`.
pub fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote).map(|(value, _)| value)
}

/// The strings of the list at the beginning of `text`; at most 64.
pub fn list(text: &str) -> Vec<&str> {
    let Some((inner, _)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) else {
        return Vec::new();
    };
    inner
        .split(',')
        .take(64)
        .filter_map(|item| quoted(item.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_files_of_pytorch() {
        // torch 2.0.1 and 2.5.1.
        let old = "__version__ = '2.0.1+cu117'\ndebug = False\ncuda = '11.7'\nhip = None\n";
        let new = "__version__ = '2.5.1'\ncuda: Optional[str] = '12.4'\nhip: Optional[str] = None\n";
        assert_eq!(assignment(old, "__version__"), Some(Some("2.0.1+cu117")));
        assert_eq!(assignment(old, "cuda"), Some(Some("11.7")));
        assert_eq!(assignment(new, "cuda"), Some(Some("12.4")));
        assert_eq!(assignment(new, "hip"), Some(None));
        assert_eq!(assignment(old, "cud"), None);
    }

    #[test]
    fn build_info_of_tensorflow() {
        let text = "build_info = collections.OrderedDict([('cpu_compiler', '/usr/lib/llvm'), ('cuda_compute_capabilities', ['sm_60', 'compute_90']), ('cuda_version', '12.5.1'), ('is_cuda_build', True)])";
        assert_eq!(after_key(text, "cuda_version").and_then(quoted), Some("12.5.1"));
        assert_eq!(
            after_key(text, "cuda_compute_capabilities").map(list),
            Some(vec!["sm_60", "compute_90"])
        );
        assert!(after_key(text, "is_cuda_build").is_some_and(|t| t.starts_with("True")));
        assert_eq!(after_key(text, "missing"), None);
        assert_eq!((quoted("'open"), quoted("")), (None, None));
    }
}
