//! The data of a cohort.

use crate::engine::classify::LabelledSets;

/// Data of a cohort: what one of its networks would have on its own.
#[derive(Debug)]
pub struct CohortSets(pub(super) LabelledSets);
