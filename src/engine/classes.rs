//! Class lists that must agree: of the data's two splits, of teacher and data, of weights and data.

use crate::data::CategoryMap;
use crate::weights::card::{Category, categories_of};

/// Classes named in a message before it says how many more there are.
const NAMED: usize = 12;

/// Two parts of a run know different classes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} knows {ours}, but {other} has {theirs}; {difference}. Both must list the same classes under the same ids"
)]
pub struct ClassesDiffer {
    what: String,
    ours: String,
    other: String,
    theirs: String,
    difference: String,
}

/// Checks that `what` knows the classes of `other`, ids included.
///
/// # Errors
/// Shows both lists and the first difference.
pub fn check_same(
    (what, ours): (&str, &[Category]),
    (other, theirs): (&str, &CategoryMap),
) -> Result<(), Box<ClassesDiffer>> {
    let theirs = categories_of(theirs);
    if ours == theirs {
        return Ok(());
    }
    let at = ours.iter().zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count();
    let one = |list: &[Category]| match list.get(at) {
        Some(Category { id, name }) => format!("\"{name}\" (id {id})"),
        None => "none".to_owned(),
    };
    Err(Box::new(ClassesDiffer {
        what: what.to_owned(),
        ours: list(ours),
        other: other.to_owned(),
        theirs: list(&theirs),
        difference: format!("the first difference is class {}: {} and {}", at + 1, one(ours), one(&theirs)),
    }))
}

fn list(classes: &[Category]) -> String {
    let named: Vec<&str> = classes.iter().take(NAMED).map(|class| class.name.as_str()).collect();
    let dots = if classes.len() > NAMED { ", ..." } else { "" };
    format!("{} classes ({}{dots})", classes.len(), named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::CategoryId;

    fn map(names: &[(u64, &str)]) -> CategoryMap {
        CategoryMap::new(names.iter().map(|&(id, name)| (CategoryId(id), name.to_owned())).collect()).unwrap()
    }

    #[test]
    fn a_difference_far_down_the_list_is_named() {
        let many: Vec<(u64, String)> = (1..=80).map(|id| (id, format!("class {id}"))).collect();
        let named = |renamed: u64, to: &'static str| {
            let list: Vec<(u64, &str)> = many
                .iter()
                .map(|(id, name)| (*id, if *id == renamed { to } else { name.as_str() }))
                .collect();
            map(&list)
        };
        let ours = categories_of(&named(63, "couch"));
        assert_eq!(check_same(("a", &ours), ("b", &named(63, "couch"))), Ok(()));
        let message = check_same(("a.pth", &ours), ("b.json", &named(63, "sofa"))).unwrap_err().to_string();
        for part in [
            "a.pth knows 80 classes",
            "b.json has 80 classes",
            "class 63: \"couch\" (id 63) and \"sofa\" (id 63)",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn equal_names_under_other_ids_and_a_shorter_list_are_differences() {
        let ours = categories_of(&map(&[(1, "cat"), (3, "dog")]));
        let message =
            |theirs: &[(u64, &str)]| check_same(("a", &ours), ("b", &map(theirs))).unwrap_err().to_string();
        assert!(message(&[(1, "cat"), (2, "dog")]).contains("class 2: \"dog\" (id 3) and \"dog\" (id 2)"));
        assert!(message(&[(1, "cat")]).contains("class 2: \"dog\" (id 3) and none"));
    }
}
