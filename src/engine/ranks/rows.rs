//! Rows of all parts of an update (`negatives_from = "update"`).
//!
//! Where each rank makes one part, the passes exchange rows under way. Where a rank makes several, one after the other, a first pass
//! over each part gives its rows, and the second ones find those of all. The rows are the same bits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_collective::Collective;

use super::packet::{Packet, Reader, garbled};
use crate::distill::{AllRows, Parts, PartsError};
use crate::engine::{EngineError, Result};

/// Rows of a part by name.
type Named = BTreeMap<String, Tensor>;

/// Collector of the rows of a part, in a pass that is made for them alone.
#[derive(Debug, Default)]
pub(in crate::engine) struct Collecting(RefCell<Named>);

impl Collecting {
    pub(in crate::engine) fn into_rows(self) -> Named {
        self.0.into_inner()
    }
}

impl Parts for Collecting {
    fn rows(&self, name: &str, own: &Tensor) -> std::result::Result<AllRows, PartsError> {
        self.0.borrow_mut().insert(name.to_owned(), own.clone());
        Ok(AllRows { parts: vec![own.clone()], own: 0 })
    }

    fn is_for_rows_alone(&self) -> bool {
        true
    }
}

/// Source of the rows of all parts of an update.
#[derive(Debug)]
pub(in crate::engine) enum Rows<'r> {
    /// The other ranks, each of which is in the pass of its one part.
    OfPasses(&'r dyn Collective),
    /// The rows of all parts, which are known.
    Known(Vec<Named>),
}

impl<'r> Rows<'r> {
    /// The rows of all parts of all ranks; `own` are those of this rank's parts.
    ///
    /// # Errors
    /// A rank that is late, or has rows of other names.
    pub(in crate::engine) fn known(ranks: &'r dyn Collective, own: Vec<Named>) -> Result<Self> {
        if ranks.is_alone() {
            return Ok(Self::Known(own));
        }
        let mut packet = Packet::default();
        for tensor in own.iter().flat_map(BTreeMap::values) {
            packet.tensor(tensor)?;
        }
        let model = own.first().cloned().unwrap_or_default();
        let mut all = Vec::new();
        for bytes in ranks.all_gather(packet.into_bytes())? {
            let mut reader = Reader::of(&bytes);
            while !reader.is_empty() {
                let read =
                    |(name, like): (&String, &Tensor)| Ok((name.clone(), reader.tensor(like.device())?));
                all.push(model.iter().map(read).collect::<Result<Named>>()?);
            }
        }
        Ok(Self::Known(all))
    }

    /// Access of the part of this number.
    pub(in crate::engine) fn of_part(&self, part: u64) -> OfPart<'_> {
        OfPart { rows: self, part: part as usize, lost: Cell::new(None) }
    }
}

/// Access of a part to the rows of all.
pub(in crate::engine) struct OfPart<'r> {
    rows: &'r Rows<'r>,
    part: usize,
    /// Error that a method cannot name.
    lost: Cell<Option<EngineError>>,
}

impl std::fmt::Debug for OfPart<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OfPart({} of {:?})", self.part, self.rows)
    }
}

impl OfPart<'_> {
    /// The result of a pass, or the error of the ranks that ended it.
    pub(in crate::engine) fn checked<V>(self, result: Result<V>) -> Result<V> {
        self.lost.into_inner().map_or(result, Err)
    }

    fn all(&self, name: &str, own: &Tensor) -> Result<Vec<Tensor>> {
        match self.rows {
            Rows::OfPasses(ranks) => {
                let mut packet = Packet::default();
                packet.tensor(own)?;
                let all = ranks.all_gather(packet.into_bytes())?;
                all.iter().map(|bytes| Reader::of(bytes).tensor(own.device())).collect()
            }
            Rows::Known(parts) => parts
                .iter()
                .map(|part| part.get(name).cloned().ok_or_else(|| garbled(&format!("no rows {name}"))))
                .collect(),
        }
    }
}

impl Parts for OfPart<'_> {
    fn rows(&self, name: &str, own: &Tensor) -> std::result::Result<AllRows, PartsError> {
        match self.all(name, own) {
            Ok(parts) => Ok(AllRows { parts, own: self.part }),
            Err(error) => {
                let reason = error.to_string();
                self.lost.set(Some(error));
                Err(PartsError::Lost { reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use ckd_collective::threads;

    use crate::distill::DistillError;

    use super::*;

    fn rows(part: u64) -> Tensor {
        Tensor::new(&[[part as f32, 0.5]], &Device::Cpu).unwrap()
    }

    fn first_column(rows: &Rows<'_>, part: u64) -> (Vec<f32>, usize) {
        let AllRows { parts, own } = rows.of_part(part).rows("x", &self::rows(part)).unwrap();
        (parts.iter().map(|rows| rows.to_vec2::<f32>().unwrap()[0][0]).collect(), own)
    }

    #[test]
    fn each_part_finds_the_rows_of_all_in_their_order() {
        let under_way = threads::run(3, |ranks| first_column(&Rows::OfPasses(ranks), ranks.rank() as u64));
        let known = threads::run(3, |ranks| {
            let own = 2 * ranks.rank() as u64;
            let collected = |part: u64| {
                let collecting = Collecting::default();
                assert!(collecting.is_for_rows_alone());
                assert_eq!(collecting.rows("x", &rows(part)).unwrap().parts.len(), 1);
                collecting.into_rows()
            };
            let rows = Rows::known(ranks, vec![collected(own), collected(own + 1)]).unwrap();
            [first_column(&rows, own), first_column(&rows, own + 1)]
        });
        for (rank, found) in under_way.into_iter().enumerate() {
            assert_eq!(found, (vec![0.0, 1.0, 2.0], rank));
        }
        for (part, found) in known.into_iter().flatten().enumerate() {
            assert_eq!(found, (vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], part));
        }
    }

    #[test]
    fn rows_that_another_part_lacks_are_an_error_of_the_ranks() {
        let known = Rows::Known(vec![Named::new()]);
        let part = known.of_part(0);
        let error = part.rows("x", &rows(0)).unwrap_err();
        let error = part.checked::<()>(Err(DistillError::from(error).into())).unwrap_err();
        assert!(matches!(&error, EngineError::Damaged(why) if why.contains("no rows x")), "{error}");
    }
}
