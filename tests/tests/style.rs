//! Rules of style that no lint checks.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use tests::artifacts::workspace_dir;

/// No function is longer, in lines from its signature to its end.
const FUNCTION_LINES_MAX: usize = 70;
/// Nine of ten functions are at most this long.
const FUNCTION_LINES_P90_MAX: usize = 30;
/// No file is longer, tests included.
const FILE_LINES_MAX: usize = 800;

/// Every source file of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut sources = Vec::new();
    collect(&workspace_dir(), &mut sources);
    assert!(sources.len() > 10, "found only {sources:?}");
    sources
}

fn collect(directory: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, sources);
        } else if name.ends_with(".rs") {
            sources.push(path);
        }
    }
}

/// The functions of a file, with their lengths in lines.
struct Functions(Vec<(String, usize)>);

impl Functions {
    fn of(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let file = syn::parse_file(&text);
        let mut functions = Self(Vec::new());
        functions.visit_file(&file.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        functions
    }

    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let lines = body.span().end().line - signature.span().start().line + 1;
        self.0.push((signature.ident.to_string(), lines));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_are_short() {
    let mut lengths = Vec::new();
    let mut long = Vec::new();
    for path in sources() {
        for (name, lines) in Functions::of(&path).0 {
            lengths.push(lines);
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: {name}: {lines} lines", path.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "over {FUNCTION_LINES_MAX} lines:\n{}",
        long.join("\n")
    );
    lengths.sort_unstable();
    let p90 = lengths[lengths.len() * 9 / 10];
    assert!(
        p90 <= FUNCTION_LINES_P90_MAX,
        "the 90th percentile is {p90} lines"
    );
}

#[test]
fn files_are_short() {
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().count();
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|path| lines(path) > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:?}");
}
