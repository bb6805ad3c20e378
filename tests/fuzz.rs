//! Inputs that once failed, and some hundred changed ones for each reader: the crate in `fuzz` makes many more.

use ckd_fuzz::{Fault, Mutator, corpus, targets, trial};

#[test]
fn readers_survive_what_was_found_and_hundreds_of_changed_inputs() {
    for target in targets() {
        let folder = tempfile::tempdir().expect("a folder");
        let inputs = corpus(target);
        let mut mutator = Mutator::new(7);
        let changed: Vec<Vec<u8>> = (0..200).map(|_| mutator.next(&inputs)).collect();
        for (number, input) in inputs.iter().chain(&changed).enumerate() {
            // Time and memory are this process's, in which other tests run: the driver looks at them.
            if let Err(Fault::Panic(message)) = trial(target, folder.path(), input) {
                panic!("{target:?}, input {number} ({} bytes): {message}", input.len());
            }
        }
    }
}
