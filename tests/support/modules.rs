//! The graph of a crate's modules: which file uses what of which other file.
//!
//! Read from `use` and from paths (`crate::`, `super::`, `self::`, names that an import or a `mod` brought into scope).
//! A name counts as used from the file that defines it, however many re-exports lie between; so a `mod.rs` that
//! only re-exports uses nothing. What the standard library and other crates have is left out.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, sources, words};

/// For each file, by its path in the repository, the files it uses and a name that it uses there.
pub(crate) type Uses = BTreeMap<String, BTreeMap<String, String>>;

/// Reads the modules below `root` (`src`, the folder of a crate's `lib.rs`) and what they use of each other.
pub(crate) fn uses(root: &str) -> Uses {
    let files = sources(&[root]);
    graph(files.iter().filter_map(|source| Some((module_path(root, source)?, source))).collect())
}

/// The circles among the files that `is_of` chooses: one for each set of files that reach each other, as short as
/// there is one, written `a.rs -(name)-> b.rs -(name)-> a.rs`.
pub(crate) fn circles(uses: &Uses, is_of: impl Fn(&str) -> bool) -> Vec<String> {
    let mut left: BTreeSet<&str> = uses.keys().map(String::as_str).filter(|file| is_of(file)).collect();
    let mut found = Vec::new();
    let all: Vec<&str> = left.iter().copied().collect();
    let shortest = |start: &str| shortest_circle(uses, start, &is_of);
    for start in all {
        if !left.contains(start) {
            continue;
        }
        let Some(mut best) = shortest(start) else { continue };
        let mates: Vec<&str> =
            left.iter().copied().filter(|file| reaches(uses, start, file, &is_of)).collect();
        let mates: Vec<&str> = mates.into_iter().filter(|file| reaches(uses, file, start, &is_of)).collect();
        for file in mates {
            left.remove(file);
            if let Some(other) = shortest(file).filter(|other| other.len() < best.len()) {
                best = other;
            }
        }
        let mut text = best[0].clone();
        for pair in best.windows(2) {
            text += &format!(" -({})-> {}", uses[&pair[0]][&pair[1]], pair[1]);
        }
        found.push(text);
    }
    found
}

/// The shortest way from `start` back to itself, both ends named.
fn shortest_circle(uses: &Uses, start: &str, is_of: &impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in uses[way.last()?].keys().filter(|next| is_of(next)) {
                let mut way = way.clone();
                way.push(next.clone());
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

fn reaches(uses: &Uses, from: &str, to: &str, is_of: &impl Fn(&str) -> bool) -> bool {
    let (mut open, mut seen) = (vec![from], BTreeSet::from([from]));
    while let Some(file) = open.pop() {
        if file == to {
            return true;
        }
        open.extend(uses[file].keys().map(String::as_str).filter(|next| is_of(next) && seen.insert(next)));
    }
    false
}

/// The module of a file: `src/conv/mod.rs` is `[conv]`, `src/lib.rs` is `[]`. A program's `main.rs` is none.
fn module_path(root: &str, source: &Source) -> Option<Vec<String>> {
    let inside = source.path.strip_prefix(root)?.trim_start_matches('/').trim_end_matches(".rs");
    let mut path: Vec<String> = inside.split('/').map(str::to_owned).collect();
    match path.last().map(String::as_str) {
        Some("main" | "bin") => return None,
        Some("lib") if path.len() == 1 => drop(path.pop()),
        Some("mod") => drop(path.pop()),
        _ => {}
    }
    Some(path)
}

/// A file as a module.
struct Module<'a> {
    file: &'a str,
    /// Names that `use` brings in, as absolute paths in the crate; `*` has its own list.
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Those of the globs that are re-exports.
    passed_on: BTreeSet<Vec<String>>,
    /// Names that it re-exports.
    exported: BTreeSet<String>,
    /// The code without its `use` items and `mod` declarations.
    body: String,
    /// The words of that.
    words: BTreeSet<String>,
}

/// What files use of each other, given the module that each one is.
pub(crate) fn graph(files: Vec<(Vec<String>, &Source)>) -> Uses {
    let known: BTreeSet<&[String]> = files.iter().map(|(path, _)| &path[..]).collect();
    let modules: BTreeMap<&[String], Module> =
        files.iter().map(|(path, source)| (&path[..], Module::read(path, source, &known))).collect();
    let mut uses = Uses::new();
    for (path, module) in &modules {
        let mut of = BTreeMap::new();
        let mut add = |target: Option<(&[String], String)>| {
            let Some((target, name)) = target else { return };
            if target != *path {
                of.entry(modules[target].file.to_owned()).or_insert(name);
            }
        };
        for (name, target) in &module.imports {
            // What is only passed on is not used; a module is used where something in it is.
            if !modules.contains_key(&target[..])
                && (!module.exported.contains(name) || module.words.contains(name))
            {
                add(resolve(&modules, target));
            }
        }
        for target in module.globs.iter().filter(|glob| !module.passed_on.contains(*glob)) {
            add(modules.get_key_value(&target[..]).map(|(path, _)| (*path, "*".to_owned())));
        }
        for written in paths(&module.body) {
            if let Some(absolute) = module.absolute(path, &written, &known) {
                add(resolve(&modules, &absolute));
            }
        }
        uses.insert(module.file.to_owned(), of);
    }
    uses
}

/// The module that defines what `path` leads to, and its name.
fn resolve<'m>(modules: &BTreeMap<&'m [String], Module>, path: &[String]) -> Option<(&'m [String], String)> {
    let mut path = path.to_vec();
    // Re-exports of re-exports end somewhere.
    for _ in 0..32 {
        let depth = (0..=path.len()).rev().find(|&depth| modules.contains_key(&path[..depth]))?;
        let (&home, module) = modules.get_key_value(&path[..depth])?;
        let name = path.get(depth)?;
        let rest = path[depth + 1..].to_vec();
        if let Some(target) = module.imports.get(name).filter(|target| **target != path[..=depth]) {
            path = target.iter().cloned().chain(rest).collect();
            continue;
        }
        let through = module.globs.iter().find(|glob| {
            modules
                .get(&glob[..])
                .is_some_and(|module| module.exported.contains(name) || module.defines(name))
        });
        match through.filter(|_| !module.defines(name)) {
            Some(glob) => path = glob.iter().chain([name]).cloned().chain(rest).collect(),
            None => return Some((home, name.clone())),
        }
    }
    None
}

