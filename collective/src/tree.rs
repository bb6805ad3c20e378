//! Sums as a balanced binary tree over an index: neighbours are added, then neighbouring pairs, and so on.
//!
//! A tree over eight items holds the trees over each four of them, so ranks that add their own share first, a power of two
//! of items each, give the bits of one process that adds all.

/// A sum of items that come one after the other, added as a balanced tree; at most log2(items) sums are kept.
///
/// ```
/// use ckd_collective::Tree;
///
/// let mut tree = Tree::new(|a: f32, b: f32| Ok::<_, ()>(a + b));
/// for item in [1.0e8, 1.0, -1.0e8, 1.0] {
///     tree.add(item)?;
/// }
/// assert_eq!(tree.sum()?, Some((1.0e8f32 + 1.0) + (-1.0e8 + 1.0)));
/// # Ok::<(), ()>(())
/// ```
#[derive(Debug)]
pub struct Tree<T, J> {
    join: J,
    /// Sums of complete subtrees with the logarithm of their sizes, the largest first.
    sums: Vec<(u32, T)>,
}

impl<T, E, J: FnMut(T, T) -> Result<T, E>> Tree<T, J> {
    /// A tree without items; `join` adds a later sum to an earlier one.
    pub fn new(join: J) -> Self {
        Self { join, sums: Vec::new() }
    }

    /// Adds the next item.
    ///
    /// # Errors
    /// Errors of the addition.
    pub fn add(&mut self, item: T) -> Result<(), E> {
        let (mut level, mut sum) = (0, item);
        while self.sums.last().is_some_and(|(last, _)| *last == level) {
            let (_, earlier) = self.sums.pop().expect("there is a last one");
            sum = (self.join)(earlier, sum)?;
            level += 1;
        }
        self.sums.push((level, sum));
        Ok(())
    }

    /// Sums of complete subtrees, the largest first. Each added to the next one's sum, from the last on, they are the sum of
    /// all items; so is one more item that is added before them.
    pub fn into_sums(self) -> Vec<T> {
        self.sums.into_iter().map(|(_, sum)| sum).collect()
    }

    /// The sum of all items; `None` without any.
    ///
    /// # Errors
    /// Errors of the addition.
    pub fn sum(mut self) -> Result<Option<T>, E> {
        let Some((_, mut sum)) = self.sums.pop() else { return Ok(None) };
        while let Some((_, earlier)) = self.sums.pop() {
            sum = (self.join)(earlier, sum)?;
        }
        Ok(Some(sum))
    }
}

/// Adds the vectors of `width` numbers that lie one after the other in `vectors`, as a tree, into the first.
pub fn add_vectors(vectors: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    let count = vectors.len() / width;
    let mut step = 1;
    while step < count {
        for first in (0..count - step).step_by(2 * step) {
            let (into, from) = vectors.split_at_mut((first + step) * width);
            let (into, from) = (&mut into[first * width..][..width], &from[..width]);
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        step *= 2;
    }
}