impl<'a> Module<'a> {
    fn read(path: &[String], source: &'a Source, known: &BTreeSet<&[String]>) -> Self {
        let (uses, body) = split_uses(&source.code);
        let body = without_declarations(&body);
        let mut module = Self {
            words: words(&body).map(str::to_owned).collect(),
            file: &source.path,
            imports: BTreeMap::new(),
            globs: Vec::new(),
            passed_on: BTreeSet::new(),
            exported: BTreeSet::new(),
            body,
        };
        // A name that is imported here may begin another import's path.
        for _ in 0..2 {
            for (public, tree) in &uses {
                let mut leaves = Vec::new();
                expand(&[], tree, &mut leaves);
                for (written, name) in leaves {
                    let Some(target) = module.absolute(path, &written, known) else { continue };
                    if name == "*" {
                        if *public {
                            module.passed_on.insert(target.clone());
                        }
                        if !module.globs.contains(&target) {
                            module.globs.push(target);
                        }
                        continue;
                    }
                    if *public {
                        module.exported.insert(name.clone());
                    }
                    module.imports.insert(name, target);
                }
            }
        }
        module
    }

    /// A path as it is written in the module `at`, from the crate's root on; `None` if it leads out of the crate.
    fn absolute(
        &self,
        at: &[String],
        written: &[String],
        known: &BTreeSet<&[String]>,
    ) -> Option<Vec<String>> {
        let (mut base, mut rest) = (at.to_vec(), written);
        match written.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &written[1..]),
            "self" => rest = &written[1..],
            "super" => {}
            first => {
                let child: Vec<String> = at.iter().cloned().chain([first.to_owned()]).collect();
                match self.imports.get(first) {
                    _ if known.contains(&child[..]) => {}
                    Some(target) => (base, rest) = (target.clone(), &written[1..]),
                    None => return None,
                }
            }
        }
        while let Some("super") = rest.first().map(String::as_str) {
            base.pop()?;
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn defines(&self, name: &str) -> bool {
        let kinds =
            ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules", "mod"];
        let mut before = "";
        words(&self.body).any(|word| kinds.contains(&std::mem::replace(&mut before, word)) && word == name)
    }
}

/// The trees of all `use` items, with whether they are re-exports, and the code without them.
fn split_uses(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut body, mut rest) = (Vec::new(), String::new(), code);
    while let Some(start) = rest.find("use ") {
        let before = &rest[..start];
        let begins = before.trim_end().ends_with([';', '}', '{', ')', ']']) || before.trim().is_empty();
        let public = before.rfind([';', '}', '{', ']']).map_or(before, |at| &before[at + 1..]).trim();
        let is_public = public == "pub" || public.starts_with("pub(") && public.ends_with(')');
        let end = rest[start..].find(';').map(|end| start + end);
        match end
            .filter(|_| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && (begins || is_public))
        {
            Some(end) => {
                body.push_str(before);
                body.push(' ');
                uses.push((is_public, rest[start + 4..end].to_owned()));
                rest = &rest[end + 1..];
            }
            None => {
                body.push_str(&rest[..start + 4]);
                rest = &rest[start + 4..];
            }
        }
    }
    body.push_str(rest);
    (uses, body)
}

/// The code without `mod name;`.
fn without_declarations(code: &str) -> String {
    let is_declaration = |line: &&str| {
        let line = line.trim();
        line.ends_with(';') && words(line).any(|word| word == "mod") && !line.contains("::")
    };
    code.lines().filter(|line| !is_declaration(line)).collect::<Vec<_>>().join("\n")
}

/// The leaves of a `use` tree: each path and the name that it brings into scope.
fn expand(prefix: &[String], tree: &str, leaves: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim().trim_start_matches("::");
    let mut path = prefix.to_vec();
    if let Some(open) = tree.find('{') {
        let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        path.extend(words(&tree[..open]).map(str::to_owned));
        let (mut depth, mut item) = (0, String::new());
        for c in inside.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&path, &std::mem::take(&mut item), leaves);
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        if !item.trim().is_empty() {
            expand(&path, &item, leaves);
        }
        return;
    }
    let (written, alias) = match tree.split_once(" as ") {
        Some((written, alias)) => (written, Some(alias.trim().to_owned())),
        None => (tree, None),
    };
    path.extend(words(written).map(str::to_owned));
    if written.trim_end().ends_with('*') {
        leaves.push((path, "*".to_owned()));
        return;
    }
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let Some(name) = alias.or_else(|| path.last().cloned()) else { return };
    leaves.push((path, name));
}

/// All paths of two segments or more that stand in `code`, each once.
fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        let begins_inside = rest[..start].ends_with("::");
        let mut path = Vec::new();
        rest = &rest[start..];
        loop {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            path.push(rest[..end].to_owned());
            rest = &rest[end..];
            match rest.strip_prefix("::").filter(|after| after.starts_with(is_word)) {
                Some(after) => rest = after,
                None => break,
            }
        }
        if path.len() > 1 && !begins_inside {
            found.insert(path);
        }
    }
    found
}
